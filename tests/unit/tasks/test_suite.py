import json
from dataclasses import replace

import numpy as np
import pytest

from affinity_service.config_sources import YeastSource
from affinity_service.errors import UserError
from affinity_service.tasks import TRAIN, VALIDATION, Suite, Task, load_suite
from affinity_service.tasks.checks import check_suite, drop_rare_tasks
from affinity_service.tasks.label_bits import LabelBits
from affinity_service.tasks.normalise import normalised
from affinity_service.tasks.sampling import epoch_batches
from affinity_service.tasks.suite import seeded_split, standardise_inputs, standardise_targets
from tests.suites import mixed_suite


def test_split_has_the_asked_fractions_and_depends_on_the_seed():
    split = seeded_split(1000, 0.25, 0.1, seed=3)
    assert np.bincount(split).tolist() == [650, 250, 100]
    assert (split == seeded_split(1000, 0.25, 0.1, seed=3)).all()
    assert (split != seeded_split(1000, 0.25, 0.1, seed=4)).any()


def test_pairs_are_every_label_of_the_split_sorted_by_task_then_example():
    suite = mixed_suite()
    example, task = suite.pairs(VALIDATION)
    found = sorted(zip(task.tolist(), example.tolist(), strict=True))
    assert found == list(zip(task.tolist(), example.tolist(), strict=True))
    expected = suite.observed & (suite.split == VALIDATION)[:, None]
    assert len(found) == expected.sum()
    assert expected[example, task].all()


def test_rows_of_tasks_are_those_with_a_label_for_one_of_them():
    suite = mixed_suite(missing=0.6)
    rows = suite.rows(TRAIN, [1, 3])
    assert set(rows) == {i for i in np.flatnonzero(suite.split == TRAIN) if suite.observed[i, [1, 3]].any()}
    assert suite.count(TRAIN, [1, 3]) == len(rows)
    assert len(suite.rows(TRAIN, [])) == 0
    np.testing.assert_array_equal(suite.label_counts(TRAIN), [len(suite.rows(TRAIN, [task])) for task in range(4)])


@pytest.mark.parametrize("numpy_2", [True, False])
@pytest.mark.parametrize("examples", [0, 1, 64, 1023, 1024, 1100, 2049])
def test_bits_of_labels_are_the_mask(examples, numpy_2, monkeypatch):
    if not numpy_2:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    mask = np.random.default_rng(examples).random((examples, 5)) < 0.3
    bits = LabelBits.from_mask(mask)
    for tasks in ([0], [4, 1], range(5)):
        expected = np.flatnonzero(mask[:, list(tasks)].any(axis=1))
        np.testing.assert_array_equal(bits.rows(tasks), expected)
        assert bits.count(tasks) == len(expected)
    np.testing.assert_array_equal(bits.counts(), mask.sum(axis=0))


def test_standardisation_uses_training_examples_and_keeps_constant_columns_at_zero():
    suite = mixed_suite()
    inputs = suite.inputs * 7 + 3
    inputs[:, 2] = 1e6
    scaled = standardise_inputs(Suite(inputs, suite.labels, suite.split, suite.tasks)).inputs
    training = scaled[suite.split == TRAIN]
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(training[:, others].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(training[:, others].std(axis=0), 1, rtol=1e-4)
    assert (scaled[:, 2] == 0).all()


def test_regression_targets_are_standardised_and_the_task_remembers_how():
    suite = mixed_suite()
    raw = suite.labels.copy()
    raw[:, 3] = raw[:, 3] * 40 - 11
    scaled = standardise_targets(Suite(suite.inputs, raw, suite.split, suite.tasks))
    task = scaled.tasks[3]
    np.testing.assert_allclose(scaled.labels[:, 3] * task.scale + task.mean, raw[:, 3], rtol=1e-4, atol=1e-3)
    assert scaled.tasks[0].scale == 1


def test_rare_tasks_are_left_out_with_their_counts():
    suite = drop_rare_tasks(mixed_suite(), positives=1, negatives=10_000)
    assert suite.names == ["level", "value"]
    assert [name for name, _ in suite.left_out] == ["up", "high"]
    assert "negatives" in suite.left_out[0][1]


def test_yeast_keeps_thirteen_labels_and_says_which_is_left_out():
    suite = load_suite(YeastSource())
    assert suite.inputs.shape == (2417, 103)
    assert len(suite.tasks) == 13
    assert suite.left_out == (("label_14", "34 positives and 2383 negatives; at least 50 and 50 are asked for"),)


def test_content_hash_follows_the_data():
    suite = mixed_suite()
    other = mixed_suite()
    assert suite.content_hash == other.content_hash
    other.labels[np.flatnonzero(~np.isnan(other.labels[:, 0]))[0], 0] += 1
    assert suite.content_hash != Suite(other.inputs, other.labels, other.split, other.tasks).content_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.inputs.__setitem__((4, 2), np.nan), "example 4, feature 2"),
        (lambda s: s.labels.__setitem__((3, 3), np.inf), "`value`: label of example 3 is infinite"),
        (lambda s: s.labels.__setitem__((3, 0), 0.5), "`up`: a binary label must be 0, 1 or missing, found 0.5"),
        (lambda s: s.labels.__setitem__((3, 2), 7), "`level`: class labels must be whole numbers 0 … 2"),
        (lambda s: s.labels.__setitem__((s.split == VALIDATION, 1), np.nan), "`high` has no validation example"),
        (lambda s: s.labels.__setitem__((s.split == TRAIN, 1), 0), "`high` has one class only (0)"),
    ],
)
def test_unusable_data_is_refused_by_name(change, message):
    suite = mixed_suite(missing=0)
    change(suite)
    with pytest.raises(UserError) as error:
        check_suite(suite)
    assert message in str(error.value)


