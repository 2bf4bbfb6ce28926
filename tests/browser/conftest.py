"""A real browser on the web page of a real service."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.browser.serving import SaidToRun, serving
from tests.browser.studies import write_large_study, write_running_study, write_small_study

CHROMIUM = shutil.which("chromium")
# As for the assertions in expecting.py.
PATIENCE_MS = 20_000
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.fixture(scope="session", autouse=True)
def _browser_at_hand() -> None:
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine (Debian: apt-get install chromium)")


@dataclass
class Served:
    address: str
    root: Path
    runner: SaidToRun


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory, _browser_at_hand: None) -> Path:
    """A root with a small study, one of 500 tasks and one that runs."""
    root = tmp_path_factory.mktemp("studies")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        write_small_study(root, "camps", validated=True)
    finally:
        torch.set_num_threads(threads)
    write_large_study(root, "large")
    write_running_study(root, "running", "running-1")
    return root


@pytest.fixture(scope="session")
def service(studies: Path) -> Iterator[Served]:
    runner = SaidToRun()
    runner.jobs["running-1"] = "RUNNING"
    with serving(studies, runner) as address:
        yield Served(address, studies, runner)


@pytest.fixture(scope="module")
def browser(_browser_at_hand: None) -> Iterator[Any]:
    # Of a module, not of the session: as long as it is open no other test could start an event loop.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """Pages of one test; what they complained of, and which complaints the test expects."""

    complaints: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)


@pytest.fixture
def opened() -> Iterator[Opened]:
    found = Opened()
    yield found
    assert [c for c in found.complaints if not any(words in c for words in found.expected)] == []


@pytest.fixture
def visit(browser: Any, service: Served, opened: Opened) -> Iterator[Callable[..., Any]]:
    """Opens a view, such as `study/camps`, of a window of its own; fails the test where the page complains."""
    contexts = []

    def visit(view: str = "", width: int = 1280, height: int = 900, address: str | None = None, **wishes: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **wishes)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.add_init_script(REPORT_VIOLATIONS)
        page.on("console", lambda said: said.type in ("error", "warning") and opened.complaints.append(said.text))
        page.on("pageerror", lambda error: opened.complaints.append(f"error: {error}"))
        page.goto(f"{address or service.address}#/{view}")
        return page

    yield visit
    for context in contexts:
        context.close()
