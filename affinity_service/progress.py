"""How a run goes, as a file in the study folder: what other processes and other nodes can see of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.reporter import Reporter

PROGRESS = "progress.json"
# A write to an object store takes as long as a hundred to a disk.
SECONDS_LOCAL, SECONDS_REMOTE = 1.0, 5.0


class ProgressFile:
    """A reporter that keeps `progress.json`: the stage at work, its done, total and text, and what is finished.

    Written at the start and end of a stage and at most once a second in between. A storage that fails is not worth the
    run: what could not be written is left out.
    """

    def __init__(self, folder: StudyFolder, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.clock = folder, clock
        self.every = SECONDS_LOCAL if folder.is_local else SECONDS_REMOTE
        self._stages: dict[str, dict[str, Any]] = {}
        self._stage: str | None = None
        self._written = 0.0

    def started(self, stage: str) -> None:
        self._stage = stage
        self._stages[stage] = {"state": "running", "started": self.clock()}
        self._write()

    def progress(self, done: int, total: int, text: str) -> None:
        if self._stage is None:
            return
        self._stages[self._stage] |= {"done": int(done), "total": int(total), "text": str(text)}
        # A clock that was set back must not silence it.
        if abs(self.clock() - self._written) >= self.every:
            self._write()

    def warn(self, message: str) -> None:
        pass

    def finished(self, stage: str, seconds: float, reused: bool) -> None:
        self._stages[stage] = {"state": "done", "seconds": seconds, "reused": reused}
        self._stage = None
        self._write()

    def _write(self) -> None:
        self._written = self.clock()
        content = {"stage": self._stage, "updated": self._written, "stages": self._stages}
        with contextlib.suppress(OSError, UserError, pa.ArrowException, ValueError):
            self.folder.write_json(PROGRESS, content)


class Several:
    """Tells several reporters, in their order."""

    def __init__(self, *reporters: Reporter) -> None:
        self.reporters = reporters

    def started(self, stage: str) -> None:
        for reporter in self.reporters:
            reporter.started(stage)

    def progress(self, done: int, total: int, text: str) -> None:
        for reporter in self.reporters:
            reporter.progress(done, total, text)

    def warn(self, message: str) -> None:
        for reporter in self.reporters:
            reporter.warn(message)

    def finished(self, stage: str, seconds: float, reused: bool) -> None:
        for reporter in self.reporters:
            reporter.finished(stage, seconds, reused)


def read_progress(folder: StudyFolder) -> dict[str, Any]:
    """What the last run left; empty where there is nothing that can be read."""
    try:
        found = folder.read_json(PROGRESS) if folder.exists(PROGRESS) else {}
    except (OSError, UserError, pa.ArrowException):
        return {}
    return found if isinstance(found, dict) else {}
