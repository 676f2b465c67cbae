"""The HTML page: whole, self-contained, inert, and readable in light and in dark."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.browser import Scheme, opened

EVIL = "<script>alert(1)</script> <b>x</b> &amp;"


@pytest.fixture(scope="module")
def lens(tiny_text_model: Any) -> Any:
    """A lens over a prompt that would like to be a script."""
    from mechprobe import logit_lens

    return logit_lens(tiny_text_model, [EVIL], positions=None, targets=["<"], top_k=3, progress=False)


@pytest.fixture(scope="module")
def near(tiny_text_model: Any) -> Any:
    """Neighbours of a token."""
    from mechprobe import vocabulary_neighbors

    return vocabulary_neighbors(tiny_text_model, "<", k=4)


@pytest.fixture
def written(tmp_path: Path, lens: Any, near: Any) -> Path:
    """A report of a result in memory and of a saved one."""
    from mechprobe import write_report

    return write_report([lens, near.save(tmp_path / "near.nc")], tmp_path / "r.html", title=EVIL)


def test_a_report_holds_every_result(written: Path) -> None:
    text = written.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == re.findall(r'<a href="#section-\d">(.*?)</a>', text)
    assert text.count('<div class="figure"') == 6
    assert text.count("plotly.js v") == 1
    assert text.count("<table") == 2
    assert text.count("<summary>Provenance</summary>") == 2
    assert "nostalgebraist2020logitlens" in text
    assert "<title>&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text


def test_one_result_needs_no_list(tmp_path: Path, near: Any) -> None:
    from mechprobe import write_report

    saved = near.save(tmp_path / "near.nc")
    pages = [
        write_report(given, tmp_path / f"{i}.html").read_text()
        for i, given in enumerate([near, saved, str(saved), [near]])
    ]
    assert len(set(pages)) == 1
    assert "<nav" not in pages[0]


def test_a_table_keeps_long_and_hostile_cells_whole() -> None:
    from mechprobe.results.html import Section, page

    long = "y" * 200
    text = page("t", [Section("s", table=pd.DataFrame({"<i>": ["<b>", long]}))])
    assert "<td>&lt;b&gt;</td>" in text
    assert f"<td>{long}</td>" in text
    assert "<th>&lt;i&gt;</th>" in text


def test_provenance_and_citation_are_escaped() -> None:
    from mechprobe.results.html import Section, page

    text = page("t", [Section("s", provenance='{"a": "</pre><img>"}', citation="<br>@misc")])
    assert "&lt;/pre&gt;&lt;img&gt;" in text
    assert "&lt;br&gt;@misc" in text


def test_of_many_prompts_the_first_are_drawn_and_it_says_so(tiny_text_model: Any) -> None:
    from mechprobe import logit_lens

    result = logit_lens(tiny_text_model, list("abcdef"), progress=False)
    section = result.section()
    assert len(section.figures) == 4 * 3
    assert section.note == "Figures of prompts 1 to 4 of 6; the table is of prompt 1."


def test_a_page_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, near: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe import write_report

    with pytest.raises(OSError, match=r"could not write .*no/r.html.*nothing was left behind"):
        write_report(near, tmp_path / "no" / "r.html")
    with pytest.raises(OSError, match="could not write"):
        write_report(near, tmp_path)
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*"))
    before = tmp_path / "r.html"
    before.write_text("as it was")

    def full(self: Path, target: Path) -> Path:
        msg = f"no space left for {self.suffix and target}"
        raise OSError(msg)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=r"could not write .*no space left"):
        write_report(near, before)
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    assert before.read_text() == "as it was"


def test_nothing_to_report_is_refused(tmp_path: Path) -> None:
    from mechprobe import write_report

    with pytest.raises(ValueError, match="nothing to report: found no result"):
        write_report([], tmp_path / "r.html")


def test_what_is_no_result_is_refused_before_anything_is_written(tmp_path: Path, near: Any) -> None:
    from mechprobe import write_report

    # Under test a typing hook looks at one random item of the list and may object first.
    unchecked: Any = inspect.unwrap(write_report)
    with pytest.raises(TypeError, match="paths of saved results; found int"):
        unchecked([near, 3], tmp_path / "r.html")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        write_report([near, tmp_path / "gone.nc"], tmp_path / "r.html")
    (tmp_path / "x.nc").write_text("x")
    with pytest.raises(ValueError, match="not a result saved by mechprobe"):
        write_report(tmp_path / "x.nc", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_alone_and_clean(written: Path, scheme: Scheme, lens: Any) -> None:
    with opened(written, scheme) as seen:
        page = seen.page
        assert seen.requests == [written.as_uri()]
        assert seen.errors == []
        assert seen.dialogs == []
        cells = page.evaluate("document.querySelectorAll('.js-plotly-plot')[0].data[0].text")
        drawn = page.locator(".figure").first.locator(".heatmaplayer text").all_text_contents()
        ink = page.evaluate("getComputedStyle(document.querySelector('.figure .gtitle')).fill")
        subtitle = page.locator(".figure .gtitle-subtitle").first.text_content()
        heading, scripts = page.locator("h1").text_content(), page.locator("section script")
        kinds = {scripts.nth(i).get_attribute("type") for i in range(scripts.count())}
    best = lens.data["top_text"].values[0, :, :, 0]
    assert (len(cells[0]), len(cells)) == best.shape
    assert sorted(drawn) == sorted(_decoded(text) for row in cells for text in row)
    assert heading == EVIL
    assert subtitle is not None
    assert subtitle.endswith(EVIL)
    assert kinds == {"application/json"}
    assert (int(re.findall(r"\d+", ink)[0]) > 128) == (scheme == "dark")


def _decoded(text: str) -> str:
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&#36;", "$"), ("&amp;", "&")):
        text = text.replace(entity, char)
    return text


@pytest.mark.browser
def test_figures_follow_a_change_of_scheme(written: Path) -> None:
    fill = "getComputedStyle(document.querySelector('.figure .gtitle')).fill"
    with opened(written, "light") as seen:
        before = seen.page.evaluate(fill)
        seen.page.emulate_media(color_scheme="dark")
        seen.page.wait_for_function(f"(before) => {fill} !== before", arg=before)
        assert seen.page.evaluate(fill) != before


@pytest.mark.browser
def test_hover_shows_hostile_text_as_text(written: Path) -> None:
    with opened(written) as seen:
        # Column 0 of the top row: the token read there is "<".
        box = seen.page.locator(".figure").first.locator(".heatmaplayer image").bounding_box()
        assert box is not None
        seen.page.mouse.move(box["x"] + 20, box["y"] + 10)
        seen.page.wait_for_selector(".hovertext")
        hover = seen.page.locator(".hovertext").first.text_content()
    assert hover is not None
    assert "position 0, read <" in hover


@pytest.mark.browser
def test_a_script_that_got_in_would_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, near: Any
) -> None:
    from mechprobe.results import html

    plain: Callable[[str], str] = str
    monkeypatch.setattr(html, "escape", plain)
    path = html.write_page(tmp_path / "r.html", EVIL + "<img src=https://example.org/x>", [near.section()])
    with opened(path) as seen:
        assert seen.dialogs == []
        assert seen.blocked == {"https://example.org/x": "csp"}
        assert any("Content Security Policy" in error for error in seen.errors)


@pytest.mark.browser
@pytest.mark.model
def test_a_real_model_on_a_page(tmp_path: Path, smollm2: Any) -> None:
    from mechprobe import logit_lens, write_report

    result = logit_lens(
        smollm2, "The capital of France is", positions=None, targets=[" Paris"], progress=False
    )
    path = write_report(result, tmp_path / "r.html")
    with opened(path) as seen:
        cells = seen.page.evaluate("document.querySelectorAll('.js-plotly-plot')[0].data[0].text")
        assert seen.errors == []
    assert cells[-1][-1] == "␣Paris"
