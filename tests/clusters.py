"""Ray heads and nodes in processes and ports of their own, so that several clusters can run beside each other."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

BIN = Path(sys.executable).parent
# Seconds that a node may take to start; a busy machine needs more.
PATIENCE = int(os.environ.get("FAULT_PATIENCE", "150"))
# A node whose raylet was killed is given up after two seconds instead of a quarter of a minute.
QUICK_DEATH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "3",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what another Ray has left there."""
    return {k: v for k, v in environment.items() if not k.startswith("RAY_") and k != "PYTHONDONTWRITEBYTECODE"}


def kill_tree(process: subprocess.Popen) -> None:
    """kill -9 of the process and of whatever it started, jobs included, and of nothing else."""
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    with contextlib.suppress(psutil.Error):
        family += family[0].children(recursive=True) if family else []
    for member in family:
        with contextlib.suppress(psutil.Error):  # psutil sees when another process got the number
            member.kill()
    process.wait()
    wait_for_end(family)


def wait_for_end(processes: list[psutil.Process], patience: float = 10.0) -> None:
    """Until none of them runs; one that nobody waits for stays in the table as a zombie."""
    end = time.monotonic() + patience
    while any(is_running(process) for process in processes):
        assert time.monotonic() < end, f"still running: {[p for p in processes if is_running(p)]}"
        time.sleep(0.05)


def is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@dataclass
class Cluster:
    """A head with token authentication, and nodes that join it. `environment` has the token and finds the head as
    `auto`; `cpus` are those of every node."""

    cpus: int = 1
    variables: Mapping[str, str] = field(default_factory=dict)
    head: subprocess.Popen | None = None
    nodes: list[subprocess.Popen] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Short: a socket's path has at most 107 characters.
        self.root = Path(tempfile.mkdtemp(prefix="aff", dir="/tmp"))
        (self.root / "home").mkdir()
        (self.root / "token").write_text(secrets.token_hex(32))
        self.environment = {
            **clean(os.environ),
            "HOME": str(self.root / "home"),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.root / "token"),
            "RAY_TMPDIR": str(self.root),  # where `auto` looks, so that it finds this head and no other
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": str(PATIENCE),
            **self.variables,
        }

    def start_head(self) -> None:
        self.port, dashboard = free_port(), free_port()
        self.url = f"http://127.0.0.1:{dashboard}"
        ports = [f"--port={self.port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
        self.head = self._ray(["--head", *ports, f"--temp-dir={self.root}/ray", "--num-gpus=0"], "head.log")
        _wait_for(f"{self.url}/api/version", self.head, self.root / "head.log")

    def add_node(self) -> subprocess.Popen:
        """Another node on this machine, under another of its loopback addresses."""
        log = f"node-{len(self.nodes)}.log"
        node = self._ray([f"--address=127.0.0.1:{self.port}", "--node-ip-address=127.0.0.2"], log)
        self.nodes.append(node)
        end = time.monotonic() + PATIENCE
        while "Ray runtime started" not in (self.root / log).read_text():
            if node.poll() is not None or time.monotonic() > end:
                pytest.fail(f"no node after {PATIENCE} s:\n{(self.root / log).read_text()}")
            time.sleep(0.1)
        return node

    def _ray(self, options: list[str], log: str) -> subprocess.Popen:
        ports = [f"--{name}={free_port()}" for name in ("dashboard-agent-grpc-port", "metrics-export-port")]
        ports += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
        with (self.root / log).open("w") as stream:
            return subprocess.Popen(
                [str(BIN / "ray"), "start", *options, *ports, f"--num-cpus={self.cpus}", "--block"],
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def affinity(self, *arguments: object, **changes: str | None) -> subprocess.CompletedProcess:
        """The command line; a changed variable that is None is unset."""
        environment = {k: v for k, v in {**self.environment, **changes}.items() if v is not None}
        command = [sys.executable, "-m", "affinity_service", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    def job(self, *arguments: object, **changes: str | None) -> subprocess.CompletedProcess:
        return self.affinity(*arguments, "--address", self.url, **changes)

    def end(self) -> None:
        for process in [*self.nodes, *([self.head] if self.head else [])]:
            kill_tree(process)
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def cluster(cpus: int = 1, **variables: str) -> Iterator[Cluster]:
    """A cluster of a head alone; nothing of it is left after the block."""
    made = Cluster(cpus, variables)
    try:
        made.start_head()
        yield made
    finally:
        made.end()


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Until the dashboard asks for a token."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
        except urllib.error.HTTPError as answer:
            if answer.code == 401:
                return
        except OSError:
            pass
        time.sleep(0.3)
    pytest.fail(f"no head after {PATIENCE} s:\n{log.read_text()}")
