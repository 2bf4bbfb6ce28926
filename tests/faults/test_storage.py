"""An object store that answers nothing for a while: the run waits for it and goes on by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from affinity_service import Study
from tests.faults.driving import REPEATS, driving
from tests.faults.object_store import ObjectStore, object_store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]
# The storages' own clients try again for less.
OUTAGE = 8.0


@pytest.fixture(scope="module")
def storage() -> Iterator[tuple[ObjectStore, str]]:
    with object_store() as (store, address), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield store, f"scheme=http&endpoint_override={address}&region=us-east-1"


def upload(undisturbed: Study, store: ObjectStore, prefix: str) -> None:
    """A study as an interrupted run leaves it that had finished the base model."""
    root = Path(undisturbed.folder.root)
    files = [root / name for name in ("config.yaml", "suite.json", "stages/base_model.json")]
    for path in [*files, *(path for path in root.glob("base_model/**/*") if path.is_file())]:
        store.put(f"{prefix}/{path.relative_to(root)}", path.read_bytes())


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_storage_that_fails_for_seconds_is_waited_for(storage, workspace, undisturbed, repeat):
    store, options = storage
    prefix = f"studies/one-{repeat}"
    upload(undisturbed, store, prefix)
    location = f"s3://{prefix}?{options}"

    def pieces(kind: str) -> dict[str, float]:
        """Finished ones and when they were written."""
        return {
            path: written for path, (_, written) in list(store.objects.items()) if path.startswith(f"{prefix}/{kind}")
        }

    def outage() -> None:
        before, store.failing = store.failed, True
        time.sleep(OUTAGE)
        store.failing = False
        assert store.failed > before, "nothing was asked for meanwhile"

    study = workspace / f"storage-{repeat}"
    with driving(workspace, study, "only", environment=os.environ, location=location) as driver:
        driver.wait_until(lambda: len(pieces("gradients/shard-")) >= 2)
        finished = pieces("gradients/shard-")
        outage()
        driver.wait_until(lambda: len(pieces("fits/tile-")) >= 2)
        finished |= pieces("fits/tile-")
        outage()
        driver.finish()
    for path, written in finished.items():
        assert store.objects[path][1] == written, f"{path} was computed again"
    found = Study.open(location)
    np.testing.assert_allclose(found.affinity.affinity, undisturbed.affinity.affinity, rtol=1e-5)
