"""Results as one HTML file that needs nothing else: no server, no network, no package."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mechprobe.files import write_whole

_CSS = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1f2328; --faint: #59636e;
  --line: #d1d9e0; --soft: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --page: #14171c; --ink: #e6e8eb; --faint: #9aa4af;
  --line: #3a424c; --soft: #1d2229; } }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem; padding-top: 1rem;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
nav { background: var(--soft); border: 1px solid var(--line); border-radius: 6px;
  padding: .6rem 1rem; overflow-wrap: anywhere; }
nav ol { margin: 0; padding-left: 1.4rem; }
a { color: inherit; }
.note { color: var(--faint); margin: .25rem 0 1rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: pre; }
thead th { background: var(--soft); }
tbody th { font-weight: 600; color: var(--faint); }
td, th { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--faint); }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .75rem;
  overflow-x: auto; font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere; }
"""

# Reads each figure from the data block before its box, draws it, and repaints when the page turns
# from light to dark. Only ink and grid follow the scheme; backgrounds are transparent.
_SCRIPT = """
(() => {
  const config = CONFIG;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const boxes = [...document.querySelectorAll(".figure")];
  const paint = (layout) => {
    const ink = dark.matches ? "#d6dae0" : "#24292f";
    const grid = dark.matches ? "rgba(255,255,255,0.13)" : "rgba(0,0,0,0.1)";
    const patch = {"font.color": ink};
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis[0-9]*$/.test(key))) {
      for (const part of ["gridcolor", "linecolor", "tickcolor"]) patch[name + "." + part] = grid;
    }
    return patch;
  };
  for (const box of boxes) {
    const spec = JSON.parse(box.previousElementSibling.textContent);
    Plotly.newPlot(box, spec.data, spec.layout, config)
      .then(() => Plotly.relayout(box, paint(box.layout)));
  }
  dark.addEventListener("change", () => {
    for (const box of boxes) Plotly.relayout(box, paint(box.layout));
  });
})();
"""
_CONFIG = {"showSendToCloud": False, "displaylogo": False, "responsive": True}


@dataclass(frozen=True)
class Section:
    """One result on a page.

    Attributes:
        title: Its heading, plain text.
        figures: Drawn one below the other.
        table: Shown below them.
        provenance: The record of what made the numbers, JSON.
        citation: BibTeX.
        note: A sentence under the heading, plain text.
    """

    title: str
    figures: list[go.Figure] = field(default_factory=list)
    table: pd.DataFrame | None = None
    provenance: str = "{}"
    citation: str = ""
    note: str = ""


def page(title: str, sections: Sequence[Section]) -> str:
    """Return a self-contained HTML page.

    Args:
        title: Title of the page, plain text.
        sections: What it shows; with two or more there is a table of contents.

    Returns:
        The page. plotly.js is in it once; a content security policy forbids every connection and
        every script but the two it names by their digests.
    """
    library = _library()
    script = _SCRIPT.replace("CONFIG", json.dumps(_CONFIG))
    allowed = " ".join(_digest(text) for text in (library, script))
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>",
        f"<script>{library}</script>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>",
        _contents(sections) if len(sections) > 1 else "",
        *[_section(i, section) for i, section in enumerate(sections, 1)],
        f"</main>\n<script>{script}</script>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


@cache
def _library() -> str:
    # The digest is taken over what the browser's parser hands to the script engine.
    return str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _contents(sections: Sequence[Section]) -> str:
    items = "\n".join(
        f'<li><a href="#section-{i}">{escape(section.title)}</a></li>'
        for i, section in enumerate(sections, 1)
    )
    return f'<nav aria-label="Contents">\n<ol>\n{items}\n</ol>\n</nav>'


def _section(number: int, section: Section) -> str:
    parts = [f'<section id="section-{number}">\n<h2>{escape(section.title)}</h2>']
    if section.note:
        parts.append(f'<p class="note">{escape(section.note)}</p>')
    parts += [_figure(figure) for figure in section.figures]
    if section.table is not None:
        parts.append(_table(section.table))
    record = escape(_indented(section.provenance))
    parts.append(f"<details><summary>Provenance</summary><pre>{record}</pre></details>")
    if section.citation:
        cite = escape(section.citation)
        parts.append(f"<details><summary>Citation</summary><pre>{cite}</pre></details>")
    return "\n".join([*parts, "</section>"])


def _figure(figure: go.Figure) -> str:
    # In a data block nothing but "<" can end the block or open a comment.
    spec = str(figure.to_json()).replace("<", "\\u003c")
    layout: Any = figure.layout
    name = escape(str(layout.title.text or "figure"))
    return (
        f'<div class="wide"><script type="application/json">{spec}</script>'
        f'<div class="figure" role="img" aria-label="{name}"></div></div>'
    )


def _table(table: pd.DataFrame) -> str:
    with pd.option_context("display.max_colwidth", None):
        return f'<div class="wide">{table.to_html(escape=True, border=0)}</div>'


def _indented(record: str) -> str:
    return json.dumps(json.loads(record), indent=2, sort_keys=True, ensure_ascii=False)


def write_page(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Write sections as one HTML file; it appears whole or not at all.

    Args:
        path: Where to; ``.html`` is customary.
        title: Title of the page.
        sections: What to show, in this order.

    Returns:
        The path.

    Raises:
        OSError: The file cannot be written (no such folder, no room); a file that was there before
            is left as it was.
    """
    text = page(title, sections)
    return write_whole(path, text.encode())
