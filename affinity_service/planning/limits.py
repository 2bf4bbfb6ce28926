"""Refusing what cannot fit, with the number to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.planning.machine import inspect_machine
from affinity_service.planning.plan import Plan, StagePlan, plan_study
from affinity_service.planning.view import size
from affinity_service.planning.workload import Workload
from affinity_service.tasks.suite import Suite

# What to lower, in the order of preference: first what does not change the result.
KNOBS = {
    "base_model": ("base.workers", "base.batch_size", "model.hidden"),
    "gradients": ("gradients.workers", "gradients.batch_rows", "gradients.shard_rows", "gradients.dimension"),
    "fits": ("fits.workers", "gradients.dimension"),
    "affinity": ("fits.workers", "gradients.dimension", "fits.subsets"),
    "groups": ("fits.workers", "gradients.dimension"),
    "group_models": ("group_models.workers", "group_models.models_per_trial", "fits.workers", "model.hidden"),
    "report": ("fits.workers", "gradients.dimension"),
}
DISK_KNOBS = ("gradients.dimension", "fits.subsets")
# The message names what fills the memory, in the reader's words.
CONTENT = {
    "base_model": "base_model (training)",
    "gradients": "gradients",
    "fits": "fits (features)",
    "affinity": "affinity",
    "groups": "groups",
    "group_models": "group_models (training)",
    "report": "report",
}


@dataclass(frozen=True)
class Limit:
    """A quantity of a plan that must not exceed what there is."""

    kind: str
    available: float
    needed: Callable[[Plan], float]
    knobs: tuple[str, ...]
    who: str

    def holds(self, plan: Plan) -> bool:
        return self.needed(plan) <= self.available


def check_fits(plan: Plan, stored_bytes: int = 0, first: str | None = None) -> None:
    """Raise where a stage from `first` on needs more memory, GPU memory or disk than there is.

    ``stored_bytes`` of the study lie on the disk already.

    Raises
    ------
    UserError
        It says what is needed, what there is, and the largest value of a setting that fits.
    """
    for limit in _limits(plan, stored_bytes, first):
        if not limit.holds(plan):
            raise UserError(
                f"{limit.who} needs {size(limit.needed(plan))} of {size(limit.available)} {limit.kind}: "
                f"{_advice(plan, limit)}"
            )


def refuse_if_too_large(config: Config, suite: Suite, folder: StudyFolder, first: str | None = None) -> None:
    """`check_fits` for a local run into `folder`, without a calibration: milliseconds."""
    root = Path(folder.root) if folder.is_local else Path()
    plan = plan_study(config, Workload.of(config, suite), inspect_machine(root))
    check_fits(plan, _stored(root) if folder.is_local else 0, first)


def _limits(plan: Plan, stored_bytes: int, first: str | None) -> list[Limit]:
    machine, names = plan.machine, [stage.name for stage in plan.stages]
    limits = []
    for index in range(names.index(first) if first else 0, len(names)):
        name = names[index]
        limits.append(Limit("memory", machine.usable_memory, _of(index, "bytes"), KNOBS[name], CONTENT[name]))
        if machine.gpus:
            share = plan.config.resources.gpus
            available = min(machine.gpus) * (share if isinstance(share, float) and 0 < share < 1 else 1)
            limits.append(Limit("GPU memory", available, _of(index, "gpu_bytes"), KNOBS[name][1:], CONTENT[name]))
    available = float(machine.free_disk + stored_bytes)
    limits.append(Limit("free disk", available, lambda p: sum(s.disk_bytes for s in p.stages), DISK_KNOBS, "the study"))
    return limits


def _of(index: int, quantity: str) -> Callable[[Plan], float]:
    def value(plan: Plan) -> float:
        stage: StagePlan = plan.stages[index]
        return float(getattr(stage, quantity))

    return value


def _advice(plan: Plan, limit: Limit) -> str:
    exact = plan.config.gradients.reduction == "exact"
    for knob in limit.knobs:
        if knob == "gradients.dimension" and exact:
            reduced = _with(plan.config, "gradients.reduction", "rademacher")
            if limit.holds(plan_study(reduced, plan.work, plan.machine)):
                d, p = reduced.gradients.dimension, plan.work.parameters
                return f"set gradients.reduction to rademacher ({d} numbers per gradient instead of {p})"
            continue
        now = _value(plan.config, knob)
        if now > 1 and limit.holds(_planned(plan, knob, 1)):
            return f"lower {knob} from {now} to {_rounded(plan, limit, knob, now)}"
    return f"no single setting makes it fit; use a machine with more {limit.kind}, or lower several of {', '.join(limit.knobs)}"


def _rounded(plan: Plan, limit: Limit, knob: str, now: int) -> int:
    """The largest value that fits, found by bisection, with two digits that count."""
    low, high = 1, now
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if limit.holds(_planned(plan, knob, middle)) else (low, middle)
    if knob == "base.batch_size":
        pieces = plan.config.base.workers * plan.config.base.accumulation
        return max(low // pieces, 1) * pieces
    digits = 10 ** max(0, len(str(low)) - 2)
    return low // digits * digits


def _planned(plan: Plan, knob: str, value: int) -> Plan:
    work = plan.work
    if knob == "model.hidden":
        hidden = [min(width, value) for width in plan.config.model.hidden]
        work = Workload(**{**vars(work), "hidden": tuple(hidden)})
        return plan_study(_with(plan.config, knob, hidden), work, plan.machine)
    return plan_study(_with(plan.config, knob, value), work, plan.machine)


def _value(config: Config, knob: str) -> int:
    section, key = knob.split(".")
    value = getattr(getattr(config, section), key)
    return max(value) if isinstance(value, list) else value


def _with(config: Config, knob: str, value: Any) -> Config:
    section, key = knob.split(".")
    changed = getattr(config, section).model_copy(update={key: value})
    return config.model_copy(update={section: changed})


def _stored(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) if root.is_dir() else 0
