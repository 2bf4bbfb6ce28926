"""The study that faults happen to, and the same one undisturbed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from affinity_service import Study
from affinity_service.config import Config
from tests.suites import mixed_suite, small_settings, write_suite


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose stages consist of many small pieces, so that a kill finds some finished and some not."""
    root = tmp_path_factory.mktemp("faults")
    suite = mixed_suite(rows=900, features=8)
    settings = small_settings(suite, write_suite(suite, root / "suite.parquet"))
    settings["base"] |= {"epochs": 8, "patience": 8, "learning_rate": 0.003}
    # What is measured and scheduled on the way must continue as well.
    settings["measure"], settings["schedule"] = {"always": True, "every": 3}, {"refresh": 3, "tau": 0.0}
    # Nearly a third as many backward passes as rows: slow enough to be caught at work.
    settings["gradients"] |= {"landmarks": 50, "shard_rows": 200, "batch_rows": 3, "workers": 2}
    settings["fits"] |= {"tile": 1, "workers": 2}
    settings["group_models"] |= {"models_per_trial": 4, "workers": 2}
    (root / "config.yaml").write_text(yaml.safe_dump(settings))
    return root


@pytest.fixture(scope="session")
def undisturbed(workspace: Path, ray_session: None) -> Study:
    settings = yaml.safe_load((workspace / "config.yaml").read_text())
    # Nothing is to be caught here, and the number of rows at a time changes no result.
    settings["gradients"]["batch_rows"] = 512
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(workspace / "cache-undisturbed"))
        return Study.run(Config.parse(settings), workspace / "undisturbed", until="affinity")
