"""The studies of a root: which there are, how they stand, and those that are kept open."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.service.errors import ApiError, not_found
from affinity_service.service.jobs import PENDING, RECORD, JobInfo, JobRecord, JobRunner
from affinity_service.service.names import folder_of, inside, is_name
from affinity_service.service.open_study import OpenStudy, without_place
from affinity_service.service.status import (
    CONFIG,
    LIVE,
    SUITE,
    Files,
    Standing,
    read_config,
    stage_list,
    standing,
)
from affinity_service.tasks.units import loss_unit

# Of so many studies it is remembered what their config and suite say.
MOST_DESCRIBED = 2000
# Of a study that has no suite yet.
UNIT = "nats"


@dataclass(frozen=True)
class _Described:
    """What the config and the suite say, for as long as they stay the same."""

    key: tuple[Any, ...]
    config: Config | None
    tasks: int | None
    kinds: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True)
class Seen:
    """A study at a moment."""

    folder: StudyFolder
    files: Files
    described: _Described
    record: JobRecord | None
    standing: Standing


class Catalogue:
    """Thread-safe; every method may take as long as the storage does."""

    def __init__(self, root: str, runner: JobRunner, most_open: int) -> None:
        self.root, self.runner, self.most_open = StudyFolder.at(root), runner, most_open
        self._lock = threading.Lock()
        self._described: OrderedDict[str, _Described] = OrderedDict()
        self._open: OrderedDict[str, tuple[tuple[Any, ...], OpenStudy]] = OrderedDict()
        self._opening: dict[str, threading.Lock] = {}
        # Jobs whose submission is at work: the cluster does not know them yet, which is no end of theirs.
        self._submitting: set[str] = set()

    def names(self) -> list[str]:
        """Names of the folders that may be studies, sorted."""
        selector = fs.FileSelector("", allow_not_found=True, recursive=False)
        try:
            infos = self.root.filesystem.get_file_info(selector)
        except (OSError, pa.ArrowException) as error:
            raise ApiError(503, "the studies' folder cannot be read", "storage") from error
        names = (info.base_name for info in infos if info.type == fs.FileType.Directory)
        return sorted(name for name in names if is_name(name) and self._within(name))

    def _within(self, name: str) -> bool:
        return not self.root.is_local or inside(Path(self.root.root, name), Path(self.root.root))

    def page(self, limit: int, after: str | None) -> tuple[list[Standing], bool]:
        """Up to `limit` studies whose names come after one; whether there are more."""
        found: list[Standing] = []
        for name in self.names():
            if after is not None and name <= after:
                continue
            folder = folder_of(self.root, name)
            try:
                files = self.files_of(folder)
            except ApiError:
                # One that cannot be read does not hide the others.
                continue
            if not files.is_study:
                continue
            if len(found) == limit:
                return found, True
            found.append(self._see(name, folder, files).standing)
        return found, False

    def see(self, name: str) -> Seen:
        """
        Raises
        ------
        ApiError
            404: there is no study of this name.
        """
        folder = folder_of(self.root, name)
        files = self.files_of(folder)
        if not files.is_study:
            raise not_found(f"no study `{name}`")
        return self._see(name, folder, files)

    def files_of(self, folder: StudyFolder) -> Files:
        """None of them where a file lies in the place of the folder."""
        if folder.is_local and not Path(folder.root).is_dir():
            return Files({})
        try:
            return Files.of(folder)
        except (OSError, pa.ArrowException) as error:
            raise ApiError(503, "the study's folder cannot be read", "storage") from error

    def _see(self, name: str, folder: StudyFolder, files: Files) -> Seen:
        described = self._describe(name, folder, files)
        record = JobRecord.read(folder) if RECORD in files else None
        info = self._job(record)
        if record is not None and (info is None or isinstance(info, UserError) or info.over):
            # It may have written between the two looks.
            files = self.files_of(folder)
        own = standing(name, folder, files, described.config, described.tasks, info, record)
        return Seen(folder, files, described, record, own)

    def _job(self, record: JobRecord | None) -> JobInfo | UserError | None:
        if record is None:
            return None
        # Looked at first: whatever is not among them any more, the cluster has taken or refused.
        submitting = record.id in self._submitting
        try:
            found = self.runner.state(record.id)
        except UserError as error:
            return error
        return JobInfo(record.id, PENDING) if found is None and submitting else found

    @contextlib.contextmanager
    def submitting(self, job: str) -> Iterator[None]:
        """For as long as a job is on its way to the cluster it waits for its turn."""
        self._submitting.add(job)
        try:
            yield
        finally:
            self._submitting.discard(job)

    def _describe(self, name: str, folder: StudyFolder, files: Files) -> _Described:
        key = (files.found.get(CONFIG), files.found.get(SUITE))
        with self._lock:
            known = self._described.get(name)
            if known is not None and known.key == key:
                self._described.move_to_end(name)
                return known
        made = _description(key, folder, files)
        with self._lock:
            self._described[name] = made
            while len(self._described) > MOST_DESCRIBED:
                self._described.popitem(last=False)
        return made

    def detail(self, name: str) -> dict[str, Any]:
        """What the contract's GET of a study holds."""
        seen = self.see(name)
        running = seen.standing.status in LIVE
        until = seen.record.until if seen.record is not None else "report"
        why = self._why_not(name, seen)
        config = seen.described.config
        return {
            **seen.standing.to_json(),
            "stages": stage_list(seen.folder, config, seen.files, running, until),
            "groups": self._has_groups(name, seen),
            "fidelity": seen.folder.exists("fidelity.json"),
            "report": seen.folder.exists("report/index.html"),
            "can_predict": why is None,
            "why_not_predict": why,
            "unit": loss_unit(seen.described.kinds) if seen.described.kinds else UNIT,
        }

    def _why_not(self, name: str, seen: Seen) -> str | None:
        if seen.described.problem is not None:
            return seen.described.problem
        if CONFIG not in seen.files or SUITE not in seen.files:
            return "the study has not begun yet"
        if "stages/affinity.json" not in seen.files:
            return "the affinities are not computed yet"
        try:
            return self.opened(name).why_not_predict()
        except ApiError as error:
            return error.message

    def _has_groups(self, name: str, seen: Seen) -> bool:
        """Whether there are stored groups, and of the study's config as it is now."""
        if "stages/groups.json" not in seen.files or seen.described.problem is not None:
            return False
        try:
            self.opened(name).require("groups")
        except (ApiError, UserError):
            return False
        return True

    def opened(self, name: str) -> OpenStudy:
        """The study, opened once for as long as its files stay the same.

        Raises
        ------
        ApiError
            404: there is none of this name. 409: it cannot be asked yet. 422: it cannot be read.
        """
        folder = folder_of(self.root, name)
        files = self.files_of(folder)
        if not files.is_study:
            raise not_found(f"no study `{name}`")
        if CONFIG not in files or SUITE not in files:
            raise ApiError(409, f"study `{name}` has not begun yet", "not_ready", "watch its events")
        key = (files.content, _added(folder))
        with self._lock:
            opening = self._opening.setdefault(name, threading.Lock())
        with opening:
            with self._lock:
                known = self._open.get(name)
                if known is not None and known[0] == key:
                    self._open.move_to_end(name)
                    return known[1]
            try:
                study = OpenStudy.of(folder)
            except UserError as error:
                raise ApiError(409, without_place(str(error), folder), "unreadable") from error
            except (KeyError, TypeError, ValueError) as error:
                raise ApiError(409, f"what study `{name}` says of itself cannot be read", "unreadable") from error
            with self._lock:
                self._open[name] = key, study
                self._open.move_to_end(name)
                while len(self._open) > self.most_open:
                    gone, _ = self._open.popitem(last=False)
                    self._opening.pop(gone, None)
            return study


def _added(folder: StudyFolder) -> tuple[Any, ...]:
    """Stands for the tasks that were added to a study since."""
    infos = folder.filesystem.get_file_info(fs.FileSelector("added", allow_not_found=True))
    return tuple(sorted((info.path, info.mtime_ns or 0, info.size or 0) for info in infos))


def _description(key: tuple[Any, ...], folder: StudyFolder, files: Files) -> _Described:
    config, problem, kinds = None, None, tuple[str, ...]()
    tasks: int | None = None
    try:
        if CONFIG in files:
            config = read_config(folder)
        if SUITE in files:
            entries = folder.read_json(SUITE)["tasks"]
            tasks, kinds = len(entries), tuple(str(entry["kind"]) for entry in entries)
    except (ValueError, OSError, KeyError, TypeError, pa.ArrowException) as error:
        problem = without_place(str(error), folder)
    return _Described(key, config, tasks, kinds, problem)


class Kept:
    """An answer that is kept for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._made, self._value = seconds, float("-inf"), None
        self._lock = threading.Lock()

    def get(self, make: Any) -> Any:
        with self._lock:
            if time.monotonic() - self._made > self.seconds:
                self._value, self._made = make(), time.monotonic()
            return self._value
