"""Starting studies and stopping them: one at a time per name, and what is started is never forgotten."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.service.allowed import Permissions
from affinity_service.service.catalogue import Catalogue
from affinity_service.service.configs import checked_config
from affinity_service.service.errors import ApiError
from affinity_service.service.jobs import RECORD, JobRecord
from affinity_service.service.names import checked_name, folder_of
from affinity_service.service.status import LIVE, Standing

OWN_FOLDER = ".service"
# Names share so many locks.
LOCKS = 64


class Starter:
    """Submits configs as jobs and cancels them."""

    def __init__(self, catalogue: Catalogue, permissions: Permissions, most_config_bytes: int) -> None:
        self.catalogue, self.permissions, self.most_config_bytes = catalogue, permissions, most_config_bytes
        self._claimed: set[str] = set()
        self._lock = threading.Lock()

    def start(self, name: str | None, content: Any, until: str) -> Standing:
        """
        Raises
        ------
        ApiError
            409: the study is at work, or the folder holds something else. 413, 422: the config cannot be used. 503: no
            cluster answers.
        """
        if name is not None:
            checked_name(name)
        config = checked_config(content, name, until, self.permissions, self.most_config_bytes)
        name = checked_name(config.name)
        root = self.catalogue.root
        folder = folder_of(root, name)
        with self._claim(name):
            files = self.catalogue.files_of(folder)
            if files.is_study:
                own = self.catalogue.see(name).standing
                if own.status in LIVE:
                    raise ApiError(
                        409, f"study `{name}` is {own.status}", "running", "wait for its end, cancel it, or use a name"
                    )
            elif not _is_empty(folder):
                raise ApiError(
                    409, f"`{name}` holds files that are no study", "not_a_study", "use another name", "name"
                )
            before = JobRecord.read(folder)
            # Written first: a job that nobody knows of could not be found again.
            record = JobRecord(f"{name}-{uuid.uuid4().hex[:8]}", until, time.time())
            with self.catalogue.submitting(record.id):
                self._submit(folder, record, before, config)
            return self.catalogue.see(name).standing

    def _submit(self, folder: StudyFolder, record: JobRecord, before: JobRecord | None, config: Config) -> None:
        """Write the record, and start the job; where it is not taken the record is again what it was."""
        try:
            record.write(folder)
        except (OSError, UserError, pa.ArrowException) as error:
            raise ApiError(503, f"study `{config.name}` cannot be written: {_reason(error)}", "storage") from error
        try:
            self.catalogue.runner.submit(record.id, config, folder.root, record.until)
        except Exception as error:
            with contextlib.suppress(OSError, UserError, pa.ArrowException):
                before.write(folder) if before is not None else folder.delete(RECORD)
            if isinstance(error, UserError):
                raise ApiError(503, "the cluster does not take the job", "cluster", _reason(error)) from error
            raise

    def stop(self, name: str) -> Standing:
        """Cancel the job that works on a study; one that has none at work stays as it is.

        Raises
        ------
        ApiError
            404: there is no such study. 409: something else than a job of this service works on it.
        """
        seen = self.catalogue.see(name)
        if seen.standing.status not in LIVE:
            return seen.standing
        if seen.record is None:
            raise ApiError(409, f"study `{name}` is run by something else than this service", "not_ours")
        try:
            self.catalogue.runner.cancel(seen.record.id)
        except UserError as error:
            raise ApiError(503, "the cluster does not answer", "cluster", _reason(error)) from error
        with contextlib.suppress(OSError, UserError, pa.ArrowException):
            if JobRecord.read(seen.folder) == seen.record:
                replace(seen.record, cancelled=True).write(seen.folder)
        return self.catalogue.see(name).standing

    @contextlib.contextmanager
    def _claim(self, name: str) -> Iterator[None]:
        """Of several requests for one study at a time, one goes on: in this replica, and where the root is local in all
        of them; on an object store the driver's own lock decides."""
        busy = ApiError(409, f"study `{name}` is being submitted by another request", "running")
        with self._lock:
            if name in self._claimed:
                raise busy
            self._claimed.add(name)
        try:
            with _file_lock(self.catalogue.root, name, busy):
                yield
        finally:
            with self._lock:
                self._claimed.discard(name)


@contextlib.contextmanager
def _file_lock(root: StudyFolder, name: str, busy: ApiError) -> Iterator[None]:
    if not root.is_local:
        yield
        return
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % LOCKS
    place = Path(root.root, OWN_FOLDER, "locks")
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(place / f"{number}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ApiError(503, f"the studies' folder cannot be written: {error.strerror}", "storage") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        yield
    finally:
        os.close(lock)


def _is_empty(folder: StudyFolder) -> bool:
    if folder.is_local and Path(folder.root).is_file():
        return False
    infos = folder.filesystem.get_file_info(fs.FileSelector("", allow_not_found=True, recursive=False))
    return not infos


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)[:500]
