"""Who is told how a run goes: a log, or a terminal with progress bars."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

log = logging.getLogger("affinity_service")


class Reporter(Protocol):
    def started(self, stage: str) -> None: ...

    def progress(self, done: int, total: int, text: str) -> None: ...

    def warn(self, message: str) -> None: ...

    def finished(self, stage: str, seconds: float, reused: bool) -> None: ...


class LogReporter:
    """A line per stage, and one every few seconds in between."""

    def __init__(self, seconds_between: float = 10.0) -> None:
        self.seconds_between = seconds_between
        self._stage, self._last = "", 0.0

    def started(self, stage: str) -> None:
        self._stage, self._last = stage, time.monotonic()
        log.info("%s: started", stage)

    def progress(self, done: int, total: int, text: str) -> None:
        if time.monotonic() - self._last >= self.seconds_between:
            self._last = time.monotonic()
            log.info("%s: %d/%d %s", self._stage, done, total, text)

    def warn(self, message: str) -> None:
        log.warning("%s: %s", self._stage, message)

    def finished(self, stage: str, seconds: float, reused: bool) -> None:
        log.info("%s: %s", stage, "found done" if reused else f"done in {seconds:.1f} s")


class RichReporter:
    """A progress bar with the time left for the stage at work, a line for each finished one."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def started(self, stage: str) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task(_title(stage), total=None, text="")
        self._bar.start()

    def progress(self, done: int, total: int, text: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, text=f"{done}/{total} {text}")

    def warn(self, message: str) -> None:
        # Messages quote names from the user's data, which are no markup.
        self.console.print(Text.assemble(("!", "yellow"), " ", message))

    def finished(self, stage: str, seconds: float, reused: bool) -> None:
        self.close()
        note = "found done" if reused else f"{seconds:.1f} s"
        self.console.print(f"[green]✓[/] {_title(stage):<20} [dim]{note}[/]", highlight=False)

    def close(self) -> None:
        """Take the bar down, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _title(stage: str) -> str:
    return stage.replace("_", " ")
