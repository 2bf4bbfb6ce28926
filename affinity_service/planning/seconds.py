"""Seconds per stage: start-ups of processes, which are constants of Ray, and work, from the rates of this machine.

Start-ups were measured with little else running on two cores of an AMD EPYC (Ray 2.60, torch 2.13, DeepSpeed 0.19.8,
warm disk cache); they are imports and waits, so they grow somewhat as Python is slower here.
"""

from __future__ import annotations

import math

from affinity_service.config import Config
from affinity_service.planning.flops import (
    FIT_PASSES,
    TRAINED_SEEDS,
    base_model_flops,
    fit_flops,
    fit_products,
    gradient_flops,
    landmark_rounds,
    measured_steps,
    path_looks,
    path_steps,
    probe_tasks,
    probed_groups,
    ridge_flops,
    run_flops,
    training_flops,
)
from affinity_service.planning.machine import Machine
from affinity_service.planning.memory import SIGN_CACHE, STACK_BYTES, stacked_model_bytes
from affinity_service.planning.workload import Subsets, Workload, expected_groups, group_trainings, trials_of
from affinity_service.tasks.sampling import steps_per_epoch
from affinity_service.tasks.suite import TRAIN, VALIDATION

# ray.init and the check of the nodes; counted before the first stage.
RAY_START = 7.0
# Placement, controller, imports of Ray Train and DeepSpeed in the workers, deepspeed.initialize; the end of the run.
TRAIN_START = 13.0
# A report with its checkpoint until Ray Train has consumed it (health poll of 0.2 s).
EPOCH_REPORT = 0.35
# A step of the DeepSpeed engine on a tiny model, and what each further worker adds through gloo.
ENGINE_STEP = 0.006
ENGINE_WORKER = 0.003
# The parameters of each head, through the model, the engine and the optimizer (measured with 500).
ENGINE_HEAD = 5e-5
# The gradient of one task, in tiny operations per layer.
MEASURING = 40
# A pool of gradient actors, of fit workers, of Tune trials: until the first is at work, and the end.
GRADIENT_START = 5.0
FIT_START = 5.5
TUNE_START = 8.0
REPORT = 1.2
AFFINITY, GROUPS = 0.15, 0.2
# As grouping/direct.py: so many groups at most are looked at.
DIRECT_MOST = 5000
# A step of stacked training in tiny operations (vmap, autograd, optimizer), and the elementwise operations it makes per
# weight (the optimizer's passes over fresh memory) and per activation.
STACK_OPERATIONS = 2500
STACK_PER_WEIGHT = 70
STACK_PER_ACTIVATION = 10
# A product of stacked small matrices reaches so much of a large one's rate.
STACK_RATE = 0.6
# The reduction's product with the outer products it has to form first.
REDUCTION_RATE = 0.6
# At so many dimensions the fits reach half the rate of a large product (measured: 0.2 to 0.3 of it at 400, 0.4 at 949).
FIT_HALF_RATE = 1000
# Of the path: elementwise operations per weight and optimizer step, and per weight and look at the examples (measured
# on 93,000 weights, whose arrays no cache holds), and the rate of its products.
PATH_ELEMENTS = 14
LOOK_ELEMENTS = 105
# And per shared weight, look and member of a subset: its mean is gathered twice.
MEANS_ELEMENTS = 4
PATH_RATE = 0.6
# Operations that the FLOP counter watches cost more, in tiny operations.
COUNTED = 120
# float32 signs drawn per second, relative to elementwise operations.
SIGN_ELEMENTS = 3
BYTES_PER_SECOND = 3e8
# Of pretrained networks: until one is loaded, the part of a large product's rate that a pass reaches, and how much
# faster the products are in half precision where a core has instructions for them.
TEXT_START, TEXT_SECONDS = 1.0, 2e-4
LOAD, PRETRAINED_RATE, BF16_GAIN = 5.0, 0.6, 1.9


def text_seconds(work: Workload, machine: Machine) -> float:
    """Reading and tokenising; transformers is imported first."""
    return (TEXT_START + TEXT_SECONDS * work.examples) * machine.rates.overhead * machine.rates.slowdown


def base_model_seconds(config: Config, work: Workload, machine: Machine, epochs: float, workers: int) -> float:
    rates, train = machine.rates, config.base
    steps = steps_per_epoch(work.rows[TRAIN], train.batch_size) * train.accumulation
    step = (ENGINE_STEP + ENGINE_WORKER * (workers - 1) + ENGINE_HEAD * work.tasks) * rates.overhead
    step += 20 * work.parameters / rates.elements
    # One pass backward per task, each of tiny operations.
    measurement = MEASURING * work.tasks * (len(work.body) + 1) * rates.operation
    step += measured_steps(config, work) / steps * measurement
    products = base_model_flops(config, work, 1) / workers / (_training_rate(config, work, machine) * _threads(config))
    checkpoint = EPOCH_REPORT * rates.overhead + 20 * work.parameters / BYTES_PER_SECOND
    work_seconds = epochs * (steps * step + products + checkpoint)
    return (TRAIN_START * rates.overhead + work_seconds) * rates.slowdown


