"""What a check says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """`fix` is empty where nothing needs mending."""

    check: str
    state: State
    found: str
    fix: str = ""


Check = Callable[[], Iterable[Finding]]


def look_over(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """The findings of all checks; one that breaks is itself a failure, and the others go on."""
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:
            yield Finding(name, "fail", f"the check broke: {type(error).__name__}: {error}", "report this as a bug")
