"""A headless Chromium for the tests of pages: what it complains of fails the test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 15_000
GUIDELINES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")  # a process can have one playwright at a time, and other modules start their own
def chromium() -> Iterator[Any]:
    """A browser; skips where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A new page. Errors and warnings in its console fail the test, but for those that `page.expected` begins with."""
    context = chromium.new_context()
    new = context.new_page()
    new.set_default_timeout(PATIENCE_MS)
    new.expected = ()
    complaints: list[str] = []
    new.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    new.on("pageerror", lambda error: complaints.append(str(error)))
    yield new
    context.close()
    unexpected = [text for text in complaints if not text.startswith(tuple(new.expected))]
    assert not unexpected, f"the console says: {unexpected}"


def axe_violations(page: Any) -> list[str]:
    """What the accessibility linter axe-core finds on a page: rule, what it says, and where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"runOnly": GUIDELINES}).response["violations"]
    return [f"{v['id']}: {v['help']}: {[node['target'] for node in v['nodes']][:5]}" for v in found]
