"""What every stage receives and returns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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

    def unfinished(self, names: Sequence[str], pieces: str) -> list[int]:
        """Positions of the files that are not there yet; says which ones an interrupted run had finished."""
        present = self.folder.sizes(names)
        missing = [index for index, name in enumerate(names) if name not in present]
        if present:
            log.info(
                "%s: %d of %d %s reused: %s", self.stage, len(present), len(names), pieces, ", ".join(sorted(present))
            )
            self.progress(len(present), len(names), f"{pieces} reused")
        return missing

    def warn(self, message: str) -> None:
        self.reporter.warn(message)


@dataclass(frozen=True)
class StageOutcome:
    """FLOPs of all processes (a multiply and an add are two) and how many workers shared them."""

    flops: float
    workers: int
    identity: str | None = None
