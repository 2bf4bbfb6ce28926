"""Small configs, and a study that several tests look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from affinity_service import Study
from affinity_service.config import Config
from affinity_service.tasks import Suite
from tests.suites import mixed_suite, small_settings, write_suite


@pytest.fixture(scope="session", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checkpoints of the tests end with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def make_config(suite: Suite, root: Path, **sections: dict) -> Config:
    """A config on a suite that runs in seconds; keyword arguments replace sections."""
    content = small_settings(suite, write_suite(suite, root / "suite.parquet"))
    return Config.parse({**content, **{k: {**content.get(k, {}), **v} for k, v in sections.items()}})


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., Config]:
    def make(suite: Suite, **sections: dict) -> Config:
        return make_config(suite, tmp_path, **sections)

    return make


@pytest.fixture(scope="session")
def estimated(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of mixed kinds up to its matrix; tests that change it work on a copy of its folder."""
    root = tmp_path_factory.mktemp("estimated")
    config = make_config(mixed_suite(rows=300), root, gradients={"workers": 2}, fits={"workers": 2})
    return Study.run(config, root / "study", until="affinity")
