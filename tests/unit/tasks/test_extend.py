"""One task more, checked as tasks of a data set are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from affinity_service.errors import UserError
from affinity_service.tasks.extend import with_task
from affinity_service.tasks.suite import TRAIN
from tests.suites import mixed_suite

SUITE = mixed_suite(rows=60, features=3)


def test_it_stands_behind_the_others_which_stay():
    values = np.linspace(0, 10, len(SUITE))
    values[0] = np.nan
    suite = with_task(SUITE, "new", values, "regression")
    np.testing.assert_array_equal(suite.labels[:, :-1], SUITE.labels)
    assert suite.tasks[:-1] == SUITE.tasks
    new = suite.tasks[-1]
    known = suite.split == TRAIN
    np.testing.assert_allclose(suite.labels[1:, -1] * new.scale + new.mean, values[1:], rtol=1e-5)
    assert np.isnan(suite.labels[0, -1])
    assert np.nanmean(suite.labels[known, -1]) == pytest.approx(0, abs=1e-6)
    assert with_task(SUITE, "flag", np.arange(len(SUITE)) % 2 == 0).tasks[-1].kind == "binary"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(5), r"labels have shape \(5,\); expected \(60,\)"),
        (np.zeros((60, 1)), r"labels have shape \(60, 1\)"),
        (np.zeros(60), "one class only"),
        (np.full(60, np.nan), "new"),
        (np.array(["x", None] * 30, dtype=object), "new"),
    ],
)
def test_what_is_no_task_is_refused_by_name(labels, message):
    with pytest.raises(UserError, match=f"^add_task: .*{message}"):
        with_task(SUITE, "new", labels, "binary" if labels.dtype.kind == "f" else None)


def test_missing_ones_among_texts_and_masked_ones_stay_missing():
    texts = ["a", float("nan"), "b", None] * 15
    column = with_task(SUITE, "new", texts).labels[:, -1]
    np.testing.assert_array_equal(column, [0, np.nan, 1, np.nan] * 15)
    masked = np.ma.array([0, 1, 7] * 20, mask=[False, False, True] * 20)
    suite = with_task(SUITE, "new", masked)
    assert suite.tasks[-1].kind == "binary"
    np.testing.assert_array_equal(suite.labels[:, -1], [0, 1, np.nan] * 20)


def test_a_series_goes_by_position_only_where_its_index_says_so():
    values = pd.Series([0, 1, None] * 20)
    np.testing.assert_array_equal(with_task(SUITE, "new", values).labels[:, -1], values)
    for other in (values[::-1], values.set_axis(values.index + 1), values.set_axis([f"row {i}" for i in range(60)])):
        with pytest.raises(UserError, match=r"add_task: task `new`: the labels have an index of their own \("):
            with_task(SUITE, "new", other)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1]] * 59 + [[1]], "one value per example"),
        ([{"a": 1}] * 60, "numbers, booleans or text"),
        ([f"text {i}" for i in range(60)], r" holds 60 different texts .*: give kind='multiclass' if"),
    ],
)
def test_messages_speak_of_the_labels_given_not_of_columns(labels, message):
    with pytest.raises(UserError, match=f"^add_task: task `new`.*{message}") as found:
        with_task(SUITE, "new", labels)
    assert "column" not in str(found.value)
    assert "from_arrays" not in str(found.value)


@pytest.mark.parametrize("name", [3, None, ["new"]])
def test_names_are_text(name):
    with pytest.raises(UserError, match="add_task: the name of a task must be text, found"):
        with_task(SUITE, name, [0, 1] * 30)