def gradient_seconds(config: Config, work: Workload, machine: Machine, workers: int) -> float:
    rates, settings, d = machine.rates, config.gradients, work.dimension(config)
    gain = BF16_GAIN if not work.stackable and settings.precision == "bf16" else 1
    products = gradient_flops(config, work) / (REDUCTION_RATE * rates.gemm * gain * _threads(config))
    batches = math.ceil(work.labels / work.examples_in(settings.batch_rows, settings.batch_tokens))
    elements: float = work.labels * (3 * d + 6 * work.activations)
    if settings.reduction == "rademacher":
        elements += work.labels * work.body_parameters
        # Signs beyond the cache are drawn again for every batch.
        entries = work.parameters * d
        elements += SIGN_ELEMENTS * entries * (workers if entries <= SIGN_CACHE else batches)
    elif settings.reduction == "subspace":
        # The landmarks' gradients are formed again for each of the range finder's products.
        passes = 1 + landmark_rounds(config, work) * min(settings.most_landmarks, sum(work.train)) / work.labels
        elements += passes * work.labels * work.body_parameters
    else:
        elements += 4 * work.labels * d
    # The sums' doubles.
    elements += 4 * work.labels / settings.batch_rows * work.parameters
    operations = batches * (100 + 12 * len(work.body)) * COUNTED * rates.operation
    written = work.labels * 4 * d / BYTES_PER_SECOND
    busy = (products + elements / rates.elements + operations + written) / workers
    return (GRADIENT_START * rates.overhead + busy) * rates.slowdown


def fit_seconds(config: Config, work: Workload, machine: Machine, workers: int) -> float:
    """Start, probes, then the estimates of all subsets."""
    subsets = Subsets.of(config, work.tasks)
    every, probes = subset_seconds(config, work, machine, workers), config.fits.probes
    if probes and config.affinity.estimator != "trained":
        # A stack of all probes per seed, or each by itself, side by side where there is room.
        seeds, together = config.fits.probe_seeds, probes if work.stackable else 1
        waves = math.ceil(seeds * probes / together / workers)
        every += every * workers * probes / subsets.count
        every += waves * fine_tuning_seconds(config, work, machine, together, probe_tasks(config))
    return FIT_START * machine.rates.overhead * machine.rates.slowdown + every


def subset_seconds(config: Config, work: Workload, machine: Machine, workers: int) -> float:
    """The estimates of all subsets by the estimator that the config names."""
    if config.affinity.estimator == "trained":
        return trained_seconds(config, work, machine, workers)
    return (path_seconds if config.solution == "path" else ridge_seconds)(config, work, machine, workers)


def fine_tuning_seconds(config: Config, work: Workload, machine: Machine, models: int, tasks: float) -> float:
    """A stack of so many true fine-tunings on so many tasks each."""
    if not work.stackable:
        one = run_flops(work, tasks) / (_training_rate(config, work, machine) * _threads(config))
        return (LOAD + config.fits.epochs * models * one) * machine.rates.slowdown
    return config.fits.epochs * _stack_epoch(config, work, machine, models, tasks) * machine.rates.slowdown


def _training_rate(config: Config, work: Workload, machine: Machine) -> float:
    """FLOPs per second and thread of a training's products."""
    if work.stackable:
        return STACK_RATE * machine.rates.gemm
    return PRETRAINED_RATE * machine.rates.gemm * (BF16_GAIN if config.base.precision == "bf16" else 1)


def trained_seconds(config: Config, work: Workload, machine: Machine, workers: int) -> float:
    """All subsets truly fine-tuned, a tile at a time."""
    subsets = Subsets.of(config, work.tasks)
    count, tasks = TRAINED_SEEDS * subsets.count, subsets.memberships / subsets.count
    if not work.stackable:
        return math.ceil(count / workers) * fine_tuning_seconds(config, work, machine, 1, tasks)
    columns = work.columns_of(tasks)
    one = stacked_model_bytes(work.parameters_with(columns), config.base.batch_size, work.activations_with(columns))
    together = min(TRAINED_SEEDS * config.fits.tile, max(1, int(STACK_BYTES / one)))
    return math.ceil(count / together / workers) * fine_tuning_seconds(config, work, machine, together, tasks)


def path_seconds(config: Config, work: Workload, machine: Machine, workers: int) -> float:
    rates, subsets = machine.rates, Subsets.of(config, work.tasks)
    products = fit_flops(config.model_copy(update={"fits": config.fits.model_copy(update={"probes": 0})}), work)
    steps, looks = path_steps(config, work), path_looks(config, work)
    moved = work.moved_weights(config, subsets.memberships / subsets.count)
    elements = subsets.count * moved * (steps * PATH_ELEMENTS + looks * LOOK_ELEMENTS)
    if work.heads_apart(config):
        elements += looks * subsets.memberships * work.body_parameters * MEANS_ELEMENTS
    residuals = looks * subsets.memberships * sum(work.train) / work.tasks * 3
    tiles = math.ceil(subsets.count / config.fits.tile)
    operations = tiles * steps * (20 + work.tasks * 12) * COUNTED * rates.operation
    busy = products / (PATH_RATE * rates.gemm * _threads(config)) + (elements + residuals) / rates.elements + operations
    return busy * math.ceil(tiles / workers) / tiles * rates.slowdown


