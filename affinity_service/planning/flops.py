"""Floating-point operations per stage as `timings.json` counts them: of matrix products, two per multiply and add."""

from __future__ import annotations

import math

from affinity_service.config import MANY_TASKS, Config
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
# Of the path, as fitting/path.py: strides between two looks at the examples grow by one with so many optimizer steps. A
# step changes a margin the more, the more weights it moves: with 11,661 weights 38 looks were measured in 210 steps,
# with 28,798 22 in 45, with 35,396 all of 15 and with 921,600 all of 24.
PATH_GROWTH, GROWTH_WEIGHTS, LONGEST_STRIDE = 14.0, 11_661, 50
# Of gradients/subspace_basis.py; passes of QR and of changes of basis over its columns, measured on Yeast.
MEANS_SHARE, OVERSAMPLING, POWER_ITERATIONS = 0.75, 20, 2
BASIS_TURNS = 12
# Of affinity/trained.py and engine/analysis.py.
TRAINED_SEEDS, GROUP_SEEDS = 2, 3


def forward_flops(work: Workload, tasks: float | None = None) -> float:
    """Of one example through the body and the heads of so many tasks, of all when None."""
    return 2 * (work.body_products + work.width * work.columns_of(tasks))


def backward_flops(work: Workload, tasks: float | None = None) -> float:
    """Gradients of all weights that train, and of all layers' inputs but the data."""
    return 2 * forward_flops(work, tasks) - 2 * data_products(work) - 2 * work.frozen_products


def data_products(work: Workload) -> int:
    """Of the layers that read the data."""
    return sum(layer.products for layer in work.body if layer.reads_data)


def training_flops(work: Workload, tasks: float | None = None) -> float:
    """Forward and backward."""
    return forward_flops(work, tasks) + backward_flops(work, tasks)


def run_flops(work: Workload, tasks: float) -> float:
    """One epoch of a model of so many tasks, on their examples and with their heads only."""
    train, validation = (work.rows_of(max(1, round(tasks)), split) for split in (TRAIN, VALIDATION))
    return training_flops(work, tasks) * train + forward_flops(work, tasks) * validation


def base_model_flops(config: Config, work: Workload, epochs: float) -> float:
    steps = steps_per_epoch(work.rows[TRAIN], config.base.batch_size)
    training = training_flops(work) * steps * config.base.batch_size
    beside = measured_steps(config, work) * measuring_flops(config, work)
    return epochs * (training + forward_flops(work) * work.rows[VALIDATION] + beside)


def measured_steps(config: Config, work: Workload) -> float:
    """Per epoch, how often the gradients of all tasks are taken while the base model trains."""
    steps = steps_per_epoch(work.rows[TRAIN], config.base.batch_size)
    measured = steps / config.measuring.every if config.measuring is not None else 0.0
    if config.schedule is not None:
        every = config.schedule.track == "active" or config.schedule.aggregator != "sum"
        measured += steps if every else steps * config.schedule.probes / config.schedule.refresh
    return measured


def measuring_flops(config: Config, work: Workload) -> float:
    """One pass backward per task, and with lookahead one forward after each task's step."""
    part = config.measuring
    passes = 1 + 2 * work.tasks
    if part is not None:
        passes = passes * (2 if part.batch == "held_out" else 1) + (work.tasks + 1 if part.lookahead else 0)
    return forward_flops(work) * config.base.batch_size * passes


def gradient_flops(config: Config, work: Workload) -> float:
    """Forward and backward to the layers' outputs twice, with the sums and with the reduction; the basis between them.

    A batch mostly holds the rows of one task.
    """
    settings = config.gradients
    products = work.body_products + work.width * sum(work.outputs) / work.tasks
    # With factors no gradient is formed but in the sums, of first and second powers; without them in every pass.
    passes = (4 if work.factored else 6) * products - 2 * data_products(work)
    sums = 4 * (products - work.frozen_products) if work.factored else 0.0
    reduced = work.body_parameters + (0 if work.heads_apart(config) else work.head_parameters)
    reduction, basis = 0.0, 0.0
    if settings.reduction == "factorised" and work.factored:
        reduction = 4 * math.sqrt(settings.most_dimensions) * sum(each.inputs + each.outputs for each in work.body)
    elif settings.reduction != "exact":
        reduction = 2 * (work.products(config) * reduced + basis_products(config, work, reduced))
    if settings.reduction == "subspace":
        landmarks, width = min(settings.most_landmarks, sum(work.train)), basis_width(config, work)
        formed = work.factor_products(config) or reduced * width
        basis = landmarks * landmark_rounds(config, work) * (passes + 2 * formed)
        basis += BASIS_TURNS * work.basis_rows(config) * width**2
    return work.labels * (2 * passes + sums + reduction) + basis


def basis_products(config: Config, work: Workload, reduced: float) -> float:
    """Multiplications from one gradient of so many weights to its coordinates."""
    factors = work.factor_products(config)
    return work.dimension(config) * (work.basis_rows(config) if factors else reduced) + factors


def landmark_rounds(config: Config, work: Workload) -> int:
    """How often the landmarks' gradients are formed: for each product of the range finder; with the plain metric for
    the kernel, the means' part and the directions; once, where their coordinates by layer are kept."""
    if work.factor_products(config):
        return 1
    if config.gradients.reduction != "subspace":
        return 0
    return 2 * POWER_ITERATIONS + 2 if config.gradients.metric == "optimizer" else 3


