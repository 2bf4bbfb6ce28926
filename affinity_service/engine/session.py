"""Connecting to Ray, and what every stage needs to know of the cluster."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import ray

from affinity_service.artifacts import StudyFolder, fingerprint
from affinity_service.config import ResourceConfig

# Read by Ray processes at their start. The health poll is what each report of Ray Train waits for (2 s by default);
# passive waiting matters where several processes share cores.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "OMP_WAIT_POLICY": "passive",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """A Ray connection for the block: the one there is, the cluster at ``address``, or a local Ray of our own."""
    if ray.is_initialized():
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It warns on every start that token authentication is on, which is as it should be.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    ray.init(
        address=address or "local",
        logging_level=logging.WARNING,
        log_to_driver=False,
        runtime_env={"env_vars": {name: os.environ[name] for name in ENVIRONMENT}},
    )
    try:
        yield
    finally:
        ray.shutdown()


def gpus_per_worker(resources: ResourceConfig) -> float:
    """GPUs to ask for: what the config says, or one each where the cluster has any."""
    if resources.gpus != "auto":
        return resources.gpus
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


def actor_options(resources: ResourceConfig) -> dict[str, float]:
    return {"num_cpus": resources.cpus, "num_gpus": gpus_per_worker(resources)}


def scratch(folder: StudyFolder, resources: ResourceConfig) -> str:
    """Where Ray and DeepSpeed keep checkpoints of this study: outside it, for they hold pickles."""
    if resources.scratch:
        return f"{resources.scratch.rstrip('/')}/{fingerprint(folder.root)[:12]}"
    base = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return str(base / "affinity_service" / fingerprint(folder.root)[:12])
