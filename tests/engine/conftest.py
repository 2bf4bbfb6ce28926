"""One real local Ray for the whole session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from affinity_service.config import Config
from affinity_service.engine.session import connected
from affinity_service.tasks import Suite
from tests.suites import small_settings, write_suite


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    with connected():
        yield


@pytest.fixture(scope="session", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checkpoints of the tests end with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., Config]:
    """A config on a suite that runs in seconds; keyword arguments replace sections."""

    def make(suite: Suite, **sections: dict) -> Config:
        path = write_suite(suite, tmp_path / "suite.parquet")
        content = small_settings(suite, path)
        return Config.parse({**content, **{k: {**content.get(k, {}), **v} for k, v in sections.items()}})

    return make