def basis_width(config: Config, work: Workload) -> int:
    """Columns of the range finder: the directions that the means leave, and a few more."""
    d = work.dimension(config)
    means = 0 if work.heads_apart(config) else min(2 * work.tasks, max(1, int(MEANS_SHARE * d)))
    return min(d - means + OVERSAMPLING, config.gradients.most_landmarks)


def fit_products(d: int) -> float:
    """Conjugate-gradient steps of a pass."""
    return FIT_PRODUCTS * math.sqrt(d)


def fit_flops(config: Config, work: Workload) -> float:
    """Of the estimates of all subsets and of the probes."""
    subsets = Subsets.of(config, work.tasks)
    members = subsets.memberships / subsets.count
    if config.affinity.estimator == "trained":
        return TRAINED_SEEDS * subsets.count * fine_tuning_flops(config, work, members)
    one = path_flops(config, work) if config.solution == "path" else ridge_flops(config, work)
    if runs_network(config, work):
        one += subsets.count * forward_flops(work, members) * work.rows_of(max(1, round(members)), VALIDATION)
    return one + config.fits.probes * (
        config.fits.probe_seeds * fine_tuning_flops(config, work, probe_tasks(config)) + one / subsets.count
    )


def probe_tasks(config: Config) -> float:
    """Of a probe, on average."""
    return sum(config.fits.probe_sizes) / 2


def runs_network(config: Config, work: Workload) -> bool:
    wish = config.fits.evaluate
    return wish == "network" or (wish == "auto" and config.path_can_go and work.stackable and work.tasks <= MANY_TASKS)


def fine_tuning_flops(config: Config, work: Workload, tasks: float) -> float:
    """One true fine-tuning on a subset of so many tasks."""
    return config.fits.epochs * run_flops(work, tasks)


def probed_groups(config: Config, tasks: int) -> int:
    """True fine-tunings of the groups that `direct` chose and of those that it began with."""
    return 2 * expected_groups(config, tasks) * GROUP_SEEDS if config.groups.probe else 0


def group_flops(config: Config, work: Workload) -> float:
    size = work.tasks / expected_groups(config, work.tasks)
    return probed_groups(config, work.tasks) * fine_tuning_flops(config, work, size)


def path_steps(config: Config, work: Workload) -> float:
    """Optimizer steps of one subset."""
    subsets = Subsets.of(config, work.tasks)
    rows = work.rows_of(round(subsets.memberships / subsets.count), TRAIN)
    return config.fits.epochs * steps_per_epoch(round(rows), config.base.batch_size)


def path_looks(config: Config, work: Workload) -> float:
    """Looks of one subset at the examples."""
    growth = PATH_GROWTH * math.sqrt(max(1.0, work.parameters / GROWTH_WEIGHTS))
    steps, longest = path_steps(config, work), growth * (LONGEST_STRIDE - 1)
    return growth * math.log1p(min(steps, longest) / growth) + max(0.0, steps - longest) / LONGEST_STRIDE


def path_flops(config: Config, work: Workload) -> float:
    """Per look at the examples two products over a subset's rows and two with the basis; losses after every epoch. A
    subset's own means are as many further directions, once made orthonormal."""
    d, subsets = work.stored_numbers(config), Subsets.of(config, work.tasks)
    per_task, validation = sum(work.train) / work.tasks, sum(work.validation) / work.tasks
    members, apart = subsets.memberships, work.heads_apart(config)
    # Of all subsets together: means per subset, and per member of one.
    means, squares = (members, _squared_sizes(config, work.tasks)) if apart else (0, 0)
    with_basis = 2.0 * work.basis_rows(config) * (work.dimension(config) + means / subsets.count)
    with_basis += 2 * work.factor_products(config)
    if config.gradients.reduction == "exact":
        with_basis = 0.0
    looks = path_looks(config, work)
    # How far margins have moved: by the tasks' curvatures, or where features differ from subset to subset by the
    # margins themselves.
    curvature = 0 if apart else 2 * min(d, per_task) * d
    rows = looks * (members * (4 * per_task * d + curvature) + 4 * per_task * squares)
    rows += 2 * squares * work.basis_rows(config)
    epochs = config.fits.epochs * (2 * validation * (members * d + squares) + subsets.count * with_basis)
    return rows + looks * subsets.count * 2 * with_basis + epochs


def _squared_sizes(config: Config, tasks: int) -> float:
    """Of all subsets, as if all but singles and pairs were of one size."""
    subsets, larger = Subsets.of(config, tasks), Subsets.larger_count(config, tasks)
    pairs = subsets.count - tasks - larger
    return tasks + 4 * pairs + larger * Subsets.larger_size(config, tasks) ** 2


def ridge_flops(config: Config, work: Workload) -> float:
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
    penalties = 1 if config.fits.l2 != "auto" else math.ceil(math.log2(config.fits.epochs)) + 1
    return penalties * (passes + tiles * setup + 2 * subsets.memberships * validation * d)


def affinity_flops(config: Config, work: Workload) -> float:
    subsets = Subsets.of(config, work.tasks)
    return 2 * subsets.memberships**2 / subsets.count


def group_model_flops(config: Config, work: Workload, epochs: float | None = None) -> float:
    epochs = expected_epochs(config.base) if epochs is None else epochs
    groups = expected_groups(config, work.tasks)
    trainings = group_trainings(config.group_models, work.tasks, groups)
    return sum(models * epochs * run_flops(work, size) for size, models in trainings)
