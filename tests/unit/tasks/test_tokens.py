from dataclasses import replace

import numpy as np
import pytest

from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.tasks.checks import check_shapes, check_suite
from affinity_service.tasks.normalise import normalised
from affinity_service.tasks.prepared import read_suite, write_suite
from affinity_service.tasks.suite import Suite, Task, standardise_inputs
from affinity_service.tasks.tokens import PAD, TokenRows, bounded_batches

ROWS = [([5, 6, 7], [False, True, True]), ([8, 9], [False, True]), ([1, 2, 3, 4], [False, False, False, True])]


def token_suite(**changes):
    labels = np.array([[1, np.nan], [np.nan, 1], [1, np.nan], [np.nan, 1]], np.float32)
    tasks = (Task("a", "sequence"), Task("b", "sequence"))
    suite = Suite(TokenRows.of([*ROWS, ROWS[0]]), labels, np.array([0, 0, 1, 1], np.int8), tasks)
    return replace(suite, **changes)


def test_a_batch_is_padded_on_the_left_to_its_own_longest():
    rows = TokenRows.of(ROWS)
    assert (len(rows), rows.shape) == (3, (3, 2, 4))
    batch = rows[[0, 1]]
    assert batch.dtype == np.int64
    assert batch.tolist() == [[[5, 6, 7], [PAD, 6, 7]], [[PAD, 8, 9], [PAD, PAD, 9]]]
    assert rows[2].shape == (1, 2, 4)
    np.testing.assert_array_equal(rows[np.array([False, True, False])], rows[[1]])


def test_of_no_sequence_there_is_an_empty_batch():
    rows = TokenRows.of([])
    assert (len(rows), rows.shape) == (0, (0, 2, 0))
    assert list(bounded_batches(rows, np.arange(0), 4, 100)) == []


def test_batches_are_bounded_by_padded_tokens_and_examples():
    rows = TokenRows.of([([1] * length, [False] + [True] * (length - 1)) for length in (2, 9, 3, 8, 2)])
    batches = [batch.tolist() for batch in bounded_batches(rows, np.arange(5), 3, 18)]
    assert [sorted(rows.lengths[batch].tolist()) for batch in batches] == [[8, 9], [2, 2, 3]]
    alone = [len(batch) for batch in bounded_batches(rows, np.arange(5), 3, 1)]
    assert alone == [1] * 5, "one that is longer than allowed goes by itself"


def test_a_suite_of_tokens_passes_every_check_and_is_not_standardised():
    suite = token_suite()
    check_suite(suite)
    assert standardise_inputs(suite) is suite
    same = normalised(replace(suite, inputs=TokenRows(*(np.asarray(a, np.int64) for a in vars_of(suite.inputs)))))
    assert [array.dtype for array in vars_of(same.inputs)] == [np.int32, bool, np.int64]
    assert same.content_hash == suite.content_hash
    assert suite.summary()["input_shape"] == [2, 4]


def vars_of(rows):
    return rows.tokens, rows.learned, rows.starts


def test_it_comes_back_from_the_study_folder_on_a_map(tmp_path):
    suite, folder = token_suite(facts={"truncated": 2}), StudyFolder.at(tmp_path)
    write_suite(folder, suite)
    found = read_suite(folder)
    assert found.content_hash == suite.content_hash
    assert found.summary() == suite.summary()
    assert [array.dtype for array in vars_of(found.inputs)] == [np.int32, bool, np.int64]
    for array in (*vars_of(found.inputs), found.labels):
        assert not array.flags.writeable
    np.testing.assert_array_equal(found.inputs[[2, 0]], suite.inputs[[2, 0]])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (TokenRows.of([*ROWS, ([3, 4], [False, False])]), "token sequence 3 must begin with .* learned"),
        (TokenRows.of([*ROWS, ([3, 4], [True, True])]), "token sequence 3 must begin with a token that is read"),
        (TokenRows.of([*ROWS, ([], [])]), "token sequence 3 .* found 0 tokens"),
        (TokenRows.of([*ROWS, ([-1, 4], [False, True])]), "token ids must be 0 or more, found -1"),
        (TokenRows(np.zeros(3, np.int32), np.zeros(2, bool), np.array([0, 3])), "`learned` has 2 entries"),
        (TokenRows(np.zeros(3, np.int32), np.zeros(3, bool), np.array([0, 2])), "must rise from 0 to .* 3"),
        (TokenRows(np.zeros(3), np.zeros(3, bool), np.array([0, 3])), "whole numbers"),
    ],
)
def test_sequences_that_no_model_could_learn_are_refused(rows, message):
    with pytest.raises(UserError, match=message):
        check_shapes(token_suite(inputs=rows))


def test_answers_and_other_tasks_do_not_mix():
    with pytest.raises(UserError, match=r"task `b` is of kind binary and another a sequence: .* make two suites"):
        check_suite(token_suite(tasks=(Task("a", "sequence"), Task("b", "binary"))))
    with pytest.raises(UserError, match="task `a` is of kind sequence, but the inputs are no token sequences"):
        check_suite(token_suite(inputs=np.zeros((4, 2), np.float32)))
    labels = token_suite().labels * 2
    with pytest.raises(UserError, match="task `a`: the label of an answer is 1, or missing"):
        check_suite(token_suite(labels=labels))
