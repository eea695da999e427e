"""A headless Chromium for tests of pages: playwright drives the one that is installed, and downloads none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@dataclass
class OpenPage:
    """A page in the browser.

    Attributes:
        page: playwright's.
        complaints: errors and warnings of its console, uncaught exceptions, and requests that left the file.
    """

    page: object
    complaints: list[str] = field(default_factory=list)


def chromium() -> str:
    """Path of an installed Chromium; skips the test where there is none."""
    named = os.environ.get("FCAS_TEST_CHROMIUM")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here: install one (`apt-get install chromium`), or name it in FCAS_TEST_CHROMIUM")
    return found


@contextmanager
def opened(
    path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, javascript: bool = True
) -> Iterator[OpenPage]:
    """Open an HTML file as a user does, from file://."""
    executable = chromium()
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=javascript,
            accept_downloads=True,
            offline=True,
        )
        page = context.new_page()
        shown = OpenPage(page)
        page.on("console", lambda m: shown.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: shown.complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:"))
                else shown.complaints.append(f"asked for {r.url}"))  # fmt: skip
        page.goto(path.resolve().as_uri())
        yield shown
        browser.close()
