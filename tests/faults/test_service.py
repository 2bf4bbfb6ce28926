"""kill -9 of the replica that answers: the service is back within seconds, and a study running as a job goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from affinity_service import Study
from tests.clusters import clean, is_running, kill_tree
from tests.faults.driving import PATIENCE, REPEATS, none_again, pieces, same_matrix, with_base_model
from tests.served import told

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]
# Statuses that say: ask again.
RETRYABLE = {429, 500, 502, 503, 504}
BACK_WITHIN = 30.0


@dataclass
class Service:
    url: str
    root: Path
    process: subprocess.Popen

    def replicas(self) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if title.startswith("ray::ServeReplica:affinity") and is_running(process):
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def service(workspace: Path, undisturbed: Study) -> Iterator[Service]:
    """`affinity serve` over a folder in which the undisturbed study lies finished."""
    root = workspace / "served"
    shutil.copytree(undisturbed.folder.root, root / "done")
    command = [sys.executable, "-m", "affinity_service", "serve", str(root), "--port", "0", "--json"]
    with (workspace / "service.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--data-root", str(workspace)],
            stdout=subprocess.PIPE,
            stderr=log,
            env={**clean(os.environ), "XDG_CACHE_HOME": str(workspace / "cache-service")},
            text=True,
            start_new_session=True,
        )
    try:
        yield Service(told(process, workspace / "service.log")["url"], root, process)
    finally:
        kill_tree(process)


@dataclass
class Caller:
    """Asks the finished study for its matrix and predictions without a pause, and keeps what came of it."""

    url: str
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[float, str]] = field(default_factory=list)

    def run(self) -> None:
        turn = 0
        while not self.stop.is_set():
            turn += 1
            self.answers.append((time.monotonic(), self.ask(turn % 2 == 0)))

    def ask(self, predict: bool) -> str:
        """`fine`, `again` for an error after which one asks again, or what else came."""
        study = f"{self.url}/v1/studies/done"
        try:
            if predict:
                answer = requests.post(f"{study}/predict", json={"tasks": ["up", "high"]}, timeout=30)
            else:
                answer = requests.get(f"{study}/affinity", timeout=30)
        except (requests.ConnectionError, requests.Timeout):
            return "again"
        if answer.status_code == 200:
            return "fine" if answer.json() else "empty"
        return "again" if answer.status_code in RETRYABLE else f"{answer.status_code} {answer.text[:200]}"


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_killed_replica_is_replaced_and_studies_go_on(service, workspace, undisturbed, repeat):
    study = with_base_model(undisturbed, service.root / f"study-{repeat}")
    config = yaml.safe_load((workspace / "config.yaml").read_text())
    body = {"name": study.name, "config": config, "until": "affinity"}
    made = requests.post(f"{service.url}/v1/studies", json=body, timeout=60)
    assert made.status_code == 201, made.text
    end = time.monotonic() + PATIENCE

    def state() -> dict:
        return requests.get(f"{service.url}/v1/studies/{study.name}", timeout=30).json()

    while len(pieces(study, "gradients/shard-*.arrow")) < 2:
        assert time.monotonic() < end, state()
        time.sleep(0.05)
    callers = [Caller(service.url) for _ in range(2)]
    threads = [threading.Thread(target=caller.run) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        while not all(len(caller.answers) >= 3 for caller in callers):
            time.sleep(0.05)
        (replica,) = service.replicas()
        finished = pieces(study, "gradients/shard-*.arrow")
        os.kill(replica.pid, signal.SIGKILL)
        killed = time.monotonic()
        # An answer that began after the kill.
        while not any(at > killed + 0.5 and what == "fine" for caller in callers for at, what in caller.answers[:]):
            assert time.monotonic() < killed + BACK_WITHIN, f"not back within {BACK_WITHIN} s"
            time.sleep(0.05)
        assert [process.pid for process in service.replicas()] != [replica.pid]
    finally:
        for caller in callers:
            caller.stop.set()
        for thread in threads:
            thread.join()
    assert {what for caller in callers for _, what in caller.answers} <= {"fine", "again"}

    while (found := state())["status"] in ("queued", "running"):
        assert time.monotonic() < end, found
        time.sleep(0.5)
    assert found["status"] == "finished", found
    none_again(study, finished)
    same_matrix(study, undisturbed)
