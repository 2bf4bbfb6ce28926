"""Any suite that passes the checks ends in a finite matrix; any other is refused by a message that names a task."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affinity_service.affinity.matrix import matrix_from_estimates
from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.evaluation.stacked import Run, StackedTrainer
from affinity_service.fitting import subset_design
from affinity_service.grouping import centre_rows, cluster
from affinity_service.tasks import Suite, Task
from affinity_service.tasks.checks import check_suite
from affinity_service.tasks.suite import seeded_split, standardise_inputs, standardise_targets
from tests.estimating import estimator_of, model_of


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
    st.sampled_from(
        [("rademacher", 1), ("rademacher", 7), ("exact", 1), ("subspace", 3), ("subspace", 40), ("factorised", 6)]
    ),
    st.sampled_from(["optimizer", "euclidean"]),
    st.sampled_from([{}, {"solution": "ridge"}, {"solution": "ridge", "l2": 1e-4}, {"stop": "last", "epochs": 3}]),
    st.integers(1, 50),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_valid_suite_gives_a_finite_matrix(suite, reduction, metric, fits, batch_rows):
    try:
        check_suite(suite)
        suite = standardise_inputs(standardise_targets(suite))
    except UserError as error:
        assert "task `task" in str(error)  # noqa: PT017 - a clear refusal is as right as a matrix
        return
    config = Config.parse(
        {
            "name": "any",
            "data": {"source": "yeast"},
            "model": {"hidden": [5]},
            "base": {"epochs": 2, "batch_size": 8},
            "gradients": {
                "reduction": reduction[0],
                "dimension": reduction[1],
                "metric": metric,
                "batch_rows": batch_rows,
            },
            "fits": fits,
        }
    )
    tasks = tuple(range(len(suite.tasks)))
    trainer = StackedTrainer(suite, config.base, lambda seed: model_of(config, suite, seed), "cpu")
    (trained,) = trainer.train([Run(tasks, 0)])
    model = model_of(config, suite)
    model.load_state_dict(trained.weights)
    sizes = (min(3, len(tasks)), min(config.fits.sizes[1], len(tasks)))
    subsets = subset_design(len(tasks), 5 if len(tasks) > 2 else 0, sizes, seed=0)
    estimates = estimator_of(config, suite, model).estimate(subsets)
    assert estimates.converged.all()
    matrix = matrix_from_estimates(suite.names, subsets, estimates.losses, estimates.standard_errors)
    for values in (matrix.affinity, matrix.standard_error, matrix.pair_estimate):
        assert np.isfinite(values).all()
    assert (matrix.standard_error >= 0).all()
    for k in range(1, len(tasks) + 1):
        groups = cluster(centre_rows(matrix.affinity), k, "agglomerative").groups
        assert len(groups) == k
        assert sorted(task for group in groups for task in group) == list(tasks)
