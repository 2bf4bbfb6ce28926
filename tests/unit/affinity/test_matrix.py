import numpy as np
import pytest

from affinity_service.affinity.matrix import AffinityMatrix, matrix_from_estimates
from affinity_service.errors import UserError

NAMES = ("a", "b", "c", "d")


def estimates(subsets, value):
    losses = [np.array([value(i, s) for i in s], dtype=float) for s in subsets]
    return losses, [np.full(len(s), 0.1) for s in subsets]


SINGLES = [(0,), (1,), (2,), (3,)]
PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_higher_order_average_counts_and_errors_by_hand():
    larger = [(0, 1, 2), (0, 1, 3), (0, 1, 2, 3)]
    subsets = SINGLES + PAIRS + larger
    losses, errors = estimates(subsets, lambda i, s: 10 * i + len(s) + 0.5 * sum(s))
    matrix = matrix_from_estimates(NAMES, subsets, losses, errors)
    values = [losses[len(SINGLES + PAIRS) + k][0] for k in range(3)]
    assert matrix.affinity[0, 1] == pytest.approx(-np.mean(values))
    assert matrix.subsets[0, 1] == 3
    assert matrix.standard_error[0, 1] == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))
    assert matrix.subsets[2, 3] == 1
    assert matrix.pair_estimate[2, 3] == -losses[subsets.index((2, 3))][0]
    assert matrix.affinity[1, 1] == -losses[1][0]
    np.testing.assert_array_equal(np.diag(matrix.subsets), 1)
    assert np.isfinite(matrix.standard_error).all()
    assert (matrix.standard_error > 0).all()


def test_an_uncovered_pair_takes_its_own_fit_with_count_zero():
    subsets = [*SINGLES, *PAIRS, (0, 1, 2)]
    losses, errors = estimates(subsets, lambda i, s: i + 0.1 * len(s))
    matrix = matrix_from_estimates(NAMES, subsets, losses, errors)
    assert matrix.subsets[0, 3] == 0
    assert matrix.affinity[0, 3] == -losses[subsets.index((0, 3))][0]
    assert matrix.standard_error[0, 3] == 0.1


def test_the_order_of_subsets_does_not_matter():
    rng = np.random.default_rng(0)
    subsets = SINGLES + PAIRS + [(0, 1, 2), (1, 2, 3), (0, 2, 3), (0, 1, 2, 3)]
    noise = {s: rng.normal(size=4) for s in subsets}
    losses, errors = estimates(subsets, lambda i, s: noise[s][i])
    order = rng.permutation(len(subsets))
    a = matrix_from_estimates(NAMES, subsets, losses, errors)
    b = matrix_from_estimates(
        NAMES, [subsets[i] for i in order], [losses[i] for i in order], [errors[i] for i in order]
    )
    np.testing.assert_allclose(a.affinity, b.affinity, rtol=1e-12)
    np.testing.assert_allclose(a.standard_error, b.standard_error, rtol=1e-6)


def test_table_round_trip_and_pandas():
    subsets = [*SINGLES, *PAIRS, (0, 1, 2)]
    losses, errors = estimates(subsets, lambda i, s: i - 0.3 * sum(s))
    matrix = matrix_from_estimates(NAMES, subsets, losses, errors)
    table = matrix.to_table()
    columns = ["receiver", "source", "affinity", "standard_error", "subsets", "pair_estimate", "example_error"]
    assert table.column_names == columns
    back = AffinityMatrix.from_table(table, NAMES)
    np.testing.assert_array_equal(back.affinity, matrix.affinity)
    frame = matrix.to_pandas()
    assert frame.loc["c", "a"] == matrix.affinity[2, 0]
    assert frame.attrs["standard_error"].loc["c", "a"] == matrix.standard_error[2, 0]
    assert (np.diag(matrix.gains()) == 0).all()
    assert matrix.gains()[2, 0] == matrix.affinity[2, 0] - matrix.affinity[2, 2]


def test_where_no_pair_has_two_subsets_the_error_is_that_over_examples():
    subsets = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    losses, _ = estimates(subsets, lambda i, s: i + 0.1 * len(s))
    errors = [np.array([0.01 * (i + 1) * len(s) for i in s]) for s in subsets]
    matrix = matrix_from_estimates(NAMES[:3], subsets, losses, errors)
    expected = np.array([[0.01, 0.03, 0.03], [0.06, 0.02, 0.06], [0.09, 0.09, 0.03]])
    np.testing.assert_allclose(matrix.standard_error, expected)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("b", "a", "c", "d"), r"other tasks \(`a`, `b`, `c`, `d`\); `affinity run` renews it"),
        (("a", "b", "c", "e"), "other tasks"),
        (("a", "b", "c"), "other tasks"),
        (("a", "b", "c", "d", "e"), "other tasks"),
    ],
)
def test_a_table_of_other_tasks_is_refused(names, shown):
    subsets = [*SINGLES, *PAIRS]
    table = matrix_from_estimates(NAMES, subsets, *estimates(subsets, lambda i, s: i)).to_table()
    with pytest.raises(UserError, match=shown):
        AffinityMatrix.from_table(table, names)
