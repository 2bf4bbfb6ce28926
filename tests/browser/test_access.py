"""Whether everyone can use the page: names, focus, contrast, structure, small and large windows."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from tests.browser.expecting import expect

VIEWS = ("", "study/camps", "study/running")
CONTROLS = {
    "button",
    "link",
    "textbox",
    "searchbox",
    "checkbox",
    "combobox",
    "spinbutton",
    "application",
    "radio",
    "slider",
}

# Contrast of every visible text with what lies behind it (WCAG 2.2, 1.4.3); texts of disabled controls are exempt.
CONTRAST = """
() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const box = element.getBoundingClientRect();
    if (!own || box.width < 2 || box.height < 2 || element.disabled || element.closest("option, datalist")) continue;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const [a, b] = [light(parse(style.color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const words = `${element.tagName} ${element.className} "${element.textContent.trim().slice(0, 40)}"`;
    if (ratio < (large ? 3 : 4.5)) poor.push(`${ratio.toFixed(2)} ${words}`);
  }
  return poor;
}
"""
# What Tab can reach, in the order of the document; of radio buttons one, and nothing that is hidden.
REACHABLE = """
() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
  .filter((e) => !e.disabled && e.tabIndex >= 0 && !e.closest("dialog:not([open])"))
  .filter((e) => e.checkVisibility({visibilityProperty: true}))
  .map((e, number) => (e.dataset.number = number))
"""
# Answers that come late draw parts of the page anew, and what had the focus is gone.
SETTLED = """() => new Promise(done => {
    let timer = setTimeout(done, 700);
    const again = () => { clearTimeout(timer); timer = setTimeout(done, 700); };
    new MutationObserver(again).observe(document.body, {childList: true, subtree: true});
    setTimeout(done, 10000);
})"""
FOCUSED = """
() => {
  const style = getComputedStyle(document.activeElement);
  const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  return [document.activeElement.dataset.number ?? null, seen];
}
"""


def ready(page, view):
    """Wait until the view shows what it is about."""
    if view == "study/camps":
        expect(page.locator(".group-list > li")).to_have_count(3)
        expect(page.locator("table.fidelity")).to_be_visible()
        page.get_by_label("river_1", exact=True).check()
        page.get_by_label("river_2", exact=True).check()
        expect(page.locator("table.predictions tbody tr")).to_have_count(2)
        for summary in page.locator("main summary").all():
            summary.click()
    elif view == "study/running":
        expect(page.locator("#progress .log")).to_be_visible()
    else:
        expect(page.get_by_role("link", name="camps")).to_be_visible()


@pytest.mark.parametrize("view", VIEWS)
def test_every_control_has_a_name_and_the_page_a_structure(visit, view):
    page = visit(view)
    ready(page, view)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    nodes = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    controls = [(role, name) for role, name in nodes if role in CONTROLS]
    assert len(controls) > 5
    assert [role for role, name in controls if not name.strip()] == []
    roles = [role for role, _ in nodes]
    assert [roles.count(role) for role in ("main", "banner", "contentinfo")] == [1, 1, 1]
    assert all(name for role, name in nodes if role in ("navigation", "region", "dialog", "progressbar"))
    levels = page.locator("h1, h2, h3, h4").evaluate_all("(all) => all.map((heading) => Number(heading.tagName[1]))")
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = page.locator("[id]").evaluate_all("(all) => all.map((element) => element.id)")
    assert len(ids) == len(set(ids))
    assert page.locator("html").get_attribute("lang") == "en"


def walked(page, view) -> tuple[list[int], list[int]]:
    """The controls that Tab comes to, until the page is drawn anew and nothing has the focus, and all there are."""
    page.evaluate(SETTLED)
    page.locator(".skip").focus()
    for key in ("Tab", "Shift+Tab"):  # from now on the browser takes the reader for one with a keyboard
        page.keyboard.press(key)
    wanted, found = page.evaluate(REACHABLE), []
    for _ in range(len(wanted)):
        number, seen = page.evaluate(FOCUSED)
        if number is None:
            break
        assert seen, f"no outline on control {number} of {view}"
        found.append(int(number))
        page.keyboard.press("Tab")
    return found, wanted


@pytest.mark.parametrize("view", VIEWS)
def test_tab_reaches_everything_in_order_and_is_seen(visit, view):
    page = visit(view)
    ready(page, view)
    for _ in range(3):
        found, wanted = walked(page, view)
        if found == wanted:
            break
    assert found == wanted


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_texts_have_contrast(visit, view, scheme):
    page = visit(view, color_scheme=scheme)
    ready(page, view)
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_fits_small_and_large_windows(visit, width, tmp_path_factory):
    screens = tmp_path_factory.mktemp("screens")
    for view in VIEWS:
        page = visit(view, width=width, color_scheme="dark" if width == 360 else "light")
        ready(page, view)
        page.screenshot(path=screens / f"{view.replace('/', '-') or 'list'}-{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    assert len(list(screens.iterdir())) == len(VIEWS)


def test_a_click_skips_to_the_content_and_motion_can_be_reduced(visit):
    page = visit("study/running", reduced_motion="reduce")
    ready(page, "study/running")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    moving = page.evaluate("document.getAnimations().filter((motion) => motion.playState === 'running').length")
    assert moving == 0


def test_the_policy_forbids_what_is_inline_or_from_elsewhere(visit, service, opened):
    page = visit()
    ready(page, "")
    policy = page.request.get(service.address).headers["content-security-policy"]
    assert re.search(r"(default|script)-src '(self|none)'", policy)
    assert "unsafe" not in policy
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    ready(page, "")
    assert all(url.startswith(service.address) for url in asked)
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "var stolen = 1";
            document.head.append(script);
        }"""
    )
    assert page.evaluate("typeof stolen") == "undefined"
    opened.expected.append("script-src")
