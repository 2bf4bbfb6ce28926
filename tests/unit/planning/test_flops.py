"""The formulas against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from affinity_service.affinity import LinearizedEstimator
from affinity_service.config import Config
from affinity_service.evaluation.flops import flop_counter, pass_flops
from affinity_service.fitting import subset_design
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import build_reduction
from affinity_service.gradients.store import FeatureRows, pair_rows
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models import build_model
from affinity_service.planning import flops
from affinity_service.planning.workload import Subsets, Workload
from affinity_service.tasks.suite import TRAIN, VALIDATION
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


def test_a_workload_counts_rows_and_labels_of_the_suite():
    suite, _, work = mixed([8])
    assert work.labels == len(pair_rows(suite)[0])
    assert work.rows == tuple(len(suite.rows(split)) for split in range(3))
    for tasks in ((0,), (0, 1), (0, 1, 2, 3)):
        assert work.rows_of(len(tasks), 0) == pytest.approx(len(suite.rows(0, tasks)), rel=0.1)


@pytest.mark.parametrize("reduction", ["rademacher", "exact"])
def test_gradient_features_are_what_torch_counts(reduction):
    suite, config, work = mixed([16, 8], gradients={"reduction": reduction, "dimension": 40})
    model = build_model(config.model, suite.inputs.shape[1:], suite.tasks, 0)
    reduce = build_reduction(
        config.gradients, WeightSpace({name: tuple(p.shape) for name, p in model.named_parameters()})
    )
    _, task, example = pair_rows(suite)
    with FlopCounterMode(display=False) as counter:
        compute_features(PerExampleGradients(model, suite.tasks), reduce, suite, example, task, 32)
    # A batch on the border of two tasks asks for both heads.
    assert flops.gradient_flops(config, work) == pytest.approx(counter.get_total_flops(), rel=0.1)


@pytest.mark.parametrize("reduction", ["rademacher", "exact"])
def test_fits_are_within_a_factor_of_two_of_what_is_counted(reduction):
    """On gradients of a model, for which the constants were measured; other features take other numbers of passes."""
    suite = allies_and_rivals(rows=900)
    gradients = {"reduction": reduction, "dimension": 60}
    sections = {"model": {"hidden": [8]}, "gradients": gradients, "fits": {"subsets": 20, "tile": 1000}}
    config = Config.parse({"name": "x", "data": {"source": "yeast"}, **sections})
    model = build_model(config.model, suite.inputs.shape[1:], suite.tasks, 0)
    reduce = build_reduction(
        config.gradients, WeightSpace({name: tuple(p.shape) for name, p in model.named_parameters()})
    )
    per_example = PerExampleGradients(model, suite.tasks)

    def rows(split):
        example, task = suite.pairs(split)
        made = compute_features(per_example, reduce, suite, example, task, 512)
        return FeatureRows(made.features, made.margins, made.targets, task, example)

    estimator = LinearizedEstimator(rows(TRAIN), rows(VALIDATION), suite.tasks, config.fits.l2)
    with flop_counter() as counter:
        estimator.estimate(subset_design(len(suite.tasks), 20, config.fits.sizes, 0))
    ratio = flops.fit_flops(config, Workload.of(config, suite)) / counter.get_total_flops()
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
