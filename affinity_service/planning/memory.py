"""Bytes per stage: main memory summed over the driver and all Ray processes, one GPU's memory, the study's disk.

Proportional set sizes, as engine/memory.py measures them. What is constant was read off the processes of finished runs
(Ray 2.60, torch 2.13 without CUDA, Python 3.11, two cores).
"""

from __future__ import annotations

from dataclasses import dataclass

from affinity_service.config import Config
from affinity_service.planning.flops import REFERENCE_ROWS
from affinity_service.planning.machine import Machine
from affinity_service.planning.workload import (
    ROW_COPIES,
    Subsets,
    Workload,
    expected_groups,
    group_trainings,
    trials_of,
)

MB = 1 << 20
# Raylet, control store, dashboard, agents, log monitor.
RAY_DAEMONS = 600 * MB
# A process that Ray keeps ready, one per core.
RAY_READY = 43 * MB
# The driver: torch, Ray, pyarrow, pandas.
DRIVER = 360 * MB
# A worker that has imported torch and a stage; shared pages are split among the processes.
WORKER = 320 * MB
# Ray Train's controller and its helpers while a training runs, and what of it stays as long as Ray does.
TRAIN_HELPERS = 910 * MB
TRAIN_REMAINS = 500 * MB
# An import of CUDA and its context: in main memory and on the GPU.
CUDA_HOST = 2000 * MB
CUDA_CONTEXT = 600 * MB
# float32 numbers kept per parameter: weight, gradient, two moments, the best weights and moments, the copies for
# a checkpoint; in a stack: weight, gradient, two moments, best, temporaries of the optimizer.
TRAINING_COPIES = 9
STACK_COPIES = 11
# Times the features that a fit worker comes to hold: its tensors, the blocks, and what the allocator keeps.
FIT_COPIES = 4.5
FIT_OVERHEAD = 60 * MB
GPU_FIT_COPIES = 3
# Of gradients/reductions/rademacher.py: entries of the sign matrix alive at a time, and kept between batches.
SIGN_CHUNK = 1 << 22
SIGN_CACHE = 1 << 26
# Bytes of a row of the feature store beside its features; rows of a fit table beside its weights.
STORE_COLUMNS = 25
VALIDATION_CHUNK = 4096
# Of the bytes of tokens, while texts are read and tokenised.
TEXT_COPIES = 20
# Entries of a chunk of gradients in gradients/projection.py.
BASIS_CHUNK = 1 << 24
# Of affinity/linearized.py: memory of displacements, numbers per weight.
PATH_BYTES, PATH_COPIES = 1 << 30, 14
# What evaluation/fine_tuning.py may fill with a stack of models.
STACK_BYTES = 1 << 30


@dataclass(frozen=True)
class Bytes:
    """Largest at one moment: in main memory, on one GPU, and what stays on the study's disk."""

    memory: float
    gpu: float = 0.0
    disk: float = 0.0


def stacked_model_bytes(parameters: float, rows: int, activations: float) -> float:
    """One model of a stack that passes so many rows at a time."""
    return 4 * (STACK_COPIES * parameters + ROW_COPIES * rows * activations)


def text_bytes(config: Config, work: Workload, machine: Machine) -> Bytes:
    """Texts, their tokens as Python has them, and the arrays of them."""
    return with_common(machine, work, TEXT_COPIES * work.suite_bytes, 2 * work.suite_bytes)


def base_model_bytes(config: Config, work: Workload, machine: Machine, workers: int) -> Bytes:
    """Ranks share the batch; ZeRO splits moments (1), gradients (2) and weights (3) among them."""
    copies = {0: 4.0, 1: 2 + 2 / workers, 2: 1 + 3 / workers, 3: 4 / workers}[config.base.zero_stage]
    state = 4 * work.parameters * (TRAINING_COPIES - 4 + copies)
    batch = config.base.batch_size // workers // config.base.accumulation
    passes = work.training_bytes(batch, min(VALIDATION_CHUNK, work.rows[1]), config.base.tokens)
    own = state + passes + work.pretrained_bytes
    held = TRAIN_HELPERS + workers * (WORKER + own)
    gpu = 4 * work.parameters * copies + passes + work.pretrained_bytes
    return _bytes(machine, work, held, workers, gpu, 8 * work.parameters)


