"""The section on what was measured and scheduled while the base model trained."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from affinity_service.affinity.measured import average_history
from affinity_service.config import Config
from affinity_service.report import page
from affinity_service.report.contents import Contents, read_contents
from affinity_service.report.training import training
from tests.unit.report.conftest import NAMES, write_study

T = len(NAMES)


def measurements(count: int, rng: np.random.Generator) -> pa.Table:
    block = np.arange(T) * 2 // T
    truth = np.where(block[:, None] == block, 4e-5, -1e-5) + np.eye(T) * 1e-4
    rows = [(truth + 1e-5 * rng.normal(size=(T, T))).astype(np.float32).ravel() for _ in range(count)]
    return pa.table({"step": np.arange(count) * 10, "epoch": np.arange(count) // 4, "lookahead": rows})


def turns(count: int, rng: np.random.Generator) -> pa.Table:
    rows = []
    for number in range(count):
        rho = np.triu(rng.uniform(-1, 1, size=(T, T)), 1)
        rho += rho.T
        colour = rng.permutation(np.arange(T) % 3).tolist()
        rows.append(
            {
                "step": 1 + 8 * number, "tau": 0.3, "density": float((np.triu(rho, 1) > 0.3).sum() / 15),
                "interference": rho.ravel().tolist(), "colour": colour,
                "active": [[task for task in range(T) if colour[task] == own] for own in range(3)],
                "visits": [1 + 3 * number] * T, "longest_wait": [2] * T, "shortfall": [None] * T, "skipped": [0] * T,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows)


@pytest.fixture
def plain(tmp_path) -> Contents:
    return read_contents(write_study(tmp_path))


def measured(plain: Contents, count: int = 40, **sections) -> Contents:
    rng = np.random.default_rng(0)
    content = plain.config.model_dump(mode="json") | {"affinity": {"estimator": "lookahead"}, **sections}
    table = measurements(count, rng)
    history = np.array(table["lookahead"].to_pylist()).reshape(count, T, T)
    return dataclasses.replace(
        plain,
        config=Config.parse(content),
        matrix=average_history(NAMES, history).scaled(1e6),
        measurements=table,
        calibration=None,
        fidelity=None,
        subsets=0,
    )


def test_a_training_without_either_has_no_section(plain):
    assert training(plain) is None
    assert 'id="training"' not in page.render(plain)


def test_measured_affinities_are_shown_as_such(plain):
    contents = measured(plain)
    text = " ".join(page.render(contents).split())
    for words in (
        "measured <strong>40 times</strong>",
        "Affinity over training time",
        "The groups over training time",
        "ppm of the loss per step",
        "affinity to<br>group mates",
        "what part of this task's loss does one training step for another task alone take away?",
        "they predict no losses",
    ):
        assert words in text, words
    for words in ("gradients of one base model", "over being alone", "trained alone ("):
        assert words not in text, words
    found = training(contents)
    assert found is not None
    assert found["scheduled"] is None
    # The blocks are there from the first quarter to the last.
    assert found["measured"]["groups"]["same"] == 1.0


def test_a_short_training_shows_its_affinities_without_groups_over_time(plain):
    found = training(measured(plain, count=3))
    assert found is not None
    assert found["measured"]["groups"] is None


def test_turns_are_shown_with_conflicts_waits_and_shares(plain):
    schedule = turns(9, np.random.default_rng(1))
    contents = dataclasses.replace(measured(plain, schedule={"tau": 0.3}), schedule=schedule)
    found = training(contents)
    assert found is not None
    shown = found["scheduled"]
    assert shown["refreshes"] == 9
    assert shown["steps"] == 65
    assert [row["share"] for row in shown["table"]] == [25 / 65] * T
    assert [row["wait"] for row in shown["table"]] == [2] * T
    rho = np.array(schedule["interference"].to_pylist()).reshape(9, T, T)
    assert shown["conflicts"] == [int((np.triu(each, 1) > 0.3).sum()) for each in rho]
    text = " ".join(page.render(contents).split())
    for words in ("Which tasks took turns", "by a cosine below −0.30", "3 to 3 classes", "waited 2 at most"):
        assert words in text, words


def test_joint_training_by_a_schedule_without_conflicts_says_so(plain):
    table = turns(2, np.random.default_rng(1)).to_pylist()
    for row in table:
        row |= {"density": 0.0, "interference": [0.0] * T * T, "colour": [0] * T, "active": [list(range(T))]}
    contents = dataclasses.replace(plain, schedule=pa.Table.from_pylist(table))
    contents = dataclasses.replace(
        contents, config=Config.parse(plain.config.model_dump(mode="json") | {"schedule": {}})
    )
    assert "No pair ever conflicted: this was joint training." in page.render(contents)
