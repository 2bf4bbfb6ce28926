"""The plan of a study: one row per stage, before anything starts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from affinity_service.config import Config
from affinity_service.config_graphs import GraphSource
from affinity_service.planning import flops, graphs, memory, seconds
from affinity_service.planning.machine import Machine
from affinity_service.planning.workload import Workload, expected_epochs, expected_groups, fewest_epochs
from affinity_service.stages import stages_of


@dataclass(frozen=True)
class StagePlan:
    """What one stage is expected to take.

    Attributes
    ----------
    seconds, most_seconds : expected, and if no training stopped early.
    bytes : peak of the main memory, summed over the driver and all Ray processes.
    disk_bytes : what the stage adds to the study folder.
    gpu_bytes : on the GPU of one worker; 0 where there is none.
    """

    name: str
    seconds: float
    most_seconds: float
    flops: float
    bytes: int
    disk_bytes: int
    gpu_bytes: int
    workers: int


@dataclass(frozen=True)
class Plan:
    """Rows in the order of the run. `start_seconds` is Ray's start before the first; `epochs` are (fewest, expected,
    most) per training."""

    name: str
    stages: tuple[StagePlan, ...]
    start_seconds: float
    epochs: tuple[int, float, int]
    groups: int
    config: Config
    work: Workload
    machine: Machine

    @property
    def total_seconds(self) -> float:
        return self.start_seconds + sum(stage.seconds for stage in self.stages)

    @property
    def most_seconds(self) -> float:
        return self.start_seconds + sum(stage.most_seconds for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """What `affinity plan --json` prints."""
        fewest, expected, most = self.epochs
        return {
            "name": self.name,
            "stages": [asdict(stage) for stage in self.stages],
            "total": {
                "seconds": self.total_seconds,
                "most_seconds": self.most_seconds,
                "flops": sum(stage.flops for stage in self.stages),
                "bytes": max(stage.bytes for stage in self.stages),
                "disk_bytes": sum(stage.disk_bytes for stage in self.stages),
                "gpu_bytes": max(stage.gpu_bytes for stage in self.stages),
            },
            "start_seconds": self.start_seconds,
            "assumptions": {"epochs": {"fewest": fewest, "expected": expected, "most": most}, "groups": self.groups},
            "machine": {key: value for key, value in asdict(self.machine).items() if key != "rates"},
        }


def plan_study(config: Config, work: Workload, machine: Machine) -> Plan:
    """Costs of every stage; arithmetic only. The seconds are as good as ``machine.rates``, see ``calibrate``."""
    train, tasks = config.base, work.tasks
    if config.resources.gpus == 0:
        machine = replace(machine, gpus=())
    places = machine.places(config.resources)
    gradient_workers = min(config.gradients.workers, places, math.ceil(work.labels / config.gradients.shard_rows))
    tiles = math.ceil(memory.Subsets.of(config, tasks).count / config.fits.tile)
    # Without fits nobody waits beside the driver afterwards.
    probes = config.fits.probe_seeds * (min(1, config.fits.probes) if work.stackable else config.fits.probes)
    fit_workers = 0 if config.measured else min(config.fits.workers, places, max(tiles, probes))
    groups, stacked = expected_groups(config, tasks), trains_stacked(config, work)
    runs = sum(n for _, n in flops.group_trainings(config.group_models, tasks, groups))
    trials = math.ceil(runs / config.group_models.models_per_trial) if stacked else runs
    # With fewer GPUs than workers, fewer of them accumulate more micro-batches, see engine/placement.py.
    trainers = max(n for n in range(1, min(train.workers, places) + 1) if train.workers % n == 0)
    together = 1 if stacked else trainers
    trial_workers = max(1, min(config.group_models.workers, places // together, trials))

    expected, most = expected_epochs(train), float(train.epochs)
    # A stack trains until the last of its models has stopped: in two studies a quarter of the way (in logarithms)
    # from what one of them is expected to take to the most.
    last = expected * (most / expected) ** 0.25 if stacked else expected

    def row(
        name: str, workers: int, held: memory.Bytes, work_flops: float, time: float, longest: float | None = None
    ) -> StagePlan:
        longest = time if longest is None else longest
        return StagePlan(
            name, time, longest, work_flops, int(held.memory), int(held.disk), int(held.gpu), max(1, workers)
        )

    idle = memory.analysis_bytes(config, work, machine, fit_workers)
    small = memory.Bytes(idle.memory, 0.0, 2_000 + 100 * tasks)
    # The trials have taken the place of most workers of the fits.
    left = memory.Bytes(
        memory.analysis_bytes(config, work, machine, min(1, fit_workers)).memory, 0.0, 100_000 + 2_000 * tasks
    )
    base = (config, work, machine)
    prepared: tuple[StagePlan, ...] = ()
    if isinstance(config.data, GraphSource):
        preparing = min(config.data.workers, places)
        prepared = (
            row(
                "suite",
                preparing,
                graphs.suite_bytes(*base, preparing),
                graphs.suite_flops(config, work),
                graphs.suite_seconds(*base, preparing),
            ),
        )
    elif config.data.prepared:
        prepared = (
            row("suite", 1, memory.text_bytes(config, work, machine), 0.0, seconds.text_seconds(work, machine)),
        )
    stages = (
        *prepared,
        row(
            "base_model",
            trainers,
            memory.base_model_bytes(*base, trainers),
            flops.base_model_flops(config, work, expected),
            seconds.base_model_seconds(*base, expected, trainers),
            seconds.base_model_seconds(*base, most, trainers),
        ),
        row(
            "gradients",
            gradient_workers,
            memory.gradient_bytes(*base, gradient_workers),
            flops.gradient_flops(config, work),
            seconds.gradient_seconds(*base, gradient_workers),
        ),
        row(
            "fits",
            fit_workers,
            memory.fit_bytes(*base, max(1, fit_workers)),
            flops.fit_flops(config, work),
            seconds.fit_seconds(*base, max(1, fit_workers)),
        ),
        row("affinity", 1, idle, flops.affinity_flops(config, work), seconds.affinity_seconds(*base)),
        row("groups", 1, small, flops.group_flops(config, work), seconds.group_seconds(*base)),
        row(
            "group_models",
            trial_workers,
            memory.group_model_bytes(*base, trial_workers, fit_workers, stacked),
            flops.group_model_flops(config, work),
            seconds.group_model_seconds(*base, last, trial_workers, stacked),
            seconds.group_model_seconds(*base, most, trial_workers, stacked),
        ),
        row("report", 1, left, 0.0, seconds.report_seconds(machine)),
    )
    on_way = {stage.name for stage in stages_of(config)}
    return Plan(
        name=config.name,
        stages=tuple(stage for stage in stages if stage.name in on_way),
        start_seconds=seconds.start_seconds(machine),
        epochs=(fewest_epochs(train), expected, train.epochs),
        groups=groups,
        config=config,
        work=work,
        machine=machine,
    )


def trains_stacked(config: Config, work: Workload) -> bool:
    """Whether group models are small plain loops in one process rather than trainings through Ray Train."""
    wish = config.group_models.trainer
    if wish != "auto":
        return wish == "batched"
    return config.base.workers == 1 and config.base.precision == "fp32" and work.stackable
