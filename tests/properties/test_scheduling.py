"""Statements of SON-GOKU (arXiv 2509.16959) that must hold whatever the gradients are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity_service.gradients.moving_average import cosines
from affinity_service.gradients.sketch import CountSketch
from affinity_service.scheduling.graph import colour_classes, conflicts, raise_coverage
from affinity_service.scheduling.schedule import Schedule
from affinity_service.scheduling.settings import ScheduleSettings


@st.composite
def graphs(draw, most=12):
    tasks = draw(st.integers(1, most))
    pairs = [(i, j) for i in range(tasks) for j in range(i + 1, tasks)]
    return tasks, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []


@given(graphs())
def test_classes_part_the_tasks_without_conflicts_in_few_colours(graph):
    tasks, edges = graph
    classes = colour_classes(tasks, edges)
    assert sorted(task for members in classes for task in members) == list(range(tasks))
    assert not [edge for edge in edges for members in classes if set(edge) <= set(members)]
    degree = np.bincount(np.array(edges, int).ravel(), minlength=tasks)
    assert len(classes) <= degree.max() + 1


@given(graphs(), st.floats(0, 1))
def test_coverage_never_joins_what_conflicts_and_tells_the_truth(graph, coverage):
    tasks, edges = graph
    filled, short = raise_coverage(colour_classes(tasks, edges), edges, coverage, tasks)
    assert not [edge for edge in edges for members in filled if set(edge) <= set(members)]
    for task in range(tasks):
        share = sum(task in members for members in filled) / len(filled)
        assert share == short[task] if task in short else share >= coverage - 1e-9


def test_twenty_thousand_sets_obey_the_norm_inequality():
    """‖Σ_S g‖² ≥ (1 − τ(|S|−1)) Σ‖g‖² for the classes of gradients as they are now."""
    rng = np.random.default_rng(0)
    checked = closest = 0
    while checked < 20_000:
        tasks, width = int(rng.integers(2, 14)), int(rng.integers(2, 12))
        tau = float(rng.uniform(0, 1))
        # A common direction, of either sign, makes sets from friendly to hostile.
        gradients = torch.from_numpy(rng.normal(size=(tasks, width)) + rng.normal() * rng.normal(size=width))
        gradients *= torch.from_numpy(np.exp(rng.normal(size=(tasks, 1))))
        rho = -cosines(gradients @ gradients.T).numpy()
        np.fill_diagonal(rho, 0)
        for members in colour_classes(tasks, conflicts(rho, tau)):
            own = gradients[members]
            together, apart = float(own.sum(0).square().sum()), float(own.square().sum())
            bound = (1 - tau * (len(members) - 1)) * apart
            assert together >= bound - 1e-9 * apart
            closest += len(members) > 1 and together < bound + 0.2 * apart
            checked += 1
    assert closest > 100, "the sets never came near the bound"


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**16), st.floats(-1, 1))
def test_no_task_starves_however_short_the_cycle(tasks, refresh, seed, tau):
    """Graphs that change at every refresh, cycles shorter than their classes: a task waits less than K steps."""
    generator = torch.Generator().manual_seed(seed)
    schedule = Schedule(
        [str(i) for i in range(tasks)], 3, ScheduleSettings(tau=tau, refresh=refresh, beta=0.0)
    )  # fmt: skip
    waits = np.zeros(tasks, int)
    for _ in range(60):
        plan = schedule.plan()
        if plan.refresh:
            schedule.measured(schedule.tasks, torch.randn(tasks, 3, generator=generator))
        active = np.isin(schedule.tasks, plan.active)
        waits = np.where(active, 0, waits + 1)
        assert waits.max() < max(tasks, 1)
        schedule.step(plan.active)
    assert min(schedule.history[-1].visits.values()) > 0


def test_five_tasks_that_all_conflict_take_turns_at_refresh_three():
    schedule = Schedule(list("abcde"), 2, ScheduleSettings(tau=-1.0, refresh=3))
    for step in range(200):
        if schedule.plan().refresh:
            schedule.measured(schedule.tasks, torch.randn(5, 2, generator=torch.Generator().manual_seed(step)))
        schedule.step(schedule.plan().active)
    visits = schedule.history[-1].visits
    assert max(schedule.history[-1].longest_wait.values()) == 4
    assert max(visits.values()) - min(visits.values()) <= 1


@given(st.integers(2, 8), st.integers(1, 40), st.integers(1, 20))
def test_within_a_window_a_task_waits_at_most_as_many_steps_as_it_has_conflicts_at_most(tasks, seed, rounds):
    rho = np.random.default_rng(seed).uniform(-1, 1, size=(tasks, tasks))
    edges = conflicts((rho + rho.T) / 2, 0.1)
    classes = colour_classes(tasks, edges)
    degree = np.bincount(np.array(edges, int).ravel(), minlength=tasks).max() if edges else 0
    turns = [classes[step % len(classes)] for step in range(rounds * len(classes))]
    for task in range(tasks):
        steps = [step for step, members in enumerate(turns) if task in members]
        assert max(np.diff(steps), default=1) - 1 <= degree


def planted(tasks: int, width: int) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """True gradients of groups along opposed directions, and which pairs conflict."""
    group = torch.arange(tasks) % 4
    directions = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    gradients = torch.zeros(tasks, width)
    gradients[:, :2] = directions[group]
    opposed = {(0, 1), (2, 3)}
    edges = [
        (i, j) for i in range(tasks) for j in range(i + 1, tasks)
        if tuple(sorted((int(group[i]), int(group[j])))) in opposed
    ]  # fmt: skip
    return gradients, edges


@pytest.mark.parametrize("split", [False, True])
def test_a_planted_graph_of_forty_tasks_is_recovered_once_the_averages_are_long_enough(split):
    """Noise as long as twenty gradients (SNR .05): one batch tells nothing, a long average everything."""
    gradients, edges = planted(40, 400)
    found = {}
    for beta, measurements in ((0.0, 1), (0.9, 60), (0.998, 4000)):
        settings = ScheduleSettings(tau=0.25, refresh=measurements, probes=measurements, beta=beta, split=split)
        schedule = Schedule([str(i) for i in range(40)], 400, settings)
        generator = torch.Generator().manual_seed(1)
        for _ in range(measurements):
            noise = torch.randn(40, 400, generator=generator)
            schedule.measured(schedule.tasks, gradients + noise)
            schedule.step(schedule.plan().active)
        record = schedule.history[-1]
        found[beta] = {(int(i), int(j)) for i, j in record.edges}
    assert found[0.998] == set(edges)
    assert len(found[0.0] ^ set(edges)) > 50


def test_two_averages_in_turns_have_no_bias_where_one_has():
    """At SNR .05 a true ρ of .6 shows as a small number with one average, with two as .6 on average."""
    truth = torch.zeros(2, 400)
    truth[0, 0], truth[1, 0], truth[1, 1] = 1.0, -0.6, 0.8
    shown = {}
    for split in (False, True):
        values = []
        for seed in range(40):
            generator = torch.Generator().manual_seed(seed)
            schedule = Schedule(["a", "b"], 400, ScheduleSettings(beta=0.9, refresh=200, probes=200, split=split))
            for _ in range(200):
                schedule.measured(["a", "b"], truth + torch.randn(2, 400, generator=generator))
                schedule.step(["a", "b"])
            values.append(schedule.history[-1].interference[0, 1])
        shown[split] = float(np.mean(values))
    assert shown[False] < 0.15
    assert abs(shown[True] - 0.6) < 0.35
    assert shown[True] > 2 * shown[False]


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_a_sketch_keeps_cosines_within_its_error(seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(6, 3000, generator=generator)
    rows[3:] -= rows[:3]
    sketch = CountSketch([1000, 2000], 4096, seed)
    made = torch.zeros(6, 4096)
    for row, into in zip(rows, made, strict=True):
        for index, part in enumerate(row.split([1000, 2000])):
            sketch.add(index, part, into)
    error = cosines((made @ made.T).double()) - cosines((rows @ rows.T).double())
    assert float(error.abs().max()) < 5 / 4096**0.5
