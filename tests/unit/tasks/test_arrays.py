import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from affinity_service.errors import UserError
from affinity_service.tasks import TRAIN, Suite
from affinity_service.tasks.checks import check_suite

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3))
Y = np.stack([X[:, 0] > 0, np.digitize(X[:, 1], [-0.5, 0.5]), X[:, 2] * 3], axis=1)


def test_kinds_are_inferred_and_nan_is_missing():
    labels = Y.copy()
    labels[4, 1] = np.nan
    suite = Suite.from_arrays(X, labels, validation=0.3, test=0.1, seed=2)
    check_suite(suite)
    assert [(t.name, t.kind, t.classes) for t in suite.tasks] == [
        ("task_0", "binary", 1),
        ("task_1", "multiclass", 3),
        ("task_2", "regression", 1),
    ]
    assert np.argwhere(~suite.observed).tolist() == [[4, 1]]
    assert np.bincount(suite.split).tolist() == [30, 15, 5]
    assert suite.inputs.dtype == suite.labels.dtype == np.float32


def test_names_kinds_and_a_mask():
    mask = np.ones(Y.shape, bool)
    mask[:7, 0] = False
    suite = Suite.from_arrays(X, Y, ["a", "b", "c"], {"a": "regression"}, mask)
    assert suite.names == ["a", "b", "c"]
    assert suite.tasks[0].kind == "regression"
    assert (~suite.observed).sum(axis=0).tolist() == [7, 0, 0]


def test_whole_number_labels_with_a_mask():
    labels = (X > 0).astype(np.int64)
    suite = Suite.from_arrays(X, labels, mask=labels == labels, kinds="binary")
    assert {task.kind for task in suite.tasks} == {"binary"}


def test_data_frames_bring_names_and_text_classes():
    frame = pd.DataFrame({"spam": Y[:, 0] > 0, "mood": np.where(X[:, 0] > 0, "up", "down")})
    frame.loc[3, "mood"] = None
    suite = Suite.from_arrays(pd.DataFrame(X, columns=["u", "v", "w"]), frame)
    assert suite.names == ["spam", "mood"]
    assert [task.kind for task in suite.tasks] == ["binary", "multiclass"]
    assert suite.feature_names == ("u", "v", "w")
    assert not suite.observed[3, 1]


def test_sparse_matrices_and_tasks_with_their_own_rows():
    labels = np.full((50, 2), np.nan)
    labels[:25, 0] = X[:25, 0] > 0
    labels[25:, 1] = X[25:, 0] > 0
    suite = Suite.from_arrays(sparse.csr_matrix(X), labels)
    np.testing.assert_allclose(suite.inputs, X, rtol=1e-6)
    assert not set(suite.rows(TRAIN, [0])) & set(suite.rows(TRAIN, [1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": X[:, 0]}, "X has shape (50,), expected (examples, features)"),
        ({"X": X[:40]}, "X has 40 rows and Y has 50"),
        ({"X": [["a"]] * 50}, "X must hold numbers"),
        ({"X": [[1.0], [1.0, 2.0]]}, "X must hold numbers in rows of one length"),
        ({"Y": Y[:, 0]}, "one task is Y[:, None]"),
        ({"Y": [[1], [1, 2]]}, "Y must have rows of one length"),
        ({"Y": [[{"a": 1}]] * 50}, "column `task_0` must hold numbers, booleans or text"),
        ({"task_names": ["a"]}, "1 task_names for 3 columns of Y"),
        ({"kinds": {"spam": "binary"}}, "kinds names the task `spam`"),
        ({"kinds": ["binary"]}, "1 kinds for 3 tasks"),
        ({"kinds": {"task_1": "ternary"}}, "task `task_1`: kind 'ternary' is unknown"),
        ({"mask": np.ones((50, 2), bool)}, "mask is bool of shape (50, 2)"),
        ({"mask": Y}, "mask is float64"),
        ({"validation": 0.7, "test": 0.4}, "validation=0.7 and test=0.4"),
        ({"test": 0}, "validation=0.2 and test=0"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(UserError) as error:
        Suite.from_arrays(**{"X": X, "Y": Y, **arguments})
    assert message in str(error.value)
