from collections import Counter

import numpy as np
import pandas as pd
import pytest

from affinity_service.config import GroupModelConfig
from affinity_service.evaluation.outcomes import (
    GROUPS,
    JOINT,
    RANDOM,
    SINGLE,
    gains,
    interval,
    loss_table,
    plan_runs,
    task_gains,
)

GROUPS_OF_NINE = [[4, 0], [1, 2, 3], [5, 6, 7, 8]]


def random_partitions(planned):
    found = {}
    for p in planned:
        if p.setting == RANDOM:
            found.setdefault((p.run.seed, p.grouping), []).append(p.run.tasks)
    return found


def test_planned_settings_and_their_number():
    config = GroupModelConfig(seeds=3, random_groupings=2, single_tasks=4, seed=50)
    planned = plan_runs(GROUPS_OF_NINE, 9, config)
    assert Counter(p.setting for p in planned) == {GROUPS: 9, JOINT: 3, SINGLE: 12, RANDOM: 18}
    assert {p.run.seed for p in planned} == {50, 51, 52}
    assert {p.run.tasks for p in planned if p.setting == GROUPS} == {(0, 4), (1, 2, 3), (5, 6, 7, 8)}
    assert {p.run.tasks for p in planned if p.setting == JOINT} == {tuple(range(9))}
    singles = [p.run.tasks for p in planned if p.setting == SINGLE and p.run.seed == 50]
    assert len(set(singles)) == 4
    assert all(len(tasks) == 1 for tasks in singles)
    assert plan_runs(GROUPS_OF_NINE, 9, config) == planned


def test_random_groups_are_partitions_of_the_same_sizes():
    partitions = random_partitions(plan_runs(GROUPS_OF_NINE, 9, GroupModelConfig(seeds=3, random_groupings=2)))
    assert len(partitions) == 6
    for parts in partitions.values():
        assert [len(part) for part in parts] == [2, 3, 4]
        assert sorted(task for part in parts for task in part) == list(range(9))


def test_every_seed_and_grouping_draws_anew():
    partitions = random_partitions(plan_runs(GROUPS_OF_NINE, 9, GroupModelConfig(seeds=3, random_groupings=2)))
    assert len({tuple(parts) for parts in partitions.values()}) == 6


def table(rows):
    """Rows of setting, grouping, seed, task, test loss."""
    frame = pd.DataFrame(rows, columns=["setting", "grouping", "seed", "task", "test_loss"])
    return frame.assign(group=0, validation_loss=np.nan)


RESULTS = table(
    [
        (GROUPS, 0, 0, "a", 1.0),
        (GROUPS, 0, 1, "a", 2.0),
        (GROUPS, 0, 0, "b", 5.0),
        (GROUPS, 0, 1, "b", 5.0),
        (JOINT, 0, 0, "a", 2.0),
        (JOINT, 0, 1, "a", 5.0),
        (JOINT, 0, 0, "b", 6.0),
        (JOINT, 0, 1, "b", 8.0),
        (SINGLE, 0, 0, "a", 0.5),
        (SINGLE, 0, 1, "a", 1.5),
        (RANDOM, 0, 0, "a", 1.0),
        (RANDOM, 1, 0, "a", 3.0),
        (RANDOM, 0, 1, "a", 4.0),
        (RANDOM, 1, 1, "a", 6.0),
        (RANDOM, 0, 0, "b", 5.0),
        (RANDOM, 1, 0, "b", 7.0),
        (RANDOM, 0, 1, "b", 5.0),
        (RANDOM, 1, 1, "b", 9.0),
    ]
)
# Two seeds leave one degree of freedom, where Student's 97.5% quantile is tan(0.475 π); the standard error of two
# values is half their distance.
STUDENT = np.tan(0.475 * np.pi)


def test_gains_are_paired_by_seed():
    found = gains(RESULTS, ["a", "b"])
    # Per seed: joint (1 + 1)/2 = 1 and (3 + 3)/2 = 3; random (1 + 1)/2 = 1 and (3 + 2)/2 = 2.5; alone `a` only.
    assert found[JOINT] == pytest.approx((2.0, STUDENT * 1.0))
    assert found[RANDOM] == pytest.approx((1.75, STUDENT * 0.75))
    assert found[SINGLE] == pytest.approx((-0.5, 0.0))
    assert gains(RESULTS, ["b"])[JOINT] == pytest.approx((2.0, STUDENT * 1.0))
    assert SINGLE not in gains(RESULTS, ["b"])


@pytest.mark.parametrize("baseline", [JOINT, SINGLE, RANDOM])
def test_gains_of_all_tasks_at_once_are_those_of_each(baseline):
    found = task_gains(RESULTS, baseline)
    one_by_one = {task: gains(RESULTS, [task]) for task in ("a", "b")}
    assert found == {task: pytest.approx(each[baseline]) for task, each in one_by_one.items() if baseline in each}
    once = task_gains(RESULTS[RESULTS["seed"] == 0], baseline)
    assert np.isnan([half for _, half in once.values()]).all()
    assert task_gains(RESULTS[RESULTS["setting"] == GROUPS], baseline) == {}


def test_interval_by_hand_and_of_one_value():
    mean, half = interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, half) == pytest.approx((2.0, 4.302652729911275 / np.sqrt(3)))
    mean, half = interval(np.array([7.0]))
    assert mean == 7
    assert np.isnan(half)


def test_loss_table_averages_random_groupings_per_seed():
    losses = loss_table(RESULTS)
    assert list(losses.columns) == [s + end for s in (GROUPS, JOINT, SINGLE, RANDOM) for end in ("", " ±")]
    assert losses.loc["a", RANDOM] == pytest.approx(3.5)  # 2 and 5
    assert losses.loc["a", f"{RANDOM} ±"] == pytest.approx(STUDENT * 1.5)
    assert losses.loc["b", JOINT] == pytest.approx(7.0)
    assert losses.loc["b", f"{JOINT} ±"] == pytest.approx(STUDENT * 1.0)
    assert np.isnan(losses.loc["b", [SINGLE, f"{SINGLE} ±"]].astype(float)).all()
