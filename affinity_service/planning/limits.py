"""Refusing what cannot fit, with the number to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.config_models import PretrainedConfig
from affinity_service.errors import UserError
from affinity_service.planning.machine import inspect_machine
from affinity_service.planning.plan import Plan, StagePlan, plan_study
from affinity_service.planning.view import size
from affinity_service.planning.workload import Workload
from affinity_service.stages import stages_of
from affinity_service.tasks.suite import Suite

# What to lower, in the order of preference: first what does not change the result.
KNOBS = {
    "suite": ("data.workers", "data.block_rows"),
    "base_model": ("base.workers", "base.tokens", "base.batch_size", "model.hidden"),
    "gradients": (
        "gradients.workers",
        "gradients.batch_rows",
        "gradients.batch_tokens",
        "gradients.shard_rows",
        "gradients.dimension",
        "model.hidden",
    ),
    "fits": ("fits.workers", "gradients.dimension"),
    "affinity": ("fits.workers", "gradients.dimension", "fits.subsets"),
    "groups": ("fits.workers", "gradients.dimension"),
    "group_models": (
        "group_models.workers",
        "group_models.models_per_trial",
        "fits.workers",
        "base.tokens",
        "base.batch_size",
        "model.hidden",
    ),
    "report": ("fits.workers", "gradients.dimension"),
}
# Settings of models that read texts, and of others.
OF_TEXTS = ("base.tokens", "gradients.batch_tokens")
OF_OTHERS = ("group_models.models_per_trial", "model.hidden")
DISK_KNOBS = ("gradients.dimension", "fits.subsets")
# The message names what fills the memory, in the reader's words.
CONTENT = {
    "suite": "the graph",
    "base_model": "the base model's workers",
    "gradients": "the gradients",
    "fits": "the features of the fits",
    "affinity": "the results of the fits",
    "groups": "the results of the fits",
    "group_models": "the group models",
    "report": "the results of the fits",
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


def check_fits(plan: Plan, stored_bytes: int = 0, first: str = "base_model", last: str = "report") -> None:
    """Raise where a stage from `first` to `last` needs more memory, GPU memory or disk than there is.

    ``stored_bytes`` of the study lie on the disk already.

    Raises
    ------
    UserError
        It says what is needed, what there is, and the largest value of a setting that fits.
    """
    limits = _limits(plan, stored_bytes, first, last)
    worst = max(limits, key=lambda limit: limit.needed(plan) / limit.available)
    if not worst.holds(plan):
        raise UserError(
            f"{worst.who} need {size(worst.needed(plan))} of {size(worst.available)} {worst.kind}: "
            f"{_advice(plan, worst, limits)}"
        )


def refuse_if_too_large(
    config: Config, suite: Suite, folder: StudyFolder, first: str = "base_model", last: str = "report"
) -> None:
    """`check_fits` for a local run into `folder`, without a calibration: milliseconds."""
    _checked(config, suite, folder, first, last)


def feasible_plan(config: Config, suite: Suite, folder: StudyFolder) -> Plan:
    """The plan of a local run into `folder`, checked, with this machine's speed measured in half a second."""
    plan = _checked(config, suite, folder, stages_of(config)[0].name, "report")
    return plan_study(config, plan.work, plan.machine.calibrated())


def _checked(config: Config, suite: Suite, folder: StudyFolder, first: str, last: str) -> Plan:
    root = Path(folder.root) if folder.is_local else Path()
    plan = plan_study(config, Workload.of(config, suite), inspect_machine(root))
    check_fits(plan, _stored(root) if folder.is_local else 0, first, last)
    return plan


