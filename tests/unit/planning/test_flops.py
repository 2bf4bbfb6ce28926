"""The formulas against torch's own counter."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from affinity_service.config import Config
from affinity_service.evaluation.flops import flop_counter, pass_flops
from affinity_service.fitting import subset_design
from affinity_service.gradients.store import pair_rows
from affinity_service.models import build_model
from affinity_service.planning import flops
from affinity_service.planning import workload as workload_module
from affinity_service.planning.workload import Subsets, Workload
from affinity_service.tasks.suite import TRAIN, VALIDATION
from tests.estimating import estimator_of, features_of, model_of
from tests.suites import allies_and_rivals, mixed_suite


def mixed(hidden, **sections):
    suite = mixed_suite(rows=300)
    content = {"name": "x", "data": {"source": "yeast"}, "model": {"hidden": hidden}, **sections}
    config = Config.parse(content)
    return suite, config, Workload.of(config, suite)


@pytest.mark.parametrize("hidden", [[16], [24, 8], [8, 16, 8]])
def test_passes_are_what_torch_counts(hidden):
    suite, config, work = mixed(hidden)
    model = build_model(config.model, suite.inputs.shape[1:], suite.tasks, 0)
    counted = pass_flops(model, suite.inputs.shape[1:])
    assert flops.forward_flops(work) == counted.forward
    assert flops.backward_flops(work) == counted.backward
    assert work.parameters == sum(p.numel() for p in model.parameters())
    of_each = [pass_flops(model, suite.inputs.shape[1:], [task]) for task in range(4)]
    assert flops.forward_flops(work, 1) == pytest.approx(sum(each.forward for each in of_each) / 4)
    assert flops.training_flops(work, 1) == pytest.approx(sum(each.training for each in of_each) / 4)


def test_runs_on_few_of_many_tasks_cost_as_if_there_were_no_others(config, workload):
    """Five tasks with a hundred labels each, of five alone and of five hundred on a hundred times the examples."""
    alone = dataclasses.replace(workload(tasks=5, rows=300), train=(60,) * 5, validation=(20,) * 5)
    among = dataclasses.replace(workload(tasks=500, rows=30_000), train=(60,) * 500, validation=(20,) * 500)
    rows = [work.rows_of(5, split) for work in (alone, among) for split in (TRAIN, VALIDATION)]
    assert rows[:2] == pytest.approx([300 * (1 - 0.8**5), 100 * (1 - 0.8**5)])
    assert rows[2:] == pytest.approx([300, 100], rel=0.01)
    one, many = (flops.fine_tuning_flops(config(), work, 5) for work in (alone, among))
    assert many / one == pytest.approx(rows[2] / rows[0], rel=0.01)


def test_a_workload_counts_rows_and_labels_of_the_suite():
    suite, _, work = mixed([8])
    assert work.labels == len(pair_rows(suite)[0])
    assert work.rows == tuple(len(suite.rows(split)) for split in range(3))
    for tasks in ((0,), (0, 1), (0, 1, 2, 3)):
        assert work.rows_of(len(tasks), 0) == pytest.approx(len(suite.rows(0, tasks)), rel=0.1)


@pytest.mark.parametrize(
    ("reduction", "metric"),
    [("rademacher", "optimizer"), ("exact", "optimizer"), ("subspace", "optimizer"), ("subspace", "euclidean")],
)
def test_gradient_features_are_what_torch_counts(reduction, metric):
    gradients = {"reduction": reduction, "metric": metric, "dimension": 40, "landmarks": 100, "batch_rows": 64}
    suite, config, work = mixed([16, 8], gradients=gradients)
    model = model_of(config, suite)
    moments = {name: torch.rand_like(p) + 0.1 for name, p in model.named_parameters()}
    with flop_counter() as counter:
        features_of(config, suite, model, moments)
    # A batch on the border of two tasks asks for both heads; changes of basis are not all products.
    rel = 0.5 if reduction == "subspace" else 0.15
    assert flops.gradient_flops(config, work) == pytest.approx(counter.get_total_flops(), rel=rel)


@pytest.mark.parametrize(("reduction", "solution"), [("rademacher", "ridge"), ("exact", "ridge"), ("subspace", "path")])
def test_fits_are_within_a_factor_of_two_of_what_is_counted(reduction, solution):
    """On gradients of a model, for which the constants were measured; other features take other numbers of passes."""
    suite = allies_and_rivals(rows=900)
    gradients = {"reduction": reduction, "dimension": 60}
    fits = {"subsets": 20, "tile": 1000, "solution": solution, "evaluate": "linearized", "probes": 0}
    if solution == "ridge":
        fits["l2"] = 1e-2
    sections = {"model": {"hidden": [8]}, "gradients": gradients, "fits": fits}
    config = Config.parse({"name": "x", "data": {"source": "yeast"}, **sections})
    estimator = estimator_of(config, suite, model_of(config, suite))
    with flop_counter() as counter:
        estimator.estimate(subset_design(len(suite.tasks), 20, config.fits.sizes, 0))
    ratio = flops.fit_flops(config, Workload.of(config, suite)) / counter.get_total_flops()
    assert 0.5 < ratio < 2, ratio


def test_many_tasks_are_counted_with_their_own_means(monkeypatch):
    monkeypatch.setattr(workload_module, "MANY_TASKS", 3)
    suite = allies_and_rivals(rows=900)
    gradients = {"dimension": 20, "landmarks": 200}
    fits = {"subsets": 20, "tile": 1000, "evaluate": "linearized", "probes": 0}
    content = {"model": {"hidden": [16, 8]}, "gradients": gradients, "fits": fits}
    config = Config.parse({"name": "x", "data": {"source": "yeast"}, **content})
    work, model = Workload.of(config, suite), model_of(config, suite)
    assert work.heads_apart(config)
    moments = {name: torch.rand_like(p) + 0.1 for name, p in model.named_parameters()}
    with flop_counter() as counter:
        (train, _), anchor = features_of(config, suite, model, moments, apart=True)
    assert 0.5 < flops.gradient_flops(config, work) / counter.get_total_flops() < 2
    assert train.features.shape[1] == work.stored_numbers(config)
    assert train.features[0].nbytes + train.products[0].nbytes == work.row_bytes(config)
    assert anchor["basis"].shape[1] == work.dimension(config)
    estimator = estimator_of(config, suite, model, apart=True)
    with flop_counter() as counter:
        estimator.estimate(subset_design(len(suite.tasks), 20, config.fits.sizes, 0))
    ratio = flops.fit_flops(config, work) / counter.get_total_flops()
    assert 0.5 < ratio < 2, ratio


@pytest.mark.parametrize(("shape", "other"), [((1200, 900), (900, 1000)), ((8, 8), (8, 8))], ids=["oneDNN", "torch"])
def test_the_counter_sees_the_products_of_the_fits(shape, other):
    from affinity_service.fitting.products import affine

    a, b, total = torch.ones(shape), torch.ones(other), torch.zeros(shape[0], other[1])
    affine(a, b.t().contiguous())  # the first call tries the operator out
    with flop_counter() as counter:
        affine(a, b.t().contiguous())
        total.addmm_(a, b)
    assert counter.get_total_flops() == 2 * 2 * shape[0] * shape[1] * other[1]


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 6, 13])
def test_subsets_are_counted_as_they_are_designed(tasks, config):
    settings = config(fits={"subsets": 30, "sizes": [3, 5]})
    low, high = (min(size, tasks) for size in settings.fits.sizes)
    design = subset_design(tasks, 30 if tasks >= 3 else 0, (low, high), 0)
    counted = Subsets.of(settings, tasks)
    assert counted.count == len(design)
    assert counted.memberships == pytest.approx(sum(map(len, design)), rel=0.05)
