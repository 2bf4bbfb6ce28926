"""Which estimator is planned to be cheaper: gradients, or true fine-tuning of every subset."""

from __future__ import annotations

from typing import Literal

from affinity_service.config import Config
from affinity_service.planning.machine import inspect_machine
from affinity_service.planning.seconds import fit_seconds, gradient_seconds
from affinity_service.planning.workload import Workload
from affinity_service.tasks.suite import Suite


def cheaper_estimator(config: Config, suite: Suite) -> tuple[Literal["linearized", "trained"], str]:
    """The estimator with fewer planned seconds, gradient features counted, and why."""
    work, machine = Workload.of(config, suite), inspect_machine().calibrated()
    seconds = {}
    for estimator in ("linearized", "trained"):
        chosen = config.model_copy(update={"affinity": config.affinity.model_copy(update={"estimator": estimator})})
        seconds[estimator] = fit_seconds(chosen, work, machine, config.fits.workers)
    seconds["linearized"] += gradient_seconds(config, work, machine, config.gradients.workers)
    best: Literal["linearized", "trained"] = "trained" if seconds["trained"] < seconds["linearized"] else "linearized"
    return best, (
        f"fine-tuning every subset would take {seconds['trained']:.0f} s, estimates from gradients "
        f"{seconds['linearized']:.0f} s"
    )
