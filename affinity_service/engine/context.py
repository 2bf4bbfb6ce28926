"""What every stage receives and returns."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.reporter import Reporter
from affinity_service.tasks.suite import Suite

log = logging.getLogger("affinity_service")


@dataclass(frozen=True)
class StageContext:
    """One stage's view of the run."""

    stage: str
    config: Config
    folder: StudyFolder
    suite: Suite
    reporter: Reporter
    scratch: str

    def progress(self, done: int, total: int, text: str) -> None:
        self.reporter.progress(done, total, text)

    def reused(self, finished: int, total: int, pieces: str) -> None:
        """Say what an interrupted run had finished and this one does not compute again."""
        if finished:
            log.info("%s: %d of %d %s reused", self.stage, finished, total, pieces)
            self.progress(finished, total, f"{pieces} reused")

    def warn(self, message: str) -> None:
        self.reporter.warn(message)


@dataclass(frozen=True)
class StageOutcome:
    """FLOPs of all processes (a multiply and an add are two) and how many workers shared them."""

    flops: float
    workers: int
    identity: str | None = None
