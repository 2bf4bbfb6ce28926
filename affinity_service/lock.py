"""One driver per study: the second is refused and told who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from affinity_service.artifacts import StudyFolder
from affinity_service.errors import StorageError, UserError

LOCK = "driver.lock"
# An object store has no locks: the holder renews a lease, and one not renewed for so long has died.
LEASE_SECONDS, RENEW_SECONDS = 60.0, 15.0


@contextlib.contextmanager
def driver_lock(folder: StudyFolder) -> Iterator[Callable[[], None]]:
    """Hold the study while the block runs; a killed driver holds nothing.

    Yields a check that raises when the lock was lost meanwhile, as a lease can be by a driver that was suspended.

    Raises
    ------
    UserError
        Another driver is at work on the study; host, process id and start are named.
    """
    with _file_lock(folder) if folder.is_local else _lease(folder) as check:
        yield check


def is_held(folder: StudyFolder) -> bool:
    """Whether a driver is at work on the study, as far as can be seen without disturbing it: of a local folder, that
    the process which left its name lives, if it is one of this machine.

    Trying the lock itself could turn a driver away that begins just then.
    """
    try:
        holder = folder.read_json(LOCK) if folder.exists(LOCK) else {}
        if not folder.is_local:
            return time.time() - float(holder.get("renewed", 0)) < LEASE_SECONDS
        if holder.get("host") != socket.gethostname():
            return False
        begun = psutil.Process(int(holder["pid"])).create_time()
        # A later process may have got the number.
        return begun <= Path(folder.root, LOCK).stat().st_mtime + 1 and _has_open(folder, int(holder["pid"]))
    except (OSError, UserError, KeyError, TypeError, ValueError, AttributeError, psutil.Error):
        return False


def _has_open(folder: StudyFolder, process: int) -> bool:
    """Whether the process still has the file of the lock open, where the system tells: it may live on without it."""
    place = Path("/proc", str(process), "fd")
    if not place.is_dir():
        return True
    own = Path(folder.root, LOCK).stat()
    for link in place.iterdir():
        with contextlib.suppress(OSError):
            found = link.stat()
            if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
                return True
    return False


def _holder() -> dict[str, Any]:
    started = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "token": uuid.uuid4().hex}


def _refusal(folder: StudyFolder, holder: dict[str, Any]) -> UserError:
    return UserError(
        f"study {folder.root} is being run by process {holder.get('pid', '?')} on {holder.get('host', '?')} "
        f"since {holder.get('started', '?')}; wait for it, stop it, or use another --study folder"
    )


@contextlib.contextmanager
def _file_lock(folder: StudyFolder) -> Iterator[Callable[[], None]]:
    """The kernel gives the lock up with the process, however it ends."""
    path = Path(folder.root, LOCK)
    with folder.naming_storage_errors(LOCK):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            try:
                holder = json.loads(stream.read())
            except ValueError:
                holder = {}
            raise _refusal(folder, holder) from error
        stream.seek(0)
        stream.truncate()
        stream.write(json.dumps(_holder()))
        stream.flush()
        yield lambda: None


@contextlib.contextmanager
def _lease(folder: StudyFolder) -> Iterator[Callable[[], None]]:
    mine = _holder()
    # Renewing must not wait for a failing storage beyond the lease: it would take back what another took over.
    hasty = replace(folder, patience=RENEW_SECONDS / 3)

    def check(folder: StudyFolder = folder) -> None:
        found = folder.read_json(LOCK) if folder.exists(LOCK) else {}
        if found.get("token") != mine["token"]:
            raise _refusal(folder, found)

    def renew() -> None:
        hasty.write_json(LOCK, {**mine, "renewed": time.time()})

    if folder.exists(LOCK):
        found = folder.read_json(LOCK)
        if time.time() - found["renewed"] < LEASE_SECONDS:
            raise _refusal(folder, found)
    renew()
    # Of two that arrive together the later write wins; the other sees a foreign token and leaves.
    time.sleep(0.5)
    check()
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(RENEW_SECONDS):
            # A storage that fails for a moment must not end the run; the lease outlasts several tries.
            with contextlib.suppress(OSError, StorageError):
                try:
                    check(hasty)
                except StorageError:
                    continue
                except UserError:
                    return
                renew()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(UserError):
            check(hasty)
            hasty.delete(LOCK)
