"""Latency of the service under load: `python -m tests.benchmarks.service [--quick]`.

A real `affinity serve`; studies of 100 tasks with 500 training and 500 validation examples each, d = 200, 10,000
weights. Every query is a subset of 10 tasks that was never asked before; queries are sent 20 times a second for a
minute whether or not earlier ones were answered (open loop), and a latency runs from when a query was due. Then the
whole affinity matrix of 500 tasks as Arrow, one after the other. The client shares the machine with the service.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import numpy as np

from tests.served import told, write_study

SIZE, PER_SECOND = 10, 20
STUDIES = {
    "ridge, given penalty": {"solution": "ridge", "l2": 1e-2},
    "path of 15 epochs (default)": {"solution": "path", "l2": "auto"},
}


def start(root: Path, replicas: int) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "affinity_service", "serve", str(root), "--port", "0", "--json"]
    log = root / "service.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--replicas", str(replicas)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    return process, told(process, log)["url"]


def subsets(count: int, tasks: int, seed: int) -> list[list[str]]:
    rng, found = np.random.default_rng(seed), dict[tuple[int, ...], None]()
    while len(found) < count:
        found[tuple(sorted(rng.choice(tasks, SIZE, replace=False).tolist()))] = None
    return [[f"task_{task}" for task in subset] for subset in found]


async def load(url: str, queries: list[list[str]]) -> tuple[list[float], int]:
    """Milliseconds of the answers, and how many were none."""
    times, errors = [], 0
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(query: list[str], due: float) -> None:
            nonlocal errors
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            try:
                async with session.post(url, json={"tasks": query}) as answer:
                    body = await answer.json()
                    good = answer.status == 200 and len(body["predictions"]) == SIZE
            except (aiohttp.ClientError, KeyError, ValueError):
                good = False
            errors += not good
            times.append(1e3 * (time.perf_counter() - due))

        begin = time.perf_counter() + 0.1
        await asyncio.gather(*(one(query, begin + i / PER_SECOND) for i, query in enumerate(queries)))
    return times, errors


async def matrices(url: str, count: int) -> tuple[list[float], int]:
    times, size = [], 0
    async with aiohttp.ClientSession() as session:
        for index in range(count + 1):
            begin = time.perf_counter()
            async with session.get(url) as answer:
                size = len(await answer.read())
                assert answer.status == 200
            if index:  # the first one opens the study
                times.append(1e3 * (time.perf_counter() - begin))
    return times, size


def row(name: str, times: list[float], errors: int) -> None:
    p50, p99 = np.percentile(times, [50, 99])
    print(f"| {name} | {len(times)} | {p50:.1f} | {p99:.1f} | {max(times):.1f} | {errors} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--replicas", type=int, default=1)
    options = parser.parse_args()
    tasks, rows, d, weights = (20, 100, 50, 1000) if options.quick else (100, 500, 200, 10_000)
    seconds, wide = (5, 50) if options.quick else (60, 500)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for index, fits in enumerate(STUDIES.values()):
            write_study(root / f"study{index}", tasks, rows, d, weights, **fits)
        write_study(root / "wide", wide, rows=2, dimension=4)
        process, url = start(root, options.replicas)
        try:
            print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.replicas} replicas")
            print("| request | answers | p50 ms | p99 ms | largest ms | errors |")
            print("|---|---|---|---|---|---|")
            for index, name in enumerate(STUDIES):
                place_of = f"{url}/v1/studies/study{index}/predict"
                queries = subsets(seconds * PER_SECOND + 40, tasks, index)
                # What depends on a task alone is made when the task is first named.
                asyncio.run(load(place_of, queries[:40]))
                row(f"predict, {name}", *asyncio.run(load(place_of, queries[40:])))
            for layout in ("long", "wide"):
                place_of = f"{url}/v1/studies/wide/affinity?format=arrow&layout={layout}"
                times, size = asyncio.run(matrices(place_of, 5 if options.quick else 30))
                row(f"{wide} × {wide} as Arrow, {layout}, {size / 1e6:.1f} MB", times, 0)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


if __name__ == "__main__":
    main()
