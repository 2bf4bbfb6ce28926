"""What every stage tells Ray's Prometheus endpoint: seconds, FLOPs, peak memory, pieces and failures.

Ray puts `ray_` before the names and adds the job. Without a connection to Ray nothing is told.
"""

from __future__ import annotations

import functools
import posixpath
import sys
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from affinity_service.reporter import Reporter

TAGS = ("study", "stage")
GAUGES = {
    "affinity_stage_running": "1 while the stage is at work, 0 afterwards",
    "affinity_stage_seconds": "Wall-clock seconds of the finished stage, those of interrupted runs of it included",
    "affinity_stage_flops": "Floating-point operations of all processes of the finished stage",
    "affinity_stage_peak_bytes": "Largest memory of all processes of the finished stage on the driver's machine",
    "affinity_stage_pieces_done": "Finished pieces of the stage at work: shards, tiles, models",
    "affinity_stage_pieces_total": "Pieces of the stage at work",
}
FAILURES = "affinity_stage_failures"


def study_name(root: str) -> str:
    """The last part of the study's path: roots can be long, and URIs can hold keys."""
    return posixpath.basename(urlsplit(root).path.rstrip("/")) or "study"


@dataclass(frozen=True)
class StageMetrics:
    """The metrics of one stage of one study."""

    study: str
    stage: str

    def set(self, **values: float) -> None:
        """Gauges by their name after `affinity_stage_`."""
        if (instruments := _instruments()) is not None:
            for name, value in values.items():
                instruments[f"affinity_stage_{name}"].set(float(value), tags=self._tags)

    def failed(self) -> None:
        if (instruments := _instruments()) is not None:
            instruments[FAILURES].inc(1.0, tags=self._tags)
            instruments["affinity_stage_running"].set(0.0, tags=self._tags)

    @property
    def _tags(self) -> dict[str, str]:
        return {"study": self.study, "stage": self.stage}


def _instruments() -> dict[str, Any] | None:
    # A stage that works without Ray must not wait for its import.
    ray = sys.modules.get("ray")
    return _made() if ray is not None and ray.is_initialized() else None


@functools.cache
def _made() -> dict[str, Any]:
    from ray.util.metrics import Counter, Gauge

    made: dict[str, Any] = {name: Gauge(name, description=text, tag_keys=TAGS) for name, text in GAUGES.items()}
    made[FAILURES] = Counter(FAILURES, description="Stages that ended by an error", tag_keys=TAGS)
    return made


@dataclass(frozen=True)
class MeteredReporter:
    """Passes everything on, and what it hears of pieces to the metrics too."""

    below: Reporter
    metrics: StageMetrics

    def started(self, stage: str) -> None:
        self.below.started(stage)

    def progress(self, done: int, total: int, text: str) -> None:
        self.metrics.set(pieces_done=done, pieces_total=total)
        self.below.progress(done, total, text)

    def warn(self, message: str) -> None:
        self.below.warn(message)

    def finished(self, stage: str, seconds: float, reused: bool) -> None:
        self.below.finished(stage, seconds, reused)
