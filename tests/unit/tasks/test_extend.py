"""One task more, checked as tasks of a data set are."""

from __future__ import annotations

import numpy as np
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
    with pytest.raises(UserError, match=message):
        with_task(SUITE, "new", labels, "binary" if labels.dtype.kind == "f" else None)
