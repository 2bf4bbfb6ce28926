"""Sizes, tasks together and tasks apart: what groups must look like."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from affinity_service.errors import UserError
from affinity_service.grouping import METHODS, Constraints, cluster
from affinity_service.grouping.constraints import check_possible
from affinity_service.grouping.direct import descend
from affinity_service.grouping.matrix import symmetrised
from affinity_service.grouping.partition import density

CASES = {
    "sizes": Constraints(min_size=2, max_size=3),
    "together": Constraints(must_link=((0, 1), (1, 2), (4, 5))),
    "apart": Constraints(cannot_link=((0, 1, 2), (3, 6))),
    "all": Constraints(2, 4, must_link=((0, 6),), cannot_link=((0, 1), (2, 3))),
}


def partitions(tasks: int, k: int):
    for labels in itertools.product(range(k), repeat=tasks - 1):
        groups = [[0], *([] for _ in range(k - 1))]
        for task, label in enumerate(labels, start=1):
            groups[label].append(task)
        if all(groups) and [g[0] for g in groups] == sorted(g[0] for g in groups):
            yield groups


def as_must_be(groups: list[list[int]], rules: Constraints) -> bool:
    place = {task: i for i, group in enumerate(groups) for task in group}
    most = rules.max_size or len(place)
    return (
        all(rules.min_size <= len(group) <= most for group in groups)
        and all(len({place[t] for t in own}) == 1 for own in rules.must_link)
        and all(len({place[t] for t in own}) == len(own) for own in rules.cannot_link)
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_the_best_groups_that_are_as_they_must_be(name, seed):
    affinity = np.random.default_rng(seed).normal(size=(7, 7))
    allowed = [groups for groups in partitions(7, 3) if as_must_be(groups, CASES[name])]
    found = cluster(affinity, 3, constraints=CASES[name])
    assert found.groups in allowed
    best = max(density(symmetrised(affinity), groups) for groups in allowed)
    assert found.objective == pytest.approx(best, rel=1e-9)
    assert found.bound >= found.objective


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_every_method_keeps_them(method, name):
    affinity = np.random.default_rng(9).normal(size=(7, 7))
    assert as_must_be(cluster(affinity, 3, method, constraints=CASES[name]).groups, CASES[name])
    # Where there is one partition only, or nothing to prefer.
    assert as_must_be(cluster(np.zeros((7, 7)), 3, method, constraints=CASES[name]).groups, CASES[name])


def test_without_constraints_nothing_changes():
    affinity = np.random.default_rng(3).normal(size=(20, 20))
    assert cluster(affinity, 4) == cluster(affinity, 4, constraints=Constraints(1, 20))


def test_auto_chooses_among_what_the_sizes_leave():
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    affinity = (labels[:, None] == labels) + 0.1 * rng.normal(size=(24, 24))
    assert cluster(affinity, "auto").k == 3
    assert cluster(affinity, "auto", constraints=Constraints(max_size=4)).k >= 6
    assert cluster(affinity, "auto", constraints=Constraints(min_size=12)).k <= 2
    assert cluster(affinity, "auto", constraints=Constraints(max_size=1), max_k=24).k == 24


@pytest.mark.parametrize(
    "constraints",
    [
        Constraints(max_size=2),
        Constraints(max_size=1),
        Constraints(cannot_link=((0, 1, 2, 3),)),
        Constraints(2, 3, must_link=((0, 1), (2, 3), (4, 5))),
        Constraints(min_size=3),
    ],
)
@pytest.mark.parametrize("tasks", [7, 12])
def test_auto_finds_a_number_of_groups_where_there_is_one(constraints, tasks):
    affinity = np.random.default_rng(tasks).normal(size=(tasks, tasks))
    check_possible(constraints, tasks, "auto")
    assert as_must_be(cluster(affinity, "auto", constraints=constraints).groups, constraints)


def test_large_groupings_keep_sizes():
    rng = np.random.default_rng(1)
    labels = np.minimum(np.arange(120) // 30, 3)
    affinity = 0.6 * (labels[:, None] == labels) + rng.normal(size=(120, 120))
    rules = Constraints(10, 15, must_link=((0, 100),), cannot_link=((1, 2, 3),))
    found = cluster(affinity, 10, constraints=rules)
    assert as_must_be(found.groups, rules)
    assert found.objective <= cluster(affinity, 10).objective


@pytest.mark.parametrize(
    ("constraints", "k", "message"),
    [
        (Constraints(must_link=((0, 1), (1, 2)), cannot_link=((0, 2),)), 2, "tasks 0 and 2 are to be kept apart"),
        (Constraints(must_link=((0, 1, 2),), max_size=2), 3, "must_link puts 3 tasks together"),
        (Constraints(max_size=2), 2, "found 2 groups of 1 to 2 tasks"),
        (Constraints(min_size=3), 3, "no such groups exist"),
        (Constraints(cannot_link=((0, 1, 2),)), 2, "no such groups exist"),
        (Constraints(min_size=4, max_size=5), "auto", "make no number of groups"),
        (Constraints(min_size=2, max_size=2), "auto", "make no number of groups"),
        (Constraints(2, 2, must_link=((0, 1),), cannot_link=((2, 3), (2, 4), (2, 5))), 3, "no such groups"),
        (Constraints(min_size=0), 2, "min_size: found 0"),
        (Constraints(min_size=3, max_size=2), 2, "max_size: found 2"),
        (Constraints(must_link=((0, 9),)), 2, "must_link: found 9"),
        (Constraints(cannot_link=((3,),)), 2, "expected at least two different tasks"),
    ],
)
def test_what_cannot_be_is_refused(constraints, k, message):
    with pytest.raises(UserError, match=message):
        cluster(
            np.random.default_rng(0).normal(size=(6 + (k == "auto"), 6 + (k == "auto"))), k, constraints=constraints
        )
    with pytest.raises(UserError, match=message):
        check_possible(constraints, 6 + (k == "auto"), k)


def test_names():
    found = Constraints.named("abc", must_link=[["c", "a"]], cannot_link=[["a", "b"]])
    assert found == Constraints(must_link=((2, 0),), cannot_link=((0, 1),))
    with pytest.raises(UserError, match="must_link: unknown task `d`"):
        Constraints.named("abc", must_link=[["a", "d"]])
    with pytest.raises(UserError, match=r"cannot_link: found .* expected a list of lists"):
        Constraints.named("abc", cannot_link=["ab"])
    with pytest.raises(UserError, match="tasks `b` and `a` are to be kept apart"):
        check_possible(Constraints.named("abc", must_link=[["a", "b"]], cannot_link=[["b", "a"]]), 3, 2)
    with pytest.raises(UserError, match=r"cannot_link: found \[`c`\]"):
        check_possible(Constraints.named("abc", cannot_link=[["c"]]), 3, 2)


@pytest.mark.parametrize("name", CASES)
def test_descent_keeps_them_and_moves_what_belongs_together(name):
    rng = np.random.default_rng(5)
    pair = rng.normal(size=(7, 7))

    def predict(subsets):
        return [pair[np.ix_(s, s)].mean(axis=1) for s in subsets]

    allowed = [groups for groups in partitions(7, 3) if as_must_be(groups, CASES[name])]
    start = allowed[len(allowed) // 2]
    found = descend(predict, start, constraints=CASES[name])
    assert as_must_be(found.groups, CASES[name])
    assert found.loss < found.start_loss
    # No block can move to another group for the better.
    blocks = [[0], [1], [2], [3], [4], [5], [6]]
    if name == "together":
        blocks = [[0, 1, 2], [3], [4, 5], [6]]
    for block in blocks:
        for goal in range(3):
            moved = [[t for t in group if t not in block] for group in found.groups]
            moved[goal] = sorted(moved[goal] + block)
            if all(moved) and as_must_be(moved, CASES[name]):
                assert sum(float(x.sum()) for x in predict(moved)) / 7 >= found.loss - 1e-9
