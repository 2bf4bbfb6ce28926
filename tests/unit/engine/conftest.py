"""A cluster that is told, not started."""

from __future__ import annotations

import pytest

from affinity_service.engine import placement, session


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of these nodes."""

    def of(*nodes: dict[str, float]) -> None:
        total = {key: sum(node.get(key, 0) for node in nodes) for key in ("CPU", "GPU")}
        monkeypatch.setattr(placement.ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
        monkeypatch.setattr(session.ray, "cluster_resources", lambda: total)

    return of
