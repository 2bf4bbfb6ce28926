"""An app over a folder with one finished study, and jobs that nobody runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from affinity_service.service.app import create_app
from affinity_service.service.settings import ServiceSettings
from tests.served import FakeJobs, write_study


@dataclass
class Served:
    client: TestClient
    jobs: FakeJobs
    root: Path

    def get(self, path: str, status: int = 200, **options: Any) -> Any:
        return self.ask("GET", path, status, **options)

    def post(self, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
        return self.ask("POST", path, status, json={} if body is None else body, **options)

    def ask(self, method: str, path: str, status: int, **options: Any) -> Any:
        answer = self.client.request(method, path, **options)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.headers["content-type"] == "application/json" else answer

    def error(self, method: str, path: str, status: int, **options: Any) -> dict[str, str]:
        """The error of an answer that must be one."""
        return self.ask(method, path, status, **options)["error"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "done"
    write_study(root)
    return root


def start(root: Path, finished: Path, **settings: Any) -> Served:
    if not root.exists():
        shutil.copytree(finished, root / "done")
    jobs = FakeJobs()
    quick = {"poll_seconds": 0.02, "heartbeat_seconds": 0.05, "require_tokens": False}
    app = create_app(ServiceSettings(root=str(root), **{**quick, **settings}), jobs)
    client = TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False)
    client.__enter__()
    return Served(client, jobs, root)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Iterator[Served]:
    """One for all tests whose requests change nothing."""
    served = start(tmp_path_factory.mktemp("shared") / "root", finished, hosts=["lab.example"])
    yield served
    served.client.__exit__(None, None, None)


@pytest.fixture
def serving(tmp_path: Path, finished: Path) -> Iterator[Callable[..., Served]]:
    """Makes a service over a root with the study `done`; keyword arguments are settings."""
    made: list[Served] = []

    def make(**settings: Any) -> Served:
        made.append(start(tmp_path / "root", finished, **settings))
        return made[-1]

    yield make
    for served in made:
        served.client.__exit__(None, None, None)


@pytest.fixture
def served(serving: Callable[..., Served]) -> Served:
    return serving()


# A config that needs no file.
CONFIG = {"data": {"source": "yeast"}}
