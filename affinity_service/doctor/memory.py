"""Memory, and the part of it that Ray's object store needs as shared memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from affinity_service.doctor.finding import Finding
from affinity_service.planning.machine import inspect_machine

GIB = 1 << 30
# Ray's object store takes this part of the memory, and lies in /dev/shm where that is large enough.
STORE_SHARE = 0.3


def shared_memory(place: str = "/dev/shm", memory: int | None = None) -> Iterator[Finding]:
    if not Path(place).is_dir():
        yield Finding("shared memory", "ok", f"no {place}: Ray's object store lies in its temporary folder")
        return
    memory = inspect_machine().memory if memory is None else memory
    total, wanted = shutil.disk_usage(place).total, STORE_SHARE * memory
    found = f"{place} holds {total / GIB:.1f} GiB"
    if total < wanted:
        yield Finding(
            "shared memory",
            "warn",
            f"{found}, less than Ray's object store would take ({wanted / GIB:.1f} GiB): it will lie on disk",
            f"docker run --shm-size {wanted / GIB:.0f}g; in Kubernetes mount an emptyDir of medium Memory at {place}",
        )
    else:
        yield Finding("shared memory", "ok", found)


def free_memory() -> Iterator[Finding]:
    machine = inspect_machine()
    free = f"{machine.free_memory / GIB:.1f} of {machine.memory / GIB:.1f} GiB memory free"
    # Ray ends processes beyond 95%.
    if machine.free_memory < 0.1 * machine.memory:
        yield Finding("memory", "warn", free, "end what else runs here, or workers will be ended by Ray")
    else:
        yield Finding("memory", "ok", f"{machine.cores} cores, {free}")
