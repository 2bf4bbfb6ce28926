"""What this machine has, and how fast it is at this moment."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from affinity_service.config import ResourceConfig

# CPU seconds of `_loop` on the machine where the start-ups were measured (AMD EPYC, 2 cores).
REFERENCE_LOOP = 0.0045
LOOP = 100_000
# Ray ends processes once the machine's memory is so full (RAY_memory_usage_threshold).
USABLE_MEMORY = 0.95
# Half a second tells no smaller share: stages then ran faster than it said.
LEAST_SHARE = 0.25
# A local Ray is started with at least so many, see engine/session.py.
LOCAL_CPUS = 2


@dataclass(frozen=True)
class Rates:
    """Of one core, in CPU time; `share` is the part of a core's time that a process obtains beside what else runs.

    gemm, linear : FLOP/s of torch's matrix product and of the one that the fits take. elements : numbers per second
    of an elementwise operation into fresh memory. operation : seconds of a tiny torch operation. interpreter : seconds
    of a Python loop relative to the reference machine.
    """

    gemm: float = 8e10
    linear: float = 1.5e11
    elements: float = 3e9
    operation: float = 1.2e-6
    interpreter: float = 1.0
    share: float = 1.0

    @property
    def overhead(self) -> float:
        """Of starts and bookkeeping, relative to the reference machine. The loop's rate differs by half from one
        process to the next on a machine (where its code lies in memory), starts then hardly do: hence the root."""
        return math.sqrt(self.interpreter)

    @property
    def slowdown(self) -> float:
        """By what else runs. The several processes of a stage together obtain more than the share of one: at shares
        of 0.2 to 0.5 stages took between the root of its inverse and its inverse times as long."""
        return self.share**-0.75


@dataclass(frozen=True)
class Machine:
    """memory : bytes that may be in use. free_memory, free_disk : bytes at this moment. gpus : bytes of each."""

    cores: int
    memory: int
    free_memory: int
    free_disk: int
    gpus: tuple[int, ...] = ()
    rates: Rates = Rates()

    @property
    def usable_memory(self) -> float:
        return USABLE_MEMORY * self.memory

    def places(self, resources: ResourceConfig) -> int:
        """Workers that run at a time; with `auto` each takes a GPU where there are any."""
        places = math.floor(max(self.cores, LOCAL_CPUS) / resources.cpus + 1e-9)
        if self.gpus and resources.gpus:
            each = 1.0 if resources.gpus == "auto" else resources.gpus
            places = min(places, math.floor(len(self.gpus) / each + 1e-9))
        return max(1, places)

    def calibrated(self) -> Machine:
        return replace(self, rates=calibrate())


def inspect_machine(folder: str | Path = ".") -> Machine:
    """Cores, memory, the GPUs, and the disk that holds `folder`; containers' limits are respected. Milliseconds."""
    memory = psutil.virtual_memory()
    limit = min([memory.total, *_container_memory()])
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    return Machine(
        cores=_cores(),
        memory=limit,
        free_memory=min(memory.available, limit),
        free_disk=psutil.disk_usage(str(existing)).free,
        gpus=_gpus(),
    )


def calibrate() -> Rates:
    """Measure this machine in about half a second."""
    import torch

    from affinity_service.fitting.products import affine

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start, busy = time.perf_counter(), time.process_time()
    try:
        tiny, square, large = torch.ones(8), torch.ones(512, 512), torch.ones(1 << 22)
        rates = Rates(
            gemm=2 * 512**3 / _seconds(lambda: square @ square),
            linear=2 * 512**3 / _seconds(lambda: affine(square, square)),
            # What the pages of fresh memory cost differs most.
            elements=len(large) / _seconds(lambda: large * 1.5, repeats=25),
            operation=_seconds(lambda: torch.add(tiny, tiny), 2000),
            interpreter=_seconds(_loop) / REFERENCE_LOOP,
        )
        # Long enough for the scheduler to let others have their turn.
        while time.perf_counter() - start < 0.5:
            _loop()
        share = (time.process_time() - busy) / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return replace(rates, share=min(1.0, max(LEAST_SHARE, share)))


def _seconds(call: Callable[[], object], times: int = 2, repeats: int = 5) -> float:
    """CPU seconds of a call, the shortest of `repeats`: what others do at the same time lengthens it."""
    call()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(times):
            call()
        taken.append((time.process_time() - start) / times)
    return max(min(taken), 1e-9)


def _loop() -> int:
    total = 0
    for number in range(LOOP):
        total += number * number % 7
    return total


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        allowed, period = quota.read_text().split()[:2]
        if allowed != "max":
            cores = min(cores, max(1, math.ceil(int(allowed) / int(period))))
    return cores


def _container_memory() -> list[int]:
    files = [Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in texts if text.isdigit()]


def _gpus() -> tuple[int, ...]:
    # torch takes seconds to import: only where a driver shows a device (NVIDIA, AMD, Windows' Linux).
    if not any(Path("/dev", name).exists() for name in ("nvidiactl", "kfd", "dxg")):
        return ()
    import torch

    return tuple(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
