"""How a study stands: from its folder, from its job, and from whoever holds it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.lock import LOCK, is_held
from affinity_service.progress import PROGRESS, read_progress
from affinity_service.service.jobs import FAILED, PENDING, RECORD, RUNNING, STOPPED, SUCCEEDED, JobInfo, JobRecord
from affinity_service.service.open_study import without_place
from affinity_service.stages import STAGE_NAMES, Stage, stages_of
from affinity_service.version import check_readable

QUEUED, AT_WORK, FINISHED, BROKEN, CANCELLED, UNFINISHED = (
    "queued",
    "running",
    "finished",
    "failed",
    "cancelled",
    "unfinished",
)
LIVE = (QUEUED, AT_WORK)
UNASKED = "the cluster cannot be asked how the job goes"
STATUSES = (*LIVE, FINISHED, BROKEN, CANCELLED, UNFINISHED)
CONFIG, SUITE = "config.yaml", "suite.json"
# What changes when a study does.
WATCHED = (CONFIG, SUITE, RECORD, PROGRESS, LOCK, *(f"stages/{name}.json" for name in STAGE_NAMES))


@dataclass(frozen=True)
class Files:
    """Times and sizes of the files that tell how a study stands, by name; only those that are there."""

    found: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, folder: StudyFolder) -> Files:
        infos = folder.filesystem.get_file_info(list(WATCHED))
        return cls({i.path: (i.mtime_ns or 0, i.size or 0) for i in infos if i.type == fs.FileType.File})

    def __contains__(self, name: str) -> bool:
        return name in self.found

    @property
    def is_study(self) -> bool:
        return CONFIG in self or RECORD in self

    @property
    def content(self) -> tuple[Any, ...]:
        """Stands for what questions are answered from."""
        beside = (PROGRESS, LOCK, RECORD)
        return tuple(sorted((name, key) for name, key in self.found.items() if name not in beside))

    def changed(self) -> float | None:
        """Seconds since 1970 of the latest change."""
        times = [time_ns for name, (time_ns, _) in self.found.items() if name != LOCK]
        return max(times) / 1e9 if times else None


@dataclass(frozen=True)
class Standing:
    """What is told of a study in a list; `config` is None where there is none yet or it cannot be read."""

    name: str
    status: str
    stage: str | None
    tasks: int | None
    created: float | None
    updated: float | None
    job: str | None
    message: str | None

    def to_json(self) -> dict[str, Any]:
        content = dict(vars(self))
        content["created"], content["updated"] = iso(self.created), iso(self.updated)
        return content


def iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def planned_stages(config: Config | None, until: str = "report") -> list[Stage]:
    """The stages of a config's way up to one; those of the usual way where there is no config yet."""
    own = stages_of(config) if config is not None else stages_of(Config.parse({"name": "a", "data": _ANY}))
    names = [stage.name for stage in own]
    last = names.index(until) if until in names else len(names) - 1
    return [stage for stage in own[: last + 1] if not stage.optional or stage.name == until]


_ANY = {"source": "yeast"}


def standing(
    name: str,
    folder: StudyFolder,
    files: Files,
    config: Config | None,
    tasks: int | None,
    info: JobInfo | UserError | None,
    record: JobRecord | None,
) -> Standing:
    """Put together what is known.

    Parameters
    ----------
    info : how the job of the record goes; None where the cluster does not know it, or there is none; an error where
        the cluster cannot be asked.
    """
    until = record.until if record is not None else "report"
    complete = CONFIG in files and all(f"stages/{stage.name}.json" in files for stage in planned_stages(config, until))
    message: str | None = None
    held = is_held(folder) if LOCK in files else False
    if isinstance(info, UserError):
        message = UNASKED
        info = None
    if info is not None and not info.over:
        status = AT_WORK if info.status == RUNNING or (held and info.status != PENDING) else QUEUED
    elif held:
        status = AT_WORK
    elif info is None:
        status = FINISHED if complete else CANCELLED if record is not None and record.cancelled else UNFINISHED
        if status == UNFINISHED and record is not None and message is None:
            message = "the cluster no longer knows the job; submit the study again to continue"
    else:
        status = {SUCCEEDED: FINISHED, FAILED: BROKEN, STOPPED: CANCELLED}[info.status]
        message = without_place(_reason(info.message), folder) if status == BROKEN else None
        if status != FINISHED and complete and (files.changed() or 0) > (info.ended or time.time()):
            # Somebody else finished it since.
            status, message = FINISHED, None
    stage = read_progress(folder).get("stage") if status == AT_WORK and PROGRESS in files else None
    created = record.submitted if record is not None else _time(files, CONFIG)
    job = record.id if record is not None else None
    return Standing(
        name, status, stage if isinstance(stage, str) else None, tasks, created, files.changed(), job, message
    )


def _time(files: Files, name: str) -> float | None:
    return files.found[name][0] / 1e9 if name in files else None


def _reason(message: str) -> str:
    """What a job that failed said last, out of Ray's words around the end of its log."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if line.startswith("error:"):
            own = [line.removeprefix("error:").strip()]
            for following in lines[index + 1 :]:
                if following.startswith("Finished stages are kept"):
                    break
                own.append(following)
            return " ".join(own)[:1000]
    return (lines[0] if lines else "the job failed")[:1000]


def stage_list(
    folder: StudyFolder, config: Config | None, files: Files, running: bool, until: str
) -> list[dict[str, Any]]:
    """One entry per stage of the study's way: its state, how far it is, and its seconds."""
    progress = read_progress(folder) if PROGRESS in files else {}
    stages = progress.get("stages")
    stages = stages if isinstance(stages, dict) else {}
    entries = []
    for stage in planned_stages(config, until):
        own = stages.get(stage.name)
        own = own if isinstance(own, dict) else {}
        state, seconds = "waiting", None
        if running and progress.get("stage") == stage.name:
            state = "running"
            started = own.get("started")
            seconds = max(0.0, time.time() - started) if isinstance(started, int | float) else None
        elif f"stages/{stage.name}.json" in files:
            state = "done"
            seconds = _seconds(folder, stage.name)
        at_work = state == "running"
        entries.append(
            {
                "name": stage.name,
                "state": state,
                "seconds": None if seconds is None else round(seconds, 1),
                "done": own.get("done") if at_work else None,
                "total": own.get("total") if at_work else None,
                "text": own.get("text") if at_work else None,
            }
        )
    return entries


def _seconds(folder: StudyFolder, stage: str) -> float | None:
    try:
        manifest = folder.manifest(stage)
        return None if manifest is None else float(manifest["timing"]["seconds"])
    except (UserError, OSError, KeyError, TypeError, ValueError, pa.ArrowException):
        return None


def read_config(folder: StudyFolder) -> Config:
    """
    Raises
    ------
    UserError
        There is none, or it is of another version of the package.
    """
    check_readable(folder)
    try:
        return Config.from_yaml(folder.read_bytes(CONFIG).decode(), "config.yaml")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config.yaml cannot be read: {error}") from error