def _limits(plan: Plan, stored_bytes: int, first: str, last: str) -> list[Limit]:
    machine, names = plan.machine, [stage.name for stage in plan.stages]
    foreign = OF_OTHERS if isinstance(plan.config.model, PretrainedConfig) else OF_TEXTS
    limits = []
    stages = range(names.index(first), names.index(last) + 1)
    for index in stages:
        name = names[index]
        knobs = [knob for knob in KNOBS[name] if knob not in foreign]
        limits.append(Limit("memory", machine.usable_memory, _of(index, "bytes"), tuple(knobs), CONTENT[name]))
        if machine.gpus:
            share = plan.config.resources.gpus
            available = min(machine.gpus) * (share if isinstance(share, float) and 0 < share < 1 else 1)
            limits.append(Limit("GPU memory", available, _of(index, "gpu_bytes"), tuple(knobs[1:]), CONTENT[name]))

    def on_disk(plan: Plan) -> float:
        return float(sum(stage.disk_bytes for stage in plan.stages[: stages.stop]))

    available = float(machine.free_disk + stored_bytes)
    limits.append(Limit("free disk", available, on_disk, DISK_KNOBS, "the study's files"))
    return limits


def _of(index: int, quantity: str) -> Callable[[Plan], float]:
    def value(plan: Plan) -> float:
        stage: StagePlan = plan.stages[index]
        return float(getattr(stage, quantity))

    return value


def _advice(plan: Plan, worst: Limit, limits: list[Limit]) -> str:
    """One setting that makes everything fit, or else one that keeps the worst limit."""
    for wanted in (limits, [worst]):
        for knob in worst.knobs:
            if advice := _change(plan, knob, wanted):
                return advice
    several = ", ".join(worst.knobs)
    return f"no single setting makes it fit; use a machine with more {worst.kind}, or lower several of {several}"


def _change(plan: Plan, knob: str, wanted: list[Limit]) -> str | None:
    """The change of one setting after which the wanted limits hold, in words."""

    def fits(changed: Plan) -> bool:
        return all(limit.holds(changed) for limit in wanted)

    if knob == "gradients.dimension" and plan.config.gradients.reduction == "exact":
        reduced = _with(plan.config, "gradients.reduction", "subspace")
        if not fits(plan_study(reduced, plan.work, plan.machine)):
            return None
        d, p = reduced.gradients.most_dimensions, plan.work.parameters
        return f"set gradients.reduction to subspace ({d} numbers per gradient instead of {p})"
    now = _value(plan, knob)
    if now == 1 or not fits(_planned(plan, knob, 1)):
        return None
    low, high = 1, now
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(_planned(plan, knob, middle)) else (low, middle)
    return f"lower {knob} from {_said(plan.config, knob, now)} to {_rounded(plan.config, knob, low)}"


def _said(config: Config, knob: str, value: int) -> str:
    section, key = knob.split(".")
    return f"auto (at most {value})" if getattr(getattr(config, section), key) == "auto" else str(value)


def _rounded(config: Config, knob: str, value: int) -> int:
    """Down to two digits that count, and to a batch that divides among the workers."""
    digits = 10 ** max(0, len(str(value)) - 2)
    value = value // digits * digits
    if knob == "base.batch_size":
        pieces = config.base.workers * config.base.accumulation
        return max(value // pieces, 1) * pieces
    return value


def _planned(plan: Plan, knob: str, value: int) -> Plan:
    work = plan.work
    if knob == "model.hidden":
        assert not isinstance(plan.config.model, PretrainedConfig), "has no widths"
        hidden = [min(width, value) for width in plan.config.model.hidden]
        work = replace(work, model=work.model.model_copy(update={"hidden": hidden}))
        return plan_study(_with(plan.config, knob, hidden), work, plan.machine)
    return plan_study(_with(plan.config, knob, value), work, plan.machine)


def _value(plan: Plan, knob: str) -> int:
    section, key = knob.split(".")
    # A pretrained model has no widths to lower.
    value = getattr(getattr(plan.config, section), key, 1)
    if value == "auto":
        return plan.work.dimension(plan.config)
    return max(value) if isinstance(value, list) else value


def _with(config: Config, knob: str, value: Any) -> Config:
    section, key = knob.split(".")
    changed = getattr(config, section).model_copy(update={key: value})
    return config.model_copy(update={section: changed})


def _stored(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) if root.is_dir() else 0
