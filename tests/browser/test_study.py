"""One study: the heatmap, predictions, groups, fidelity, files."""

from __future__ import annotations

import json
import re

from affinity_service import Study
from affinity_service.grouping import centre_rows
from tests.browser.expecting import expect

# The second row and the third column of a heatmap of 12 tasks.
DOWN, RIGHT = "ArrowDown", "ArrowRight"


def heatmap(page):
    canvas = page.get_by_role("application", name=re.compile("Affinity heatmap"))
    expect(canvas).to_be_visible()
    return canvas


def pixels(page):
    return page.locator("canvas.heatmap").evaluate("(canvas) => canvas.toDataURL()")


def settled(page):
    """Wait for the frame that the last change asked for."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_the_heatmap_is_read_and_zoomed_by_keyboard(visit, service):
    study = Study.open(service.root / "camps")
    page = visit("study/camps")
    canvas = heatmap(page)
    expect(canvas).to_have_attribute("aria-label", re.compile("12 tasks in 3 groups"))
    canvas.focus()
    settled(page)
    whole = pixels(page)
    for _ in range(4):
        page.keyboard.press("+")
    expect(canvas).to_have_class(re.compile("zoomed"))
    settled(page)
    assert pixels(page) != whole
    page.keyboard.press("0")
    expect(canvas).not_to_have_class(re.compile("zoomed"))
    settled(page)
    assert pixels(page) == whole
    for key in (RIGHT, DOWN, RIGHT):
        page.keyboard.press(key)
    order = [task for group in study.groups for task in group]
    receiver, source = order[1], order[2]
    row, column = study.tasks.index(receiver), study.tasks.index(source)
    contrast = centre_rows(study.affinity.affinity)[row, column]
    error = study.affinity.contrast_error()[row, column]
    shown = f"{contrast:+.4f} ± {error:.4f} nats".replace("-", "−")
    readout = page.locator(".readout")
    expect(readout).to_contain_text(shown)
    expect(readout).to_contain_text(f"mean over {study.affinity.subsets[row, column]} subset")
    expect(page.locator("#live")).to_contain_text(f"{receiver} from {source}: {shown}")
    page.keyboard.press("Enter")
    expect(page.get_by_label(receiver, exact=True)).to_be_checked()
    expect(page.get_by_label(source, exact=True)).to_be_checked()


def test_the_heatmap_is_zoomed_dragged_and_pointed_at_by_mouse(visit):
    page = visit("study/camps")
    canvas = heatmap(page)
    box = canvas.bounding_box()
    middle = box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"]
    page.mouse.move(*middle)
    expect(page.locator(".tip")).to_contain_text(re.compile(r"← .* ± .* nats", re.DOTALL))
    page.mouse.wheel(0, -300)
    expect(page.locator(".hint")).to_be_visible()
    expect(canvas).not_to_have_class(re.compile("zoomed"))
    page.mouse.click(*middle)
    page.mouse.move(*middle)
    page.mouse.wheel(0, -300)
    expect(canvas).to_have_class(re.compile("zoomed"))
    settled(page)
    before = pixels(page)
    page.mouse.down()
    page.mouse.move(middle[0] - 80, middle[1] - 60, steps=3)
    page.mouse.up()
    settled(page)
    assert pixels(page) != before
    page.get_by_role("button", name="Show all").click()
    expect(canvas).not_to_have_class(re.compile("zoomed"))
    # The name of the first row.
    page.mouse.click(box["x"] + 40, box["y"] + box["height"] * 0.24)
    expect(page.locator(".picked .chips li")).to_have_count(1)


def test_picked_tasks_change_the_predicted_losses(visit, service):
    study = Study.open(service.root / "camps")
    page = visit("study/camps")
    predictions = page.locator("table.predictions tbody tr")
    expect(page.locator("#predict .result")).to_contain_text("Pick tasks")
    page.get_by_label("river_1", exact=True).check()
    expect(predictions).to_have_count(1)
    page.get_by_label("Find tasks").fill("desert")
    page.get_by_label("desert_2", exact=True).check()
    expect(predictions).to_have_count(2)
    for row, (task, loss) in enumerate(study.predict(["river_1", "desert_2"])[["task", "predicted_loss"]].values):
        expect(predictions.nth(row)).to_contain_text(task)
        shown = predictions.nth(row).locator("td").first.inner_text().split(" ± ")[0]
        decimals = len(shown.partition(".")[2])
        assert shown == f"{loss:.{decimals}f}"
    page.get_by_role("button", name="Remove river_1").click()
    expect(predictions).to_have_count(1)
    expect(predictions).to_contain_text("desert_2")


def test_of_quick_changes_only_the_last_is_asked(visit):
    page = visit("study/camps")
    asked = []
    page.on("request", lambda request: request.url.endswith("/predict") and asked.append(request.post_data_json))
    expect(page.get_by_label("river_1", exact=True)).to_be_visible()
    page.locator("#task-list input").evaluate_all("(boxes) => boxes.slice(0, 4).forEach((box) => box.click())")
    expect(page.locator("table.predictions tbody tr")).to_have_count(4)
    assert asked == [{"tasks": ["river_1", "river_2", "river_3", "river_4"]}]


def test_a_task_finds_its_best_partners(visit, service):
    task, page = "river_1", visit("study/camps")
    answer = page.request.post(f"{service.address}v1/studies/camps/partners", data={"task": task, "size": 3}).json()
    best = [row["partner"] for row in answer["partners"]]
    assert best
    # By the pair that was clicked on the map, and by the table of predictions.
    heatmap(page).focus()
    page.keyboard.press(RIGHT)
    page.locator(".readout").get_by_role("button", name=f"Best partners of {task}").click()
    expect(page.locator(".partners table caption")).to_contain_text(f"Best partners of {task}")
    page.get_by_label(task, exact=True).check()
    page.locator("table.predictions").get_by_role("button", name=f"Best partners of {task}").click()
    table = page.locator(".partners table")
    expect(table.locator("tbody th")).to_have_text(best)
    page.get_by_role("button", name=f"Pick {task} and these").click()
    expect(page.locator("table.predictions tbody th")).to_have_text([task, *best])


def test_groups_follow_their_number_and_order_the_heatmap(visit, service):
    study = Study.open(service.root / "camps")
    page = visit("study/camps", permissions=["clipboard-read", "clipboard-write"])
    groups = page.locator(".group-list > li")
    expect(groups).to_have_count(3)
    expect(page.locator("#groups")).to_contain_text("As the study stored them")
    settled(page)
    before = pixels(page)
    page.get_by_label("Number of groups").fill("4")
    expect(groups).to_have_count(4)
    found = study.group(4, "sdp")
    expect(page.locator("#groups .facts-list")).to_contain_text(f"{found.bound:.5f}")
    expect(heatmap(page)).to_have_attribute("aria-label", re.compile("in 4 groups"))
    settled(page)
    assert pixels(page) != before
    page.get_by_label("Method").select_option("random")
    expect(page.locator("#groups .facts-list")).to_contain_text("4 by random")
    page.get_by_role("button", name="Copy as JSON").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied["groups"] == study.group(4, "random").tasks
    page.get_by_role("button", name="Show the study's own").click()
    expect(groups).to_have_count(3)


def test_fidelity_stands_beside_the_numbers(visit):
    page = visit("study/camps")
    rows = page.locator("table.fidelity tbody tr")
    expect(rows.nth(0)).to_contain_text("This estimate")
    # Its reliability is 0.81, from 0.7225 to 0.9025.
    expect(rows.filter(has_text="Ceiling √ρ")).to_contain_text("0.90")
    expect(rows.filter(has_text="Ceiling √ρ")).to_contain_text("0.85 … 0.95")
    expect(rows.filter(has_text="Row mean")).to_contain_text("–")
    expect(page.locator("table.fidelity caption")).to_contain_text("30 subsets fine-tuned with 3 seeds")
    page.get_by_label("True losses").select_option("epoch_2")
    expect(rows.filter(has_text="Published recipe")).to_be_visible()
    page = visit("study/large")
    expect(page.locator("#fidelity")).to_contain_text("Not validated yet: affinity validate large")


def test_files_of_the_study_are_linked(visit):
    page = visit("study/camps")
    files = page.get_by_role("navigation", name="Files of the study")
    for name, kind in {
        "Report": "text/html",
        "Affinity (CSV)": "text/csv",
        "Groups (JSON)": "application/json",
        "Affinity (Arrow)": "arrow",
        "Config (YAML)": "yaml",
    }.items():
        answer = page.request.get(files.get_by_role("link", name=name).evaluate("(link) => link.href"))
        assert answer.ok
        assert kind in answer.headers["content-type"]
    files.get_by_text("Models").click()
    expect(files.get_by_role("link", name=re.compile("group_0"))).to_be_visible()


def test_five_hundred_tasks_stay_quick(visit):
    page = visit("study/large")
    canvas = heatmap(page)
    page.evaluate(
        """() => {
            window.frames_ms = [];
            new PerformanceObserver((list) => frames_ms.push(...list.getEntries().map((entry) => entry.duration)))
                .observe({entryTypes: ["measure"]});
        }"""
    )
    canvas.focus()
    for key in ["+"] * 9 + ["0", "+", "+"]:
        page.keyboard.press(key)
        settled(page)
    frames = sorted(page.evaluate("frames_ms"))
    assert len(frames) >= 10
    # A quarter of the 16 ms of a frame on a quiet machine; the median leaves out what a busy one adds.
    assert frames[len(frames) // 2] < 50
    page.get_by_label("Go to task").fill("task_123")
    expect(page.locator(".readout")).to_contain_text("task_123")
    page.get_by_text("The strongest pairs as a table").click()
    expect(page.locator(".pairs table tbody tr")).to_have_count(20)
    page.get_by_label("Find tasks").fill("task_49")
    expect(page.locator("#task-list li")).to_have_count(10)
