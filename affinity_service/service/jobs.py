"""Which job works on which study: a small record in the study folder, and whoever runs jobs."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.errors import UserError

if TYPE_CHECKING:
    from affinity_service.engine.jobs import Jobs, JobState

RECORD = "job.json"
PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED = "PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"
# So long an answer of the cluster is taken for the present.
FRESH_SECONDS = 1.0
# So long a request waits for another one that asks the cluster.
LONGEST_SECONDS = 5.0
# The ends of so many jobs are remembered; they do not change.
MOST_ENDED = 10_000
# Ids become part of addresses of the dashboard.
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,150}\Z", re.ASCII)


@dataclass(frozen=True)
class JobRecord:
    """What the service leaves in a study folder, so that the relation outlives the service and the cluster's head."""

    id: str
    until: str
    submitted: float
    cancelled: bool = False

    def write(self, folder: StudyFolder) -> None:
        folder.write_json(RECORD, asdict(self))

    @classmethod
    def read(cls, folder: StudyFolder) -> JobRecord | None:
        """None where there is none that can be read."""
        try:
            if not folder.exists(RECORD):
                return None
            found = folder.read_json(RECORD)
            own = cls(
                str(found["id"]), str(found["until"]), float(found["submitted"]), bool(found.get("cancelled", False))
            )
            # Whoever may write the folder could have written it: what cannot be a job or a time is none.
            return own if _ID.match(own.id) and math.isfinite(own.submitted) and 0 <= own.submitted < 1e11 else None
        except (OSError, UserError, KeyError, TypeError, ValueError, pa.ArrowException):
            return None


@dataclass(frozen=True)
class JobInfo:
    """How a job goes, in Ray's words for it; times in seconds since 1970."""

    id: str
    status: str
    message: str = ""
    started: float | None = None
    ended: float | None = None

    @property
    def over(self) -> bool:
        return self.status in (SUCCEEDED, FAILED, STOPPED)


@dataclass(frozen=True)
class LogTail:
    """The end of a log; `cut` where more may stand before it."""

    content: bytes
    cut: bool


class JobRunner(Protocol):
    """Whoever runs studies. Methods raise UserError when nobody can be reached."""

    def submit(self, job: str, config: Config, study: str, until: str) -> None:
        """Start a job of this id."""

    def state(self, job: str) -> JobInfo | None:
        """None for a job that is not known (any more)."""

    def cancel(self, job: str) -> JobInfo | None: ...

    def log_tail(self, job: str, most: int) -> LogTail | None:
        """So many bytes of the log at most, the last ones."""


class RayJobs:
    """Jobs of the Ray cluster that the service runs in, or of the one with a dashboard at `address`."""

    def __init__(self, address: str | None, installed: bool) -> None:
        self.address, self.installed = address, installed
        self._jobs: Jobs | None = None
        self._lock = threading.Lock()
        self._ended: OrderedDict[str, JobInfo] = OrderedDict()
        # When the cluster was asked last, and when something was changed there last.
        self._asked, self._changed = float("-inf"), float("-inf")
        self._known: dict[str, JobInfo] = {}

    def _client(self) -> Jobs:
        from affinity_service.engine.jobs import Jobs, dashboard_of_cluster

        if self._jobs is None:
            self._jobs = Jobs(self.address or dashboard_of_cluster())
        return self._jobs

    def submit(self, job: str, config: Config, study: str, until: str) -> None:
        try:
            self._client().submit(config, study, installed=self.installed, until=until, job=job)
        except RuntimeError as error:
            # What Ray's client raises for every answer that is no success.
            raise UserError(str(error).strip().split("\n")[0]) from error
        finally:
            self._changed = time.monotonic()

    def state(self, job: str) -> JobInfo | None:
        if (ended := self._ended.get(job)) is not None:
            return ended
        # Whoever finds another one asking takes what was said last: a cluster that does not answer holds up one.
        last = self._known.get(job)
        if not self._lock.acquire(timeout=LONGEST_SECONDS if last is None else 0):
            if last is None:
                raise UserError("the cluster takes its time to answer")
            return last
        try:
            # An answer to what was asked before a job was submitted does not know the job.
            if time.monotonic() - self._asked > FRESH_SECONDS or self._asked <= self._changed:
                begin = time.monotonic()
                # One question for all studies of a page, not one each.
                self._known = {own: _info(state) for own, state in self._asking().items()}
                self._asked = begin
                self._ended.update({own: info for own, info in self._known.items() if info.over})
                while len(self._ended) > MOST_ENDED:
                    self._ended.popitem(last=False)
            return self._known.get(job)
        finally:
            self._lock.release()

    def _asking(self) -> dict[str, JobState]:
        try:
            return self._client().states()
        except UserError:
            # A head that was started again has another address.
            self._jobs = None
            raise

    def cancel(self, job: str) -> JobInfo | None:
        try:
            return _info(self._client().cancel(job, patience=20.0))
        except UserError as error:
            if "no job `" in str(error):
                return None
            raise
        finally:
            self._changed = time.monotonic()

    def log_tail(self, job: str, most: int) -> LogTail | None:
        try:
            return LogTail(*self._client().log_tail(job, most))
        except UserError as error:
            if "no job `" in str(error):
                return None
            raise


def _info(state: Any) -> JobInfo:
    return JobInfo(state.id, state.status, state.message, state.started, state.ended)
