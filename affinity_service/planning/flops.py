"""Floating-point operations per stage as `timings.json` counts them: of matrix products, two per multiply and add."""

from __future__ import annotations

import math

from affinity_service.config import Config
from affinity_service.planning.workload import Subsets, Workload, expected_epochs, expected_groups, group_trainings
from affinity_service.tasks.sampling import steps_per_epoch
from affinity_service.tasks.suite import TRAIN, VALIDATION

# Of the subset fits, measured on gradients of Yeast (d = 400 and 949) and of 40 tasks with missing labels (d = 400):
# passes over the rows until a subset has converged (5 to 10; 3 to 4 where d is below 50); products with the tasks'
# curvature per pass relative to √d (0.5 to 1.3); Newton steps to the common reference point, and the rows per
# dimension that they read.
FIT_PASSES = 6
FIT_PRODUCTS = 1.0
REFERENCE_STEPS = 3
REFERENCE_ROWS = 20


def forward_flops(work: Workload) -> int:
    """Of one example through the body and all heads."""
    return 2 * (sum(m * n for m, n in work.body) + work.hidden[-1] * sum(work.outputs))


def backward_flops(work: Workload) -> int:
    """Gradients of all weights, and of all layers' inputs but the data."""
    first_in, first_out = work.body[0]
    return 2 * forward_flops(work) - 2 * first_in * first_out


def base_model_flops(config: Config, work: Workload, epochs: float) -> float:
    steps = steps_per_epoch(work.rows[TRAIN], config.base.batch_size)
    training = (forward_flops(work) + backward_flops(work)) * steps * config.base.batch_size
    return epochs * (training + forward_flops(work) * work.rows[VALIDATION])


def gradient_flops(config: Config, work: Workload) -> float:
    """Forward, backward to the layers' outputs and reduction; a batch mostly holds the rows of one task."""
    head = work.hidden[-1] * sum(work.outputs) / work.tasks
    forward = 2 * (sum(m * n for m, n in work.body) + head)
    backward = forward - 2 * math.prod(work.body[0])
    reduction = 0.0
    if config.gradients.reduction == "rademacher":
        reduction = 2 * config.gradients.dimension * (work.body_parameters + work.head_parameters)
    return work.labels * (forward + backward + reduction)


def fit_products(d: int) -> float:
    """Conjugate-gradient steps of a pass."""
    return FIT_PRODUCTS * math.sqrt(d)


def fit_flops(config: Config, work: Workload) -> float:
    """Two products per pass over the rows, products with the curvature in between, and what each tile sets up."""
    d, rows = work.dimension(config), sum(work.train)
    subsets = Subsets.of(config, work.tasks)
    tiles = math.ceil(subsets.count / config.fits.tile)
    per_task, validation = rows / work.tasks, sum(work.validation) / work.tasks
    dense = d * work.tasks <= 2 * rows
    turns = 4 * subsets.count * d * d
    # A task's curvature is kept as a matrix, or as its rows where those are fewer.
    product = subsets.memberships * (2 * d * d if dense else 4 * per_task * d) + (0 if dense else turns)
    passes = FIT_PASSES * (4 * subsets.memberships * per_task * d + fit_products(d) * product + turns)
    sample = min(rows, max(16 * work.tasks, REFERENCE_ROWS * d))
    setup = 2 * d * d * (REFERENCE_STEPS * sample + rows + (2 * work.tasks * d if dense else rows))
    return passes + tiles * setup + 2 * subsets.memberships * validation * d


def affinity_flops(config: Config, work: Workload) -> float:
    subsets = Subsets.of(config, work.tasks)
    return 2 * subsets.memberships**2 / subsets.count


def group_model_flops(config: Config, work: Workload, epochs: float | None = None) -> float:
    epochs = expected_epochs(config.base) if epochs is None else epochs
    training, forward = forward_flops(work) + backward_flops(work), forward_flops(work)
    groups = expected_groups(config, work.tasks)
    return sum(
        models
        * epochs
        * (training * work.rows_of(round(size), TRAIN) + forward * work.rows_of(round(size), VALIDATION))
        for size, models in group_trainings(config.group_models, work.tasks, groups)
    )
