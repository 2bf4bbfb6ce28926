"""Which models share a stack."""

from __future__ import annotations

from affinity_service.evaluation.run import stack_lengths
from affinity_service.planning.workload import trials_of


def test_stacks_are_full_and_models_of_hundreds_of_tasks_lie_apart():
    assert stack_lengths([13, 4, 4, 4, 1, 1], 4) == [4, 2]
    assert stack_lengths([500, 500, 30, 25, 1], 64) == [2, 3]
    # Half as many tasks may still share one.
    assert stack_lengths([500, 260, 250, 240], 64) == [3, 1]
    assert stack_lengths([], 4) == []


def test_the_plan_lays_trials_out_alike():
    assert trials_of([(500, 1), (25.0, 40), (1.0, 20)], 32) == [(1, 500), (32, 25.0), (28, 25.0)]
