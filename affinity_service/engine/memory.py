"""Peak memory of a stage, summed over the driver and all Ray processes on this machine."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil


@dataclass
class Peak:
    """Largest sum of proportional set sizes seen, in bytes: shared pages, the object store's too, count once."""

    bytes: int = 0


# Summing up the pages of a process stops it for milliseconds: sampling takes at most one part in so many of the time.
_LEISURE = 20


@contextlib.contextmanager
def peak_memory(seconds: float = 1.0) -> Iterator[Peak]:
    """Sample while the block runs, every so many seconds or more seldom; short spikes between samples are missed."""
    peak = Peak()
    stop = threading.Event()

    def watch() -> None:
        while True:
            start = time.perf_counter()
            peak.bytes = max(peak.bytes, sum(_pss(process) for process in _processes()))
            if stop.wait(max(seconds, _LEISURE * (time.perf_counter() - start))):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _processes() -> list[psutil.Process]:
    """The driver with its children. A local Ray's processes are among them; of a cluster that is only joined, the
    workers on this machine are added."""
    driver = psutil.Process()
    family = {driver.pid: driver, **{p.pid: p for p in driver.children(recursive=True)}}
    with contextlib.suppress(psutil.Error):
        if any(process.name() == "raylet" for process in family.values()):
            return list(family.values())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid not in family and process.cmdline()[:1] and process.cmdline()[0].startswith("ray::"):
                family[process.pid] = process
    return list(family.values())


def _pss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error, OSError):
        with open(f"/proc/{process.pid}/smaps_rollup") as stream:
            for line in stream:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        return process.memory_info().rss
    return 0
