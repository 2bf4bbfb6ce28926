"""Lines the stages up: each runs unless its fingerprint is found done."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Sequence
from pathlib import Path

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine.context import StageContext
from affinity_service.errors import UserError
from affinity_service.lock import driver_lock
from affinity_service.planning import refuse_if_too_large
from affinity_service.progress import ProgressFile, Several
from affinity_service.reporter import Reporter
from affinity_service.stages import SUITE, Stage, check_stage_name, identities_of, stages_of
from affinity_service.tasks import Suite, load_suite
from affinity_service.tasks.prepared import read_suite
from affinity_service.tasks.source import files_of, planned_suite, source_identity
from affinity_service.version import provenance

# Stands for the files that the suite beside it was made from.
SOURCE = "suite/source.json"


def run_study(
    config: Config, folder: StudyFolder, reporter: Reporter, address: str | None = None, until: str = "report"
) -> None:
    """Run what is not done yet, in order, up to and including the stage `until`.

    Raises
    ------
    UserError
        The data or the config cannot be used; finished stages stay as they are.
    """
    stages = stages_of(config)
    check_stage_name(until, stages)
    suite: Suite | None = None
    if config.data.prepared:
        identities = {"source": _source_identity(config, folder, reporter)}
    else:
        suite = load_suite(config.data)
        identities = {"suite": suite.content_hash}
        _check_fit_for(config, suite)
    admitted = described = False
    with contextlib.ExitStack() as stack:
        check_lock = stack.enter_context(driver_lock(folder))
        # From here on the study is ours, and so is the file that says how it goes.
        reporter = Several(reporter, ProgressFile(folder))
        for stage in stages:
            if stage.optional and stage.name != until:
                continue
            wanted = stage.fingerprint(config, identities)
            reporter.started(stage.name)
            done = folder.is_done(stage.name, wanted)
            if suite is None and not done:
                suite = planned_suite(config.data)
                _check_fit_for(config, suite)
            # A cluster's memory is not this machine's. What is refused must not leave its config behind.
            if suite is not None and not admitted and not done and address is None and not stage.optional:
                refuse_if_too_large(config, suite, folder, stage.name, _last_planned(until, stages))
            if not described and stage.name != SUITE:
                assert suite is not None, "the suite stage comes first"
                _describe(config, folder, suite)
                described = True
            admitted = True
            if done:
                reporter.finished(stage.name, 0.0, reused=True)
            else:
                assert suite is not None, "read or planned above"
                if stage.on_ray:
                    _connect(stack, address, folder)
                seconds = _run_stage(stage, wanted, config, folder, suite, reporter)
                reporter.finished(stage.name, seconds, reused=False)
            check_lock()
            identities |= identities_of(stage, folder)
            if stage.name == SUITE:
                # From here on the suite itself, no longer its counts.
                suite = read_suite(folder)
                if not folder.exists(SOURCE):
                    folder.write_json(SOURCE, {"identity": identities["source"]})
                _check_fit_for(config, suite)
                _describe(config, folder, suite)
                described = True
            if stage.name == until:
                break


def _source_identity(config: Config, folder: StudyFolder, reporter: Reporter) -> str:
    """Of the source's files; where they are gone, of those that the finished suite of this `data` section was made
    from."""
    try:
        return source_identity(config.data)
    except UserError as error:
        if all(Path(path).exists() for path in files_of(config.data)) or not folder.exists(SOURCE):
            raise
        stored = folder.read_json(SOURCE)["identity"]
        (stage,) = (each for each in stages_of(config) if each.name == SUITE)
        if not folder.is_done(SUITE, stage.fingerprint(config, {"source": stored})):
            raise
        reporter.warn(f"{error}; the suite that was made of it before is used")
        return str(stored)


def _last_planned(until: str, stages: Sequence[Stage]) -> str:
    """Optional stages are in no plan: the last one before them is."""
    names = [stage.name for stage in stages if not stage.optional or stage.name == until]
    return names[names.index(until) - 1] if any(s.optional and s.name == until for s in stages) else until


def _check_fit_for(config: Config, suite: Suite) -> None:
    """What the schema cannot know without the data, before hours of work end in it."""
    from affinity_service.config_models import check_inputs
    from affinity_service.grouping.constraints import check_possible, constraints_of

    check_inputs(config.model, suite.inputs.shape[1:])
    k, tasks = config.groups.k, len(suite.tasks)
    if k != "auto" and k > tasks:
        raise UserError(f"groups.k is {k}, but the suite has {tasks} tasks; expected 1 … {tasks} or auto")
    check_possible(constraints_of(config.groups, suite.names), tasks, k)
    for section in (config.measuring, config.schedule):
        if section is not None:
            from affinity_service.models import build_model
            from affinity_service.models.shared import shared_parameters

            shared_parameters(build_model(config.model, suite.inputs.shape[1:], suite.tasks, 0), section.shared)
    if config.schedule is not None:
        from affinity_service.scheduling.aggregators import named_aggregator

        named_aggregator(config.schedule.aggregator)
    if config.group_models.trainer == "batched" and config.base.precision != "fp32":
        raise UserError(
            f"group_models.trainer is batched, which trains in fp32, but base.precision is {config.base.precision}: "
            "the models would not compare; set trainer to deepspeed or auto"
        )


def _run_stage(
    stage: Stage, wanted: str, config: Config, folder: StudyFolder, suite: Suite, reporter: Reporter
) -> float:
    from affinity_service.engine.memory import peak_memory
    from affinity_service.engine.scratch import remove_scratch, scratch_of

    work = folder.begin(stage.name, wanted, stage.outputs)
    scratch = scratch_of(folder, config.resources, work.attempt)
    context = StageContext(stage.name, config, folder, suite, reporter, scratch)
    module, function = stage.entry.split(":")
    start = time.perf_counter()
    with peak_memory() as peak, folder.counting_seconds(work):
        outcome = getattr(importlib.import_module(f"affinity_service.engine.{module}"), function)(context)
    seconds = time.perf_counter() - start
    timing = {
        "name": stage.name,
        # Together with what interrupted runs of this stage had spent.
        "seconds": work.seconds + seconds,
        "flops": outcome.flops,
        "peak_bytes": peak.bytes,
        "workers": outcome.workers,
    }
    folder.complete(stage.name, wanted, stage.outputs, timing, outcome.identity)
    remove_scratch(scratch)
    manifests = (folder.manifest(each.name) for each in stages_of(config))
    folder.write_json("timings.json", {"stages": [m["timing"] for m in manifests if m is not None]})
    return seconds


def _connect(stack: contextlib.ExitStack, address: str | None, folder: StudyFolder) -> None:
    from affinity_service.engine.placement import check_shared
    from affinity_service.engine.session import connected

    stack.enter_context(connected(address))
    check_shared(folder)


def _describe(config: Config, folder: StudyFolder, suite: Suite) -> None:
    """What was asked for and on what, beside the results: the config can be run again as it stands."""
    folder.write_bytes("config.yaml", config.model_copy(update={"written_by": provenance()}).to_yaml().encode())
    folder.write_json("suite.json", suite.summary())