def ridge_seconds(config: Config, work: Workload, machine: Machine, workers: int) -> float:
    rates, d = machine.rates, work.dimension(config)
    subsets = Subsets.of(config, work.tasks)
    tiles = math.ceil(subsets.count / config.fits.tile)
    products = ridge_flops(config, work) * (1 + FIT_HALF_RATE / d) / (rates.linear * _threads(config))
    operations = tiles * FIT_PASSES * (fit_products(d) + 3) * (work.tasks + 15) * COUNTED * rates.operation
    copies = tiles * 10 * work.labels * d / rates.elements
    loading = 3 * work.labels * d * 4 / 1e9
    # The last tiles leave workers without work.
    waves = math.ceil(tiles / workers) / tiles
    return (loading + (products + operations + copies) * waves) * rates.slowdown


def affinity_seconds(config: Config, work: Workload, machine: Machine) -> float:
    memberships = Subsets.of(config, work.tasks).memberships
    return (AFFINITY + 2e-5 * memberships) * machine.rates.overhead * machine.rates.slowdown


def group_seconds(config: Config, work: Workload, machine: Machine) -> float:
    """The semidefinite programme and its rounding: 0.3 s for 100 tasks, 0.5 to 1.2 for 200, 4 to 7 for 500 on one core.
    `auto` tries many k first."""
    tasks = work.tasks
    clusters = config.groups.method in ("sdp", "direct")
    programme = 0.3 * (tasks / 100) + 4.0 * (tasks / 500) ** 3 if clusters else 0.0
    choosing = 3.0 * (tasks / 200) ** 2 if config.groups.k == "auto" else 0.0
    seconds = (GROUPS + programme + choosing) * machine.rates.overhead * machine.rates.slowdown
    if config.groups.method == "direct":
        seconds += (
            subset_seconds(config, work, machine, 1) * _descended(config, tasks) / Subsets.of(config, tasks).count
        )
        if models := probed_groups(config, tasks):
            seconds += fine_tuning_seconds(config, work, machine, models, tasks / expected_groups(config, tasks))
    return seconds


def _descended(config: Config, tasks: int) -> float:
    """Groups whose losses a descent asks for: twice all moves of one task, once all swaps of two."""
    k = expected_groups(config, tasks)
    return min(DIRECT_MOST, 4 * tasks * (k - 1) + tasks**2 * (1 - 1 / k))


def group_model_seconds(
    config: Config, work: Workload, machine: Machine, epochs: float, workers: int, stacked: bool
) -> float:
    """`epochs` of each training, or for a stack until the last of its models has stopped."""
    rates, settings = machine.rates, config.group_models
    trainings = group_trainings(settings, work.tasks, expected_groups(config, work.tasks))
    runs = sum(models for _, models in trainings)
    if not stacked:
        one = base_model_seconds(config, work, machine, epochs, config.base.workers)
        return TUNE_START * rates.overhead * rates.slowdown + math.ceil(runs / workers) * one
    total, longest = 0.0, 0.0
    for models, size in trials_of(trainings, settings.models_per_trial):
        seconds = epochs * _stack_epoch(config, work, machine, models, size)
        total, longest = total + seconds, max(longest, seconds)
    return (TUNE_START * rates.overhead + max(longest, total / workers)) * rates.slowdown


def report_seconds(machine: Machine) -> float:
    return REPORT * machine.rates.overhead * machine.rates.slowdown


def start_seconds(machine: Machine) -> float:
    return RAY_START * machine.rates.overhead * machine.rates.slowdown


def _stack_epoch(config: Config, work: Workload, machine: Machine, models: int, tasks: float) -> float:
    """An epoch of so many models side by side, of so many tasks each, with their validation."""
    rates, batch = machine.rates, config.base.batch_size
    train, validation = (work.rows_of(max(1, round(tasks)), split) for split in (TRAIN, VALIDATION))
    columns = work.columns_of(tasks)
    products = models * batch * training_flops(work, tasks) / (STACK_RATE * rates.gemm)
    per_model = STACK_PER_WEIGHT * work.parameters_with(columns)
    per_model += STACK_PER_ACTIVATION * batch * work.activations_with(columns)
    step = STACK_OPERATIONS * rates.operation + products / _threads(config) + models * per_model / rates.elements
    return (steps_per_epoch(round(train), batch) + validation / batch / 3) * step


def _threads(config: Config) -> int:
    """Ray gives a worker as many threads as CPUs."""
    return max(1, int(config.resources.cpus))