def gradient_bytes(config: Config, work: Workload, machine: Machine, workers: int) -> Bytes:
    settings, d = config.gradients, work.stored_numbers(config)
    rows = min(settings.shard_rows, work.labels)
    batch = min(settings.batch_rows, rows)
    # Products come in single precision.
    products = work.products(config)
    shard = 3 * rows * (4 * (d + products) + STORE_COLUMNS)
    # Sums of all tasks of a split, in double precision, in one actor, thrice when they are written or read; and the
    # anchor that comes of them.
    anchor = _anchor(config, work)
    sums = 3 * 8.0 * 2 * work.parameters * min(work.tasks, 1 + settings.shard_rows * work.tasks / work.labels)
    if settings.reduction == "exact":
        reduction, on_gpu = 0.0, 4.0 * batch * d * 3
    elif settings.reduction == "subspace":
        reduction = 4.0 * work.basis_rows(config) * (work.dimension(config) + products)
        on_gpu = 4.0 * (2 * BASIS_CHUNK + batch * (d + products)) + 3 * reduction
    elif settings.reduction == "factorised":
        reduction, on_gpu = 0.0, 4.0 * batch * d * 2
    else:
        entries = work.parameters * d
        reduction = 4.0 * (entries if entries <= SIGN_CACHE else min(entries, SIGN_CHUNK))
        on_gpu = 2 * 4 * (batch * min(work.parameters, SIGN_CHUNK / d) + batch * d) + reduction
    passes = work.training_bytes(batch, 0, settings.batch_tokens)
    own = 4.0 * work.parameters * 2 + passes + work.pretrained_bytes
    if not work.factored:
        own += ROW_COPIES * 4.0 * batch * work.parameters
    held = TRAIN_REMAINS + workers * (WORKER + own + sums + shard + reduction + on_gpu + 13 * work.labels) + 3 * anchor
    stored = work.labels * (work.row_bytes(config) + STORE_COLUMNS) + (
        anchor if settings.reduction == "subspace" else 0
    )
    return _bytes(machine, work, held, workers, own + on_gpu, stored)


def fit_bytes(config: Config, work: Workload, machine: Machine, workers: int) -> Bytes:
    """The features once in the object store, and copies of them in every worker; products are read where they lie."""
    subsets = Subsets.of(config, work.tasks)
    stored = work.labels * (work.row_bytes(config) + STORE_COLUMNS)
    held = TRAIN_REMAINS + stored + workers * (WORKER + _fit_heap(config, work))
    # Coordinates of the displacement: those that all tasks share, and of each member its own.
    own = work.own_coordinates(config) + (1 if work.heads_apart(config) else 0)
    coordinates = subsets.count * work.dimension(config) + subsets.memberships * own
    written = 4 * coordinates + 60 * subsets.count + 20 * subsets.memberships
    gpu = GPU_FIT_COPIES * stored + 2 * _curvature(config, work) + 3 * 4 * (1 << 26)
    return _bytes(machine, work, held, workers, gpu, written)


def analysis_bytes(config: Config, work: Workload, machine: Machine, fit_workers: int) -> Bytes:
    """Affinity, groups, report: the driver alone works, beside the idle workers of the fits."""
    idle = fit_workers * (WORKER + _idle_heap(config, work))
    subsets = Subsets.of(config, work.tasks)
    own = 200 * subsets.memberships + 100 * work.tasks**2
    return _bytes(machine, work, TRAIN_REMAINS + idle + own, 0, 0, 30 * subsets.memberships + 60 * work.tasks**2)


