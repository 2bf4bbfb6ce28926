"""Lines the stages up: each runs unless its fingerprint is found done."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from affinity_service.artifacts import StudyFolder, fingerprint
from affinity_service.config import Config
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.errors import UserError
from affinity_service.lock import driver_lock
from affinity_service.planning import refuse_if_too_large
from affinity_service.reporter import Reporter
from affinity_service.tasks import Suite, load_suite
from affinity_service.version import provenance


@dataclass(frozen=True)
class Stage:
    """`parts` are the config sections that decide the result, `needs` the stages whose artifacts it reads; `version`
    counts changes of what the code computes."""

    name: str
    parts: tuple[str, ...]
    needs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: str
    function: str
    on_ray: bool = True
    version: int = 1

    def load(self) -> Callable[[StageContext], StageOutcome]:
        # Imported when it runs: a study that is done needs neither Ray nor DeepSpeed.
        return getattr(importlib.import_module(f"affinity_service.engine.{self.module}"), self.function)


STAGES = (
    Stage("base_model", ("model", "base"), ("suite",), ("base_model/",), "base_model", "train_base_model"),
    Stage(
        "gradients",
        ("gradients",),
        ("suite", "base_model"),
        ("gradients/",),
        "gradients",
        "compute_gradients",
    ),
    Stage("fits", ("fits",), ("gradients",), ("fits/",), "fits", "fit_subsets_stage"),
    Stage("affinity", ("affinity",), ("fits",), ("affinity/",), "analysis", "estimate_affinity", on_ray=False),
    Stage("groups", ("groups",), ("affinity",), ("groups.json",), "analysis", "group_tasks", on_ray=False),
    Stage(
        "group_models",
        ("model", "base", "group_models"),
        ("suite", "groups"),
        ("group_models/",),
        "group_models",
        "train_group_models",
    ),
    Stage(
        "report",
        (),
        ("suite", "base_model", "gradients", "fits", "affinity", "groups", "group_models"),
        ("report/",),
        "reporting",
        "write_report_stage",
        on_ray=False,
    ),
)


def run_study(
    config: Config, folder: StudyFolder, reporter: Reporter, address: str | None = None, until: str = "report"
) -> None:
    """Run what is not done yet, in order, up to and including the stage `until`.

    Raises
    ------
    UserError
        The data or the config cannot be used; finished stages stay as they are.
    """
    if until not in (names := [stage.name for stage in STAGES]):
        raise UserError(f"unknown stage `{until}`; the stages are {', '.join(names)}")
    suite = load_suite(config.data)
    _check_fit_for(config, suite)
    identities = {"suite": suite.content_hash}
    with contextlib.ExitStack() as stack:
        stack.enter_context(driver_lock(folder))
        _describe(config, folder, suite)
        checked = address is not None  # a cluster's memory is not this machine's
        for stage in STAGES:
            wanted = _fingerprint(stage, config, identities)
            reporter.started(stage.name)
            if folder.is_done(stage.name, wanted):
                reporter.finished(stage.name, 0.0, reused=True)
            else:
                if not checked:
                    refuse_if_too_large(config, suite, folder, stage.name, until)
                    checked = True
                if stage.on_ray:
                    _connect(stack, address, folder)
                seconds = _run_stage(stage, wanted, config, folder, suite, reporter)
                reporter.finished(stage.name, seconds, reused=False)
            manifest = folder.manifest(stage.name)
            assert manifest is not None
            identities[stage.name] = manifest["identity"]
            if stage.name == until:
                break


def _check_fit_for(config: Config, suite: Suite) -> None:
    """What the schema cannot know without the data, before hours of work end in it."""
    k, tasks = config.groups.k, len(suite.tasks)
    if k != "auto" and k > tasks:
        raise UserError(f"groups.k is {k}, but the suite has {tasks} tasks; expected 1 … {tasks} or auto")


def _fingerprint(stage: Stage, config: Config, identities: dict[str, str]) -> str:
    parts = {name: getattr(config, name).fingerprint_part() for name in stage.parts}
    return fingerprint([stage.name, stage.version, parts, {need: identities[need] for need in stage.needs}])


def _run_stage(
    stage: Stage, wanted: str, config: Config, folder: StudyFolder, suite: Suite, reporter: Reporter
) -> float:
    from affinity_service.engine.memory import peak_memory
    from affinity_service.engine.session import scratch

    context = StageContext(stage.name, config, folder, suite, reporter, scratch(folder, config.resources))
    folder.begin(stage.name, wanted, stage.outputs)
    start = time.perf_counter()
    with peak_memory() as peak:
        outcome = stage.load()(context)
    seconds = time.perf_counter() - start
    timing = {
        "name": stage.name,
        "seconds": seconds,
        "flops": outcome.flops,
        "peak_bytes": peak.bytes,
        "workers": outcome.workers,
    }
    folder.complete(stage.name, wanted, stage.outputs, timing, outcome.identity)
    folder.write_json("timings.json", {"stages": list(_timings(folder))})
    return seconds


def _timings(folder: StudyFolder) -> Iterator[dict[str, Any]]:
    for stage in STAGES:
        manifest = folder.manifest(stage.name)
        if manifest is not None:
            yield manifest["timing"]


def _connect(stack: contextlib.ExitStack, address: str | None, folder: StudyFolder) -> None:
    from affinity_service.engine.placement import check_shared
    from affinity_service.engine.session import connected

    stack.enter_context(connected(address))
    check_shared(folder)


def _describe(config: Config, folder: StudyFolder, suite: Suite) -> None:
    """What was asked for and on what, beside the results: the config can be run again as it stands."""
    folder.write_bytes("config.yaml", config.model_copy(update={"written_by": provenance()}).to_yaml().encode())
    folder.write_json("suite.json", suite.summary())
