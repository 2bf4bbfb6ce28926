"""A page of 500 tasks in 30 groups stays light, opens with what is telling, and still names every task."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pytest

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.report import page as pages
from affinity_service.report import write_report
from affinity_service.report.contents import read_contents
from affinity_service.report.folding import ENDS, NAMES, ends, thinnest
from affinity_service.report.group_labels import spread
from affinity_service.report.heatmap import draw_heatmap
from affinity_service.report.training_figures import known_mean
from tests.unit.report.conftest import write_study
from tests.unit.report.test_report import section, text_of

TASKS = [f"community {index}" for index in range(500)]
K = 30


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, str]:
    folder = write_study(tmp_path_factory.mktemp("many"), names=TASKS, k=K, seeds=2)
    left_out = [{"name": f"rare {index}", "reason": "no positives"} for index in range(80)]
    folder.write_json("suite.json", {**folder.read_json("suite.json"), "left_out": left_out})
    write_report(folder)
    return folder, folder.read_bytes("report/index.html").decode()


def unfolded(page: str) -> str:
    """What stands open when the page is opened; of a fold that is its summary."""
    open_, kept = page, ""
    while open_ != kept:
        kept = open_
        open_ = re.sub(r"<details[^>]*>\s*(<summary>(?:(?!<details).)*?</summary>)(?:(?!<details).)*?</details>",
                       lambda found: found[0] if found[0].startswith("<details open") else found[1], kept,
                       flags=re.DOTALL)  # fmt: skip
        open_ = re.sub(r"<details open>((?:(?!<details).)*?)</details>", r"\1", open_, flags=re.DOTALL)
    return open_


def names_in(html: str) -> set[str]:
    return set(re.findall(r"community \d+", html))


def test_the_page_is_light(many: tuple[StudyFolder, str]) -> None:
    page = many[1]
    assert len(page) < 2_000_000
    assert page.count("<tr") < 2_000
    assert len(re.findall(r"<text", page)) < 400
    assert len(re.findall(r"<\w", page)) < 30_000
    for key, bound in {"groups": 100_000, "heatmap": 800_000, "pairs": 20_000, "data": 250_000}.items():
        assert len(section(page, key)) < bound, key


def test_what_stands_open_can_be_read(many: tuple[StudyFolder, str]) -> None:
    page = unfolded(many[1])
    rows = {key: section(page, key).count("<tr") for key in ("groups", "pairs", "outcomes", "data")}
    # Two rows per group; heads; both ends of the lists.
    assert rows == {"groups": 2 + 2 * K, "pairs": 22, "outcomes": 2 + 2 * ENDS, "data": 1 + ENDS}
    assert len(text_of("<body" + section(page, "groups"))) < 12_000
    assert len(names_in(section(page, "groups"))) == K * NAMES
    assert section(page, "data").count("<li") == ENDS
    assert "480 tasks between" in page


def test_every_task_is_reachable_in_every_list(many: tuple[StudyFolder, str]) -> None:
    page = many[1]
    for key in ("groups", "outcomes", "data"):
        assert names_in(section(page, key)) == set(TASKS), key
    assert section(page, "data").count("rare ") == 80
    assert "affinity/matrix.parquet" in section(page, "pairs")


def test_every_group_is_numbered_on_the_heatmaps_and_no_task_is_named(many: tuple[StudyFolder, str]) -> None:
    maps = section(many[1], "heatmap")
    numbers = re.findall(r"<text[^>]*>(\d+)</text>", maps)
    # Above and beside each of the two maps.
    assert sorted(numbers, key=int) == [str(k) for k in range(1, K + 1) for _ in range(4)]
    assert not names_in(maps)
    assert "their table" in maps


def test_sixty_tasks_stand_open(tmp_path) -> None:
    folder = write_study(tmp_path, names=TASKS[:60], k=4, seeds=2)
    write_report(folder)
    page = folder.read_bytes("report/index.html").decode()
    assert len(names_in(section(unfolded(page), "groups"))) == 60
    assert len(names_in(section(unfolded(page), "outcomes"))) == 60
    assert "between, folded" not in page


def test_a_few_outliers_do_not_wash_out_the_groups() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(500) * K // 500
    values = np.where(group[:, None] == group, 0.02, -0.004) + 0.003 * rng.normal(size=(500, 500))
    values[3] *= 100  # one task whose losses are of another size
    found = draw_heatmap(values, TASKS, np.bincount(group).tolist(), "", "", "")
    assert 499 < found.clipped <= 0.005 * 500 * 499 + 1
    # Small groups are not taken for outliers: without that task the whole scale is theirs.
    found = draw_heatmap(np.delete(values, 3, axis=0)[:, 1:], TASKS[1:], [], "", "", "")
    assert found.clipped == 0


@pytest.mark.parametrize("places", [[1.0, 1.0, 1.0, 50.0], [0.0, 2.0, 99.0, 100.0], [20.0, 40.0, 60.0], [], [3.0]])
def test_numbers_of_small_groups_move_aside(places: list[float]) -> None:
    found = spread(np.array(places), 10.0, 100.0)
    assert (np.diff(found) >= 10 - 1e-9).all()
    assert ((found >= 5 - 1e-9) & (found <= 95 + 1e-9)).all()
    if len(places) > 1 and min(np.diff(places)) >= 10:
        np.testing.assert_allclose(found, places)


def test_more_groups_than_fit_number_the_largest() -> None:
    sizes = [1] * 200 + [100]
    values = np.random.default_rng(0).normal(size=(300, 300))
    found = draw_heatmap(values, [str(i) for i in range(300)], sizes, "", "", "")
    numbers = re.findall(r"font-weight: 700[^>]*>(\d+)<|<text[^>]*bold[^>]*>(\d+)<", str(found.svg))
    shown = {int(a or b) for a, b in numbers}
    assert 201 in shown
    assert len(shown) < 100


def test_ends_and_thinnest() -> None:
    gains = {str(i): float(i) for i in range(50)}
    above, below = ends(list(gains), gains)
    assert above == [str(i) for i in range(49, 39, -1)]
    assert below == [str(i) for i in range(10)]
    assert ends(["a", "b", "c"], {"a": 1.0, "b": 3.0, "c": 2.0}) == (["b"], ["a"])
    rare = {"name": "rare", "kind": "binary", "train": 1000, "train_positives": 995}
    small = {"name": "small", "kind": "regression", "train": 7}
    large = {"name": "large", "kind": "multiclass", "train": 900}
    assert [task["name"] for task in thinnest([large, small, rare])] == ["rare", "small", "large"]


def test_turns_of_many_tasks_are_shown_without_graphs(many: tuple[StudyFolder, str]) -> None:
    plain, tasks = read_contents(many[0]), len(TASKS)
    record = {
        "step": 100, "tau": 0.3, "density": 0.1, "colour": [task % 9 for task in range(tasks)],
        "active": [list(range(colour, tasks, 9)) for colour in range(9)],
        "visits": [task % 50 for task in range(tasks)], "longest_wait": [2] * tasks, "skipped": [0] * tasks,
        "interference": None,  # T² numbers, which nothing that is drawn of so many tasks needs
    }  # fmt: skip
    config = Config.parse(plain.config.model_dump(mode="json") | {"schedule": {"tau": 0.3}})
    contents = dataclasses.replace(plain, config=config, schedule=pa.Table.from_pylist([record, record]))
    shown = section(pages.render(contents), "training")
    assert "Of 124,750 pairs, 12,475 to 12,475 conflicted" in " ".join(shown.split())
    assert "An edge is a conflict" not in shown
    assert not names_in(unfolded(shown))
    assert names_in(shown) == set(TASKS)
    assert len(shown) < 300_000


def test_mean_of_a_history_leaves_out_what_was_not_measured() -> None:
    history = np.random.default_rng(0).normal(size=(9, 4, 4))
    history[2, 1] = history[5, :, 3] = np.nan
    np.testing.assert_allclose(known_mean(history), np.nanmean(history, axis=0))
    history[:, 0, 1] = np.nan
    assert np.isnan(known_mean(history)[0, 1])
