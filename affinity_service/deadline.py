"""Until when somebody waits for an answer: searches and fits look at it between steps and give up once it is past.

It belongs to the thread that works, so that nothing has to be passed from function to function; where nobody set one
there is none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Of `time.monotonic`.
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


class DeadlineExceeded(Exception):
    """The time for an answer is over. No ``UserError``, which a search may take for a candidate that is refused."""


@contextmanager
def deadline_in(seconds: float) -> Iterator[None]:
    """Work in this thread has so many seconds, or those left of an earlier deadline."""
    before = _deadline.set(min(_deadline.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(before)


def check_deadline() -> None:
    """
    Raises
    ------
    DeadlineExceeded
        It is past.
    """
    if time.monotonic() > _deadline.get():
        raise DeadlineExceeded("the time for this answer is over")


def seconds_left(most: float) -> float:
    """Seconds until the deadline, `most` at most; for solvers that take a limit of their own.

    Raises
    ------
    DeadlineExceeded
        There are none.
    """
    check_deadline()
    return min(most, _deadline.get() - time.monotonic())
