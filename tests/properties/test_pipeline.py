"""Any suite that passes the checks ends in a finite matrix; any other is refused by a message that names a task."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affinity_service.affinity import LinearizedEstimator
from affinity_service.affinity.matrix import matrix_from_estimates
from affinity_service.config import FitConfig, GradientConfig, MLPConfig, TrainConfig
from affinity_service.errors import UserError
from affinity_service.evaluation.stacked import Run, StackedTrainer
from affinity_service.fitting import subset_design
from affinity_service.gradients import FeatureRows, compute_features
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import build_reduction
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.grouping import centre_rows, cluster
from affinity_service.models import build_model
from affinity_service.tasks import TRAIN, VALIDATION, Suite, Task
from affinity_service.tasks.checks import check_suite
from affinity_service.tasks.suite import seeded_split, standardise_inputs, standardise_targets


@st.composite
def suites(draw: st.DrawFn) -> Suite:
    rows, features = draw(st.integers(4, 60)), draw(st.integers(1, 6))
    kinds = draw(st.lists(st.sampled_from(["binary", "multiclass", "regression"]), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    scale = draw(st.sampled_from([1e-6, 1.0, 1e6]))
    inputs = (scale * rng.normal(size=(rows, features))).astype(np.float32)
    labels = np.empty((rows, len(kinds)), np.float32)
    tasks = []
    for column, kind in enumerate(kinds):
        classes = draw(st.integers(2, 4)) if kind == "multiclass" else 1
        tasks.append(Task(f"task {column}", kind, classes))
        values = rng.normal(size=rows) * scale if kind == "regression" else rng.integers(max(classes, 2), size=rows)
        labels[:, column] = values
    # From fully labelled to rows that carry one task each or none.
    labels[rng.random(labels.shape) < draw(st.sampled_from([0.0, 0.3, 0.8]))] = np.nan
    split = seeded_split(rows, draw(st.sampled_from([0.1, 0.3])), 0.2, draw(st.integers(0, 99)))
    return Suite(inputs, labels, split, tuple(tasks))


@given(
    suites(),
    st.sampled_from([("rademacher", 1), ("rademacher", 7), ("exact", 1)]),
    st.sampled_from([1e-4, 1e-2, 1.0]),
    st.integers(1, 50),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_valid_suite_gives_a_finite_matrix(suite, reduction, l2, batch_rows):
    try:
        check_suite(suite)
        suite = standardise_inputs(standardise_targets(suite))
    except UserError as error:
        assert "task `task" in str(error)  # noqa: PT017 - a clear refusal is as right as a matrix
        return
    torch.manual_seed(0)
    model_config = MLPConfig(hidden=[5])

    def build(seed: int) -> torch.nn.Module:
        return build_model(model_config, suite.inputs.shape[1:], suite.tasks, seed)

    tasks = tuple(range(len(suite.tasks)))
    base = TrainConfig(epochs=2, batch_size=8)
    (trained,) = StackedTrainer(suite, base, build, "cpu").train([Run(tasks, 0)])
    model = build(0)
    model.load_state_dict(trained.weights)
    config = GradientConfig(reduction=reduction[0], dimension=reduction[1])
    reduce = build_reduction(config, WeightSpace({name: tuple(p.shape) for name, p in model.named_parameters()}))
    gradients = PerExampleGradients(model, suite.tasks)
    rows = []
    for split in (TRAIN, VALIDATION):
        example, task = suite.pairs(split)
        found = compute_features(gradients, reduce, suite, example, task, batch_rows)
        rows.append(FeatureRows(found.features, found.margins, found.targets, task, example))
    sizes = (min(3, len(tasks)), min(FitConfig().sizes[1], len(tasks)))
    subsets = subset_design(len(tasks), 5 if len(tasks) > 2 else 0, sizes, seed=0)
    estimates = LinearizedEstimator(*rows, suite.tasks, l2).estimate(subsets)
    assert estimates.converged.all()
    matrix = matrix_from_estimates(suite.names, subsets, estimates.losses, estimates.standard_errors)
    for values in (matrix.affinity, matrix.standard_error, matrix.pair_estimate):
        assert np.isfinite(values).all()
    assert (matrix.standard_error >= 0).all()
    for k in range(1, len(tasks) + 1):
        groups = cluster(centre_rows(matrix.affinity), k, "agglomerative").groups
        assert len(groups) == k
        assert sorted(task for group in groups for task in group) == list(tasks)
