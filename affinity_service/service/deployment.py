"""The service on Ray Serve. `affinity_service.service.deployment:build` is the builder for a Serve config, such as that
of a KubeRay RayService; its arguments are the fields of ``ServiceSettings``."""

from __future__ import annotations

import logging
import os
from typing import Any

from ray import serve
from ray.serve import Application

from affinity_service.artifacts import StudyFolder
from affinity_service.service.settings import ServiceSettings
from affinity_service.version import CARRIED, provenance

NAME = "affinity"
# Streams of events stay open for as long as a study runs, and count.
MOST_ONGOING = 400
GRACE_SECONDS = 10.0


def build(settings: ServiceSettings) -> Application:
    """The application. Replicas ask for no CPU of their own: they mostly wait, and must not keep studies from theirs.

    A service that others can reach is started through a config with `http_options`; it needs tokens unless
    `require_tokens` is false.
    """

    def app() -> Any:
        from affinity_service.service.app import create_app
        from affinity_service.service.jobs import RayJobs

        # Names on the hub are looked up in its cache, never fetched while somebody waits.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        # What went wrong is looked for where Serve writes its lines.
        for handler in logging.getLogger("ray.serve").handlers:
            logging.getLogger("affinity_service").addHandler(handler)
        return create_app(settings, RayJobs(settings.dashboard, settings.installed))

    @serve.deployment(
        name="AffinityService",
        num_replicas=settings.replicas,
        max_ongoing_requests=MOST_ONGOING,
        health_check_period_s=5.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=GRACE_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": environment()}},
    )
    @serve.ingress(app)
    class AffinityService:
        def __init__(self) -> None:
            self.root = StudyFolder.at(settings.root)

        def check_health(self) -> None:
            """A root that cannot be looked at is a replica that answers nothing."""
            self.root.filesystem.get_file_info("")

    return AffinityService.bind()  # type: ignore[attr-defined]


def environment() -> dict[str, str]:
    """Of the replicas: which code they are, and how the cluster lets them in."""
    variables = {CARRIED: provenance().model_dump_json()}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        if name in os.environ:
            variables[name] = os.environ[name]
    return variables
