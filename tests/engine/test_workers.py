"""Any valid combination of workers, pieces and reductions ends in a finite matrix, on a real Ray."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affinity_service import Study
from affinity_service.config import Config

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_session")]


# Few examples, each some seconds of starting workers; the same ones each time, so that the suite takes as long.
@given(
    workers=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pieces=st.tuples(st.sampled_from([37, 200, 4096]), st.sampled_from([1, 5, 128])),
    reduction=st.sampled_from(
        [
            ("subspace", "path"),
            ("subspace", "ridge"),
            ("exact", "path"),
            ("rademacher", "ridge"),
            ("factorised", "ridge"),
        ]
    ),
)
@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_workers_pieces_and_reductions(estimated, tmp_path_factory, workers, pieces, reduction):
    target = tmp_path_factory.mktemp("workers") / "study"
    shutil.copytree(estimated.folder.root, target)
    content = estimated.config.model_dump(mode="json")
    content["gradients"] |= {"reduction": reduction[0], "workers": workers[0], "shard_rows": pieces[0]}
    content["fits"] |= {"solution": reduction[1], "workers": workers[1], "tile": pieces[1], "subsets": 4, "probes": 2}
    study = Study.run(Config.parse(content), target, until="affinity")
    assert np.isfinite(study.affinity.affinity).all()
    assert study.affinity.affinity.shape == (len(study.tasks),) * 2
    shards = study.folder.read_json("gradients/layout.json")["shards"]
    assert len(study.folder.list("gradients/shard-", ".arrow")) == shards
