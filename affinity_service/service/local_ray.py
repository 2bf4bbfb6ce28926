"""A Ray of the service's own on this machine, with ports and a token of its own: others may run beside it."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from affinity_service.artifacts import own_folder
from affinity_service.errors import UserError

# Whoever looks for the cluster of this machine looks elsewhere. Short, as a socket's path has 107 characters at most.
PLACE = Path(tempfile.gettempdir(), f"affinity-ray-{os.getuid()}")
PATIENCE_SECONDS = 180.0
# Ports are free when they are chosen; another process may take one before Ray does.
ATTEMPTS = 3
LEAST_CPUS = 2
RAYLET_PATIENCE = "RAY_raylet_start_wait_time_s"
PORTS = ("port", "ray-client-server-port", "dashboard-agent-grpc-port", "metrics-export-port")
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """Start a head, connect to it, and end it with the block, or with this process however that ends.

    ``ray.init`` would start one as well, but at a fixed port for job agents: beside another Ray it takes no jobs.

    Raises
    ------
    UserError
        It does not start.
    """
    # Ray reads them when it is imported. The token lives in the environment of this process and of what it starts,
    # and nowhere else.
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(PLACE),
        "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0"),
        # Half a minute by default, after which a busy machine has no cluster.
        RAYLET_PATIENCE: os.environ.get(RAYLET_PATIENCE, f"{PATIENCE_SECONDS:.0f}"),
    }
    # Both would send us to another cluster, and the file holds another token.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
        os.environ.pop(name, None)
    # Jobs start `python`: it shall be this one.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    import ray

    from affinity_service.engine.session import ENVIRONMENT, runtime_environment

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _head() as address:
        environment = runtime_environment(os.environ, carry_package=False)
        ray.init(address, logging_level=logging.WARNING, log_to_driver=False, runtime_env=environment)
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _head() -> Iterator[str]:
    own_folder(PLACE)
    with tempfile.NamedTemporaryFile("w+", prefix="affinity-ray-", suffix=".log") as log:
        process, port = _started_head(Path(log.name))
        try:
            yield f"127.0.0.1:{port}"
        finally:
            _end(process)


def _started_head(log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The process and the port of the cluster."""
    options = [f"--temp-dir={PLACE / 'ray'}", f"--num-cpus={max(LEAST_CPUS, os.cpu_count() or 1)}", "--block"]
    options += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
    end = time.monotonic() + PATIENCE_SECONDS
    for _ in range(ATTEMPTS):
        ports = dict(zip((*PORTS, "dashboard-port"), _free_ports(len(PORTS) + 1), strict=True))
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *options]
                + [f"--{name}={port}" for name, port in ports.items()],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the service, which then ends it in order.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        try:
            if _answers(process, (ports["port"], ports["dashboard-port"]), end):
                return process, ports["port"]
        except BaseException:
            _end(process)
            raise
        _end(process)
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise UserError(f"a local Ray does not start: {' '.join(said[-5:])[-1000:] or 'it says nothing'}")


def _end_with_parent() -> None:
    """Runs in the child: a service that is killed must not leave a cluster that holds its port."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _answers(process: subprocess.Popen[bytes], ports: tuple[int, ...], end: float) -> bool:
    """Whether something listens at all ports before the process or the time is over."""
    missing = list(ports)
    while missing and process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", missing[0]), timeout=1).close()
            missing.pop(0)
        except OSError:
            time.sleep(0.2)
    return not missing


def _end(process: subprocess.Popen[bytes]) -> None:
    """The head and whatever it started, and nothing else. Asked to end, it would drain itself for half a minute."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    process.kill()
    process.wait()
    for each in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(started, timeout=10)
