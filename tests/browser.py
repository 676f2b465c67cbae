"""A file in headless Chromium, and everything it asked for or complained about."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import ConsoleMessage, Dialog, Error, Page, Request, sync_playwright

Scheme = Literal["light", "dark"]


@dataclass(frozen=True)
class Opened:
    """An open page.

    Attributes:
        page: Playwright's page, loaded.
        requests: Addresses that were asked for, the file's own among them.
        blocked: Those of them that did not leave the page, and why.
        errors: Page errors, console errors and warnings.
        dialogs: Texts of alerts, which only a script that should not run would raise.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    blocked: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


@contextmanager
def opened(path: Path, scheme: Scheme = "light") -> Iterator[Opened]:
    """Open a file in Chromium; skips where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        seen = Opened(page)

        def console(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                seen.errors.append(message.text)

        def failed(error: Error) -> None:
            seen.errors.append(str(error))

        def asked(request: Request) -> None:
            seen.requests.append(request.url)

        def refused(request: Request) -> None:
            seen.blocked[request.url] = str(request.failure)

        def alerted(dialog: Dialog) -> None:
            seen.dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("console", console)
        page.on("pageerror", failed)
        page.on("request", asked)
        page.on("requestfailed", refused)
        page.on("dialog", alerted)
        page.goto(path.resolve().as_uri())
        # Figures are drawn by promises; each has its drawing area when it is done.
        page.wait_for_function(
            "() => [...document.querySelectorAll('.figure')].every((box) => box.querySelector('.main-svg'))"
        )
        page.wait_for_timeout(300)
        yield seen
        browser.close()
