"""Overlapping networks within a budget, by column generation."""

from __future__ import annotations

import numpy as np
import pytest

from affinity_service.errors import UserError
from affinity_service.grouping import networks
from affinity_service.grouping.networks import choose_networks
from affinity_service.grouping.selection_exact import best_selection
from tests import standley


def table(tasks: int, seed: int) -> np.ndarray:
    """(2^T, T) losses of every network, no sums over pairs; inf outside the network."""
    rng = np.random.default_rng(seed)
    camp = np.arange(tasks) % 2
    losses = np.full((2**tasks, tasks), np.inf)
    for mask in range(1, 2**tasks):
        members = [task for task in range(tasks) if mask >> task & 1]
        for task in members:
            strangers = sum(camp[other] != camp[task] for other in members)
            losses[mask, task] = 1 - 0.1 * np.log(len(members)) + 0.1 * strangers + 0.05 * rng.normal()
    return losses


def predictor(losses: np.ndarray, asked: list | None = None):
    def predict(subsets):
        if asked is not None:
            asked.extend(subsets)
        return [losses[sum(1 << task for task in subset), list(subset)] for subset in subsets]

    return predict


def best_loss(losses: np.ndarray, budget: int) -> float:
    masks = [sum(1 << task for task in group) for group in best_selection(-losses, budget)]
    return float(losses[masks].min(axis=0).mean())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_near_the_best_of_all_choices(seed, budget):
    losses = table(7, seed)
    # Few enough to be asked for that not every network is.
    found = choose_networks(predictor(losses), 7, budget, most=600)
    best = best_loss(losses, budget)
    assert best - 1e-9 <= found.loss <= best + 0.01
    # Among the networks predicted nothing is better than the bound; the best of all may be.
    assert found.bound <= found.loss
    assert found.cost == len(found.groups) <= budget
    for task, row in enumerate(found.served_by):
        assert task in found.groups[row]
    served = [losses[sum(1 << t for t in found.groups[row]), task] for task, row in enumerate(found.served_by)]
    assert np.mean(served) == pytest.approx(found.loss)


def test_all_networks_are_predicted_where_they_are_few():
    losses = table(6, 4)
    for budget in (1, 2, 3):
        found = choose_networks(predictor(losses), 6, budget)
        assert found.evaluated == 63
        assert found.settled
        assert found.loss == pytest.approx(best_loss(losses, budget), rel=1e-9)
        assert found.bound == pytest.approx(found.loss, rel=1e-6)


def test_costs_decide_what_the_budget_pays_for():
    losses = table(6, 1)

    def cost(network: tuple[int, ...]) -> float:
        return 0.5 if len(network) == 1 else 1.0

    found = choose_networks(predictor(losses), 6, 2.5, cost=cost)
    assert found.cost <= 2.5
    assert found.loss <= choose_networks(predictor(losses), 6, 2).loss + 1e-12
    # Whatever is affordable with one price for all is affordable here.
    with pytest.raises(UserError, match=r"pays for no networks that serve all 6 tasks \(one of all of them costs 2\)"):
        choose_networks(predictor(losses), 6, 1.0, cost=lambda network: 2.0)
    for budget in (0, -1, float("nan")):
        with pytest.raises(UserError, match="expected a positive number"):
            choose_networks(predictor(losses), 6, budget)


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e15])
def test_costs_of_any_unit(unit):
    losses = table(6, 1)
    found = choose_networks(predictor(losses), 6, 2 * unit, cost=lambda network: unit)
    assert found.groups == choose_networks(predictor(losses), 6, 2).groups
    assert found.cost <= 2 * unit * (1 + 1e-9)
    with pytest.raises(UserError, match="cost: found 0"):
        choose_networks(predictor(losses), 6, 2, cost=lambda network: 0.0)


def test_networks_that_diverge_are_no_choice():
    losses = table(5, 0)
    best = choose_networks(predictor(losses), 5, 2)
    spoilt = losses.copy()
    for group in best.groups:
        spoilt[sum(1 << t for t in group), group[0]] = np.nan
    found = choose_networks(predictor(spoilt), 5, 2)
    assert not set(found.groups) & set(best.groups)
    assert found.loss >= best.loss
    with pytest.raises(UserError, match="its trainings diverge"):
        choose_networks(lambda subsets: [np.full(len(s), np.inf) for s in subsets], 3, 1)


def test_without_time_the_choice_is_greedy_and_its_bound_still_holds(monkeypatch):
    losses = table(9, 5)
    exact = best_loss(losses, 3)
    monkeypatch.setattr(networks, "_SECONDS", 1e-9)
    found = choose_networks(predictor(losses), 9, 3)
    assert found.bound <= exact + 1e-9
    assert found.loss >= exact - 1e-9
    assert sorted({task for group in found.groups for task in group}) == list(range(9))
    assert len(found.groups) <= 3


def test_no_network_is_predicted_twice_and_no_more_than_allowed():
    losses = table(8, 2)
    asked: list = []
    found = choose_networks(predictor(losses, asked), 8, 3, most=60)
    assert len(asked) == len(set(asked)) == found.evaluated <= 60
    assert not found.settled
    assert found.evaluated == 60
    free = choose_networks(predictor(losses), 8, 3)
    assert free.settled
    assert free.loss <= found.loss + 1e-12


def test_one_task_and_a_start():
    assert choose_networks(lambda subsets: [np.ones(len(s)) for s in subsets], 1, 1).groups == [(0,)]
    losses = table(6, 3)
    start = [[4, 0, 2], [1, 3, 5]]
    found = choose_networks(predictor(losses), 6, 2, start=start, most=0)
    # Nothing beyond the start, the single tasks and everybody is predicted.
    assert found.evaluated == 6 + 1 + 2


@pytest.mark.skipif(not standley.FOLDER.is_dir(), reason=f"published tables not found at {standley.FOLDER}")
@pytest.mark.parametrize("setting", standley.SETTINGS)
def test_measured_networks_of_five_tasks(setting):
    losses = standley.measured(setting)
    for budget in (1, 2, 3, 4):
        found = choose_networks(predictor(losses), 5, budget)
        assert found.loss == pytest.approx(best_loss(losses, budget), rel=1e-9)