def test_duplicate_task_names_are_refused():
    suite = mixed_suite()
    tasks = (Task("same", "binary"), Task("same", "binary"), *suite.tasks[2:])
    with pytest.raises(UserError, match="`same` occurs 2 times"):
        check_suite(Suite(suite.inputs, suite.labels, suite.split, tasks))


def test_batches_of_an_epoch_are_full_disjoint_and_seeded():
    rows = np.arange(100, 137)
    batches = list(epoch_batches(rows, 10, seed=1, epoch=0))
    assert [len(b) for b in batches] == [10, 10, 10]
    assert len(set(np.concatenate(batches))) == 30
    again = list(epoch_batches(rows, 10, seed=1, epoch=0))
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    assert any((a != b).any() for a, b in zip(batches, epoch_batches(rows, 10, 1, 1), strict=True))


def test_fewer_rows_than_a_batch_still_give_one_full_batch():
    (batch,) = epoch_batches(np.arange(3), 8, seed=0, epoch=0)
    assert len(batch) == 8
    assert set(batch) == {0, 1, 2}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("odd", "binery"), "task `odd`: kind 'binery' is unknown; expected binary, multiclass, regression"),
        (Task("odd", "multiclass"), "task `odd`: a multiclass task needs 2 or more classes, found 1"),
    ],
)
def test_a_task_of_unknown_kind_or_without_classes_is_refused(task, message):
    suite = mixed_suite()
    with pytest.raises(UserError) as error:
        check_suite(replace(suite, tasks=(*suite.tasks[:2], task, suite.tasks[3])))
    assert message in str(error.value)


def test_a_normalised_suite_has_one_type_whatever_its_maker_chose():
    suite = mixed_suite()
    tasks = [
        Task(np.str_(t.name), np.str_(t.kind), np.int64(t.classes), np.float32(t.mean), np.float64(t.scale))
        for t in suite.tasks
    ]
    odd = Suite(suite.inputs.astype(np.float64), suite.labels.astype(np.float64), suite.split.astype(np.int64), tasks)
    plain = normalised(odd)
    assert (plain.inputs.dtype, plain.labels.dtype, plain.split.dtype) == (np.float32, np.float32, np.int8)
    assert plain.tasks == suite.tasks
    assert {type(value) for task in plain.tasks for value in vars(task).values()} == {str, int, float}
    assert plain.content_hash == suite.content_hash
    json.dumps(plain.summary())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("level", "task 2 of the suite is str, expected affinity_service.tasks.Task"),
        (Task("level", "multiclass", "three"), "task `level`: classes, mean and scale must be numbers"),
        (Task("level", "multiclass", 2.5), "task `level`: classes, mean and scale must be numbers: classes 2.5"),
        (Task("level", "multiclass", None), "task `level`: classes, mean and scale must be numbers"),
    ],
)
def test_a_task_that_is_none_is_refused(task, message):
    suite = mixed_suite()
    with pytest.raises(UserError) as error:
        normalised(replace(suite, tasks=(*suite.tasks[:2], task, suite.tasks[3])))
    assert message in str(error.value)
