"""A remote storage that fails for a while: which errors pass, and how long to wait for it.

The storages' own clients try again for some seconds. An object store that is being restarted, or a network that is
down, takes longer, and a run of hours should outlast it.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from affinity_service.errors import StorageError, UserError

Result = TypeVar("Result")
log = logging.getLogger("affinity_service")

# Seconds that one operation on a remote storage waits for it in all; a variable, so that workers have it too.
PATIENCE, PATIENCE_SECONDS = "AFFINITY_STORAGE_PATIENCE", 120.0
FIRST_DELAY, LONGEST_DELAY = 0.5, 20.0
# pyarrow tells most errors of an object store by text alone.
_PASSING = re.compile(
    r"HTTP status (408|429|5\d\d)|NETWORK_CONNECTION|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|SLOW_DOWN|THROTTLING"
    r"|REQUEST_TIMEOUT|REQUEST_EXPIRED|curlCode|[Tt]imed? ?out|[Cc]onnection (reset|refused|closed|aborted)"
    r"|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|Please try again"
)
_PASSING_NUMBERS = (
    *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ETIMEDOUT, errno.EPIPE),
    *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EAGAIN),
)


def passes(error: OSError) -> bool:
    """Whether the same operation may succeed later: a server's trouble, no wrong name and no missing right."""
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return False
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in _PASSING_NUMBERS:
        return True
    return _PASSING.search(str(error)) is not None


def patience_seconds() -> float:
    """Raises UserError where the variable holds no time."""
    text = os.environ.get(PATIENCE, "")
    if not text:
        return PATIENCE_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{PATIENCE} is {text!r}; expected seconds, such as {PATIENCE_SECONDS:g}")
    return seconds


def patiently(what: str, action: Callable[[], Result], patience: float | None = None) -> Result:
    """The result of `action`, tried again with growing pauses while what it raises is an error that passes.

    Parameters
    ----------
    what : the thing and what is done to it, for the log and the error.
    patience : seconds from the first failure on after which no further try is made; those of the variable when None.

    Raises
    ------
    StorageError
        It still failed when the patience was over; the last error is named.
    OSError
        An error of another kind, as it was.
    """
    started, tries = 0.0, 0
    while True:
        try:
            return action()
        except OSError as error:
            if not passes(error):
                raise
            tries += 1
            now = time.monotonic()
            started = started or now
            limit = patience_seconds() if patience is None else patience
            # Between half and the whole, so that many workers do not come back at the same moment.
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (tries - 1)) * random.uniform(0.5, 1)
            if now - started + delay > limit:
                raise StorageError(
                    f"{what}: the storage failed {tries} time{'s' * (tries != 1)} in {now - started:.0f} s, last with: "
                    f"{error}; what is finished is kept and the same command continues once it answers again "
                    f"({PATIENCE}, seconds, says how long to wait for it)"
                ) from error
            log.warning("%s: failed (%s); trying again in %.1f s", what, error, delay)
            time.sleep(delay)
