"""Connecting to Ray, and what every stage needs to know of the cluster."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import posixpath
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import ray

import affinity_service
from affinity_service.artifacts import StudyFolder
from affinity_service.config import ResourceConfig
from affinity_service.errors import UserError
from affinity_service.logs import FORMAT, stamp, wants_json
from affinity_service.retrying import PATIENCE

OOM_RETRIES = "RAY_task_oom_retries"
# Read by Ray processes at their start. The health poll is what each report of Ray Train waits for (2 s by default);
# passive waiting matters where several processes share cores; a process that asked for no GPU must not see one; Serve
# kills a proxy that takes five seconds to start, which on a busy machine it does; a task that its node has no memory
# for would be tried for ever.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "OMP_WAIT_POLICY": "passive",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    OOM_RETRIES: "5",
}
# Of the driver's own, where it has them.
PASSED_ON = (PATIENCE, FORMAT)
PACKAGE = Path(affinity_service.__file__).parent
# Ready configs train on two workers; on a machine with one core the two share it.
LOCAL_CPUS = 2
# What Ray hands the driver of a submitted job: the runtime environment that was submitted with it.
JOB_ENVIRONMENT = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """A Ray connection for the block: the one there is, the cluster at ``address``, or a local Ray of our own.

    Raises
    ------
    UserError
        No cluster answers at the address, or it does not accept the token.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It warns on every start that token authentication is on, which is as it should be.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    with _own_log():
        _join(address) if address else _start()
    if wants_json():
        stamp(job_id=ray.get_runtime_context().get_job_id())
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_log() -> Iterator[None]:
    """With a logging config, ray.init gives the driver a second handler and opens its log to every library."""
    root, own = logging.getLogger(), logging.getLogger("ray")
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        if wants_json():
            root.handlers[:] = handlers
            root.setLevel(level)
            own.setLevel(logging.WARNING)


def _options(environment: dict[str, Any]) -> dict[str, Any]:
    options = {"logging_level": logging.WARNING, "log_to_driver": False, "runtime_env": environment}
    if wants_json():
        options["logging_config"] = ray.LoggingConfig(encoding="JSON", additional_log_standard_attrs=["name"])
    return options


def _start() -> None:
    environment = runtime_environment(os.environ, carry_package=False)
    for cpus in (None, LOCAL_CPUS):
        # Of its own process Ray has read the environment when it was imported.
        own = {"task_oom_retries": int(os.environ.get(OOM_RETRIES, ENVIRONMENT[OOM_RETRIES]))}
        ray.init("local", num_cpus=cpus, _system_config=own, **_options(environment))
        if ray.cluster_resources().get("CPU", 0) >= LOCAL_CPUS:
            return
        ray.shutdown()


def _join(address: str) -> None:
    check_address(address)
    environment = runtime_environment(os.environ, carry_package=True)
    try:
        ray.init(address, **_options(environment))
    except ConnectionError as error:
        if "Could not find" in str(error):
            raise UserError(
                f"--address {address}: no Ray cluster runs on this machine; start one with `ray start --head`, leave "
                "--address out for a local Ray, or name a cluster as HOST:PORT"
            ) from error
        raise UserError(
            f"--address {address}: {error}; a cluster with token authentication needs RAY_AUTH_MODE=token and its "
            "token in ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"
        ) from error


def check_address(address: str) -> None:
    """Ray itself would answer only after two minutes, and by ending the process.

    Raises
    ------
    UserError
        It is no address of a cluster, or nothing listens there.
    """
    if address == "auto":
        return
    if "://" in address:
        raise UserError(
            f"--address {address}: expected `auto` or HOST:PORT of the cluster (port 6379 by default); for a "
            "cluster's http:// address use `affinity submit`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"--address {address}: expected `auto` or HOST:PORT, such as 10.0.0.5:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"--address {address}: no Ray cluster answers there: {error}") from error


def runtime_environment(process: Mapping[str, str], carry_package: bool) -> dict[str, Any]:
    """What the workers of a driver with the environment variables `process` are started with.

    Inside a submitted job only what the job has not set: Ray refuses a variable or module named twice.
    """
    job = json.loads(process.get(JOB_ENVIRONMENT, "{}"))
    given = (job.get("runtime_env") or {}).get("env_vars") or {}
    wanted = {**ENVIRONMENT, **passed_on(process)}
    variables = {name: process.get(name, value) for name, value in wanted.items() if name not in given}
    environment: dict[str, Any] = {"env_vars": variables}
    if carry_package and not job:
        # The workers run the code of this driver, whatever else is installed there.
        environment["py_modules"] = [str(PACKAGE)]
    return environment


def passed_on(process: Mapping[str, str]) -> dict[str, str]:
    """The variables of this package that processes elsewhere are to have as well."""
    return {name: process[name] for name in PASSED_ON if name in process}


def gpus_per_worker(resources: ResourceConfig) -> float:
    """GPUs to ask for: what the config says, or one each where the cluster has any."""
    if resources.gpus != "auto":
        return resources.gpus
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


def actor_options(resources: ResourceConfig) -> dict[str, float]:
    return {"num_cpus": resources.cpus, "num_gpus": gpus_per_worker(resources)}


def beside(folder: StudyFolder, name: str) -> str:
    """A place in the folder that holds the study's folder."""
    if folder.is_local:
        return str(Path(folder.root).parent / name)
    # Only the path of the URI: options such as an endpoint follow it.
    parts = urlsplit(folder.root)
    path = posixpath.join(posixpath.dirname(parts.path.rstrip("/")), name)
    return urlunsplit(parts._replace(path=path if path.startswith("/") else f"/{path}"))
