"""What an operator decides about the service; plain values, so that they can travel to the replicas."""

from __future__ import annotations

import ipaddress

from pydantic import BaseModel, ConfigDict, Field

MIB = 1 << 20


class ServiceSettings(BaseModel):
    """The arguments of the service, also those of ``affinity_service.service.deployment:build`` in a Serve config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str = Field(min_length=1, description="folder or URI that holds the studies, a sub-folder each")
    tokens: str | None = Field(None, description="file of the tokens; ROOT/.service/tokens.json when absent")
    require_tokens: bool = Field(True, description="refuse whoever has no token, even where none was made yet")
    hosts: list[str] = Field([], description="names under which the service may be reached; * for any")
    data_roots: list[str] = Field([], description="folders or URIs that configs may name files in")
    models: list[str] = Field([], description="hub names and package:NAME/FILE that configs may name as models")
    allow_python: bool = Field(False, description="configs may name functions, which run as the cluster's user")
    dashboard: str | None = Field(None, description="URL of the cluster's dashboard; found by itself when absent")
    installed: bool = Field(False, description="the cluster has this package; jobs carry no copy")
    can_submit: bool = Field(True, description="whether studies can be started and stopped")
    replicas: int = Field(1, ge=1, le=64)
    open_studies: int = Field(8, ge=1, description="studies that a replica keeps in memory")
    most_bytes: int = Field(MIB, ge=1024, description="of a request's body")
    most_config_bytes: int = Field(MIB // 8, ge=1024, description="of a config as YAML text")
    workers: int = Field(4, ge=1, description="requests at work at a time, per replica")
    queue: int = Field(64, ge=0, description="requests that wait; more are answered 503")
    slow_workers: int = Field(2, ge=1, description="groupings at work at a time, per replica")
    slow_queue: int = Field(4, ge=0)
    answer_seconds: float = Field(60.0, gt=0, description="of work on one answer; then it is given up, with 503")
    most_grouped: int = Field(500, ge=1, description="tasks of a study that is grouped for a request; else 422")
    most_links: int = Field(100_000, ge=0, description="pairs of tasks kept together, and kept apart times groups")
    job_workers: int = Field(2, ge=1, description="studies that are started or stopped at a time, per replica")
    job_queue: int = Field(8, ge=0)
    most_downloads: int = Field(8, ge=1, description="models and reports on their way at a time, per replica")
    most_streams: int = Field(100, ge=1, description="event streams at a time, per replica")
    poll_seconds: float = Field(1.0, gt=0, description="how often a stream looks at its study")
    heartbeat_seconds: float = Field(15.0, gt=0)


LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
