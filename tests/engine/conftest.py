"""One real local Ray for the whole session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from affinity_service.config import Config
from affinity_service.engine.session import connected
from affinity_service.tasks import SPLITS, Suite


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


def write_suite(suite: Suite, path: Path) -> str:
    """A suite as a Parquet file in the project's own form."""
    names = {"multiclass": pa.int64()}
    columns = {
        "features": pa.FixedSizeListArray.from_arrays(pa.array(suite.inputs.ravel()), suite.inputs.shape[1]),
        "part": [SPLITS[code] for code in suite.split],
    }
    for index, task in enumerate(suite.tasks):
        values = pa.array(suite.labels[:, index], from_pandas=True)
        columns[task.name] = values.cast(names.get(task.kind, pa.float32()))
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., Config]:
    """A config on a suite that runs in seconds; keyword arguments replace sections."""

    def make(suite: Suite, **sections: dict) -> Config:
        path = write_suite(suite, tmp_path / "suite.parquet")
        content = {
            "name": "small",
            "data": {
                "source": "parquet",
                "path": path,
                "split_column": "part",
                "tasks": {task.name: task.kind for task in suite.tasks},
            },
            "model": {"hidden": [16]},
            "base": {"epochs": 4, "batch_size": 32, "learning_rate": 0.01},
            "gradients": {"dimension": 24, "shard_rows": 200},
            "fits": {"subsets": 8, "sizes": [3, 4], "tile": 6},
            "groups": {"k": 2},
            "group_models": {"seeds": 2, "random_groupings": 1},
        }
        return Config.parse({**content, **{k: {**content.get(k, {}), **v} for k, v in sections.items()}})

    return make