def group_model_bytes(
    config: Config, work: Workload, machine: Machine, workers: int, fit_workers: int, stacked: bool
) -> Bytes:
    groups = expected_groups(config, work.tasks)
    kept = 4 * work.parameters * groups * (1 + config.group_models.seeds)
    if not stacked:
        one = base_model_bytes(config, work, machine, config.base.workers)
        return Bytes(one.memory + (workers - 1) * (one.memory - _common(machine, work)), one.gpu, kept)
    batch = max(config.base.batch_size, min(2048, work.rows[1]))
    trainings = group_trainings(config.group_models, work.tasks, groups)
    stack = max(
        models * stacked_model_bytes(work.parameters_with(columns), batch, work.activations_with(columns))
        for models, tasks in trials_of(trainings, config.group_models.models_per_trial)
        for columns in [work.columns_of(tasks)]
    )
    # Ray keeps a process per core: those that no trial takes still hold what the fits left in them.
    idle = max(0, min(machine.cores, fit_workers) - workers) * (WORKER + _idle_heap(config, work))
    held = TRAIN_REMAINS + idle + workers * (WORKER + stack)
    return _bytes(machine, work, held, workers, stack + work.suite_bytes, kept)


def _fit_heap(config: Config, work: Workload) -> float:
    d = work.stored_numbers(config)
    if config.affinity.estimator == "trained":
        return FIT_OVERHEAD + (2.0 * STACK_BYTES if work.stackable else _plain_bytes(config, work))
    if config.solution == "path":
        moved = work.moved_weights(config, config.fits.sizes[1])
        numbers = PATH_COPIES * moved + _along_means(config, work)
        together = min(config.fits.tile, max(1, PATH_BYTES // (4 * numbers)))
        if work.heads_apart(config):
            # The tables cut in two, and the means again over the metric.
            more = 4.0 * 4 * work.tasks * work.body_parameters
        else:
            # Every task's curvature or its rows once more.
            more = 4.0 * d * sum(min(rows, d) for rows in work.train)
        held = _anchor(config, work) + more + 4.0 * together * numbers
        # The process that fine-tunes probes fits no subsets then.
        probes = 0.0 if work.stackable else _plain_bytes(config, work)
        return FIT_OVERHEAD + max(2 * 4.0 * work.labels * d + held, probes)
    sample = 4 * d * min(sum(work.train), max(16 * work.tasks, REFERENCE_ROWS * d))
    features = 4 * work.labels * d
    return FIT_COPIES * features + 3 * sample + 2 * _curvature(config, work) + FIT_OVERHEAD


def _plain_bytes(config: Config, work: Workload) -> float:
    """Of one true training in a plain loop."""
    passes = work.training_bytes(config.base.batch_size, work.rows[1], config.base.tokens)
    return work.pretrained_bytes + 4 * 8 * work.parameters + passes


def _anchor(config: Config, work: Workload) -> float:
    """Weights, metric, statistics of every task, basis and the means outside it."""
    spanned = work.basis_rows(config) * (work.dimension(config) + work.products(config))
    return 4.0 * (work.parameters * (3 * work.tasks + 2) + spanned)


def _along_means(config: Config, work: Workload) -> float:
    """Features of the rows of one of the largest subsets along its own means, and their margins."""
    tasks = config.fits.sizes[1]
    return (tasks + 1) * tasks * work.labels / work.tasks if work.heads_apart(config) else 0.0


def _idle_heap(config: Config, work: Workload) -> float:
    """What a fit worker has not given back: measured as most of its largest size."""
    return 0.8 * _fit_heap(config, work)


def _curvature(config: Config, work: Workload) -> float:
    """Of all tasks in one tile, as matrices or as weights of the rows."""
    d, rows = work.dimension(config), sum(work.train)
    return 4.0 * (work.tasks * d * d if d * work.tasks <= 2 * rows else rows + d * d)


def _common(machine: Machine, work: Workload) -> float:
    # The suite lies in the driver, once in the object store, and in pieces elsewhere.
    return RAY_DAEMONS + machine.cores * RAY_READY + DRIVER + 3 * work.suite_bytes


def with_common(machine: Machine, work: Workload, held: float, disk: float) -> Bytes:
    """With what Ray and the driver take, of work that no GPU does."""
    return Bytes(_common(machine, work) + held, 0.0, disk)


def _bytes(machine: Machine, work: Workload, held: float, workers: int, gpu: float, disk: float) -> Bytes:
    total = _common(machine, work) + held
    if not machine.gpus or not workers:
        return Bytes(total, 0.0, disk)
    return Bytes(total + workers * CUDA_HOST, gpu + CUDA_CONTEXT, disk)
