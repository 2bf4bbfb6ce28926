"""The picture of the web page in the README: `python -m tests.browser.picture studies/yeast .github/service.png`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from tests.browser.serving import SaidToRun, serving

WIDTH, HEIGHT = 1360, 1720


def draw(study: Path, target: Path, tasks: list[str]) -> None:
    """Show a finished study with some tasks picked, and keep what fits the window, in a palette."""
    with serving(study.parent, SaidToRun()) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.25)
        page.goto(f"{address}#/study/{study.name}")
        for task in tasks:
            page.get_by_label(task, exact=True).check(timeout=60_000)
        expect(page.locator("table.predictions tbody tr")).to_have_count(len(tasks), timeout=60_000)
        expect(page.locator(".group-list > li").first).to_be_visible()
        # The focus ring belongs to whoever is there.
        page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
        page.wait_for_timeout(500)
        page.screenshot(path=target)
        browser.close()
    with Image.open(target) as picture:
        small = picture.convert("RGB").quantize(256, kmeans=4, dither=Image.Dither.NONE)
    small.save(target, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--tasks", default="label_6,label_7,label_8")
    given = parser.parse_args()
    draw(given.study.absolute(), given.target, given.tasks.split(","))
