"""The whole way with sampled neighbourhoods, with a real Ray and a real DeepSpeed."""

from __future__ import annotations

import numpy as np
import pytest

from affinity_service import Study
from affinity_service.config import Config
from affinity_service.tables import read_table
from affinity_service.tasks.prepared import read_suite

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_session")]


def test_sampled_neighbours_go_the_whole_way_to_affinities(tmp_path):
    config = Config.parse(
        {
            "name": "sage",
            "data": {
                "source": "generated_graph",
                "nodes": 600,
                "edges": 3000,
                "communities": 6,
                "community_sizes": [60, 90],
                "themes": 2,
                "largest": 4,
                "most_positives": 60,
                "block_rows": 350,
                "neighbours": {"fanouts": [4, 3]},
                "features": {"dimension": 8, "iterations": 1},
            },
            "model": {"kind": "sage", "hidden": [12, 8]},
            "base": {"epochs": 3, "batch_size": 32, "learning_rate": 0.01},
            "gradients": {"dimension": 24, "shard_rows": 200},
            "fits": {"subsets": 6, "sizes": [3, 4], "tile": 12, "probes": 2},
        }
    )
    study = Study.run(config, tmp_path / "study", until="affinity")
    suite = read_suite(study.folder)
    assert suite.inputs.shape[1:] == (5, 4, 8)
    assert np.abs(suite.inputs).max() < 20
    assert np.isfinite(study.affinity.affinity).all()
    found = study.predict(list(suite.names[:3]))
    assert np.isfinite(found.predicted_loss).all()
    design = read_table(study.folder, "affinity/estimates.parquet").to_pandas()
    assert len(design)
    assert np.isfinite(design.predicted_loss).all()
    timings = study.folder.read_json("timings.json")["stages"]
    assert all(stage["flops"] > 0 and stage["peak_bytes"] > 0 for stage in timings)
