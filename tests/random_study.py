"""Studies whose feature store holds random numbers: as large as one likes, without a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save as save_safetensors

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.gradients.anchor import write_anchor
from affinity_service.gradients.features import Features
from affinity_service.gradients.store import LAYOUT, pair_rows, write_shard
from affinity_service.models import build_model
from affinity_service.stages import identities_of, stages_of
from affinity_service.tasks import load_suite

SHARD_ROWS = 4096


def random_study(place: Path, tasks: int, rows: int, dimension: int, **fits: object) -> tuple[Config, StudyFolder]:
    """A config of binary tasks, and a study in which the stages before the fits are done: the feature store has
    about `rows` rows of one dimension, all numbers random."""
    rng = np.random.default_rng(0)
    examples = max(10, rows // tasks)
    # Nothing is held out for a test: every label is a row of the store.
    part = np.where(np.arange(examples) % 5 == 0, "validation", "train")
    part[-1] = "test"
    columns = {f"input_{i}": rng.normal(size=examples).astype(np.float32) for i in range(4)}
    names = [f"task_{index:03d}" for index in range(tasks)]
    labels = {name: rng.permutation(np.arange(examples) % 2).astype(np.float32) for name in names}
    pq.write_table(pa.table({**columns, **labels, "part": part}), place / "suite.parquet")
    config = Config.parse(
        {
            "name": "random",
            "data": {
                "source": "parquet",
                "path": str(place / "suite.parquet"),
                "split_column": "part",
                "features": list(columns),
                "tasks": dict.fromkeys(names, "binary"),
            },
            "model": {"hidden": [8]},
            "gradients": {"reduction": "rademacher", "dimension": dimension, "shard_rows": SHARD_ROWS},
            "fits": {"probes": 0, "solution": "ridge", "l2": 0.1, **fits},
        }
    )
    folder = StudyFolder.at(place / "study")
    suite = load_suite(config.data)
    split, task, example = pair_rows(suite)
    shards = -(-len(split) // SHARD_ROWS)
    for index in range(shards):
        chosen = slice(index * SHARD_ROWS, (index + 1) * SHARD_ROWS)
        targets = suite.labels[example[chosen], task[chosen]]
        features = rng.standard_normal((len(targets), dimension), dtype=np.float32) / 8
        content = Features(rng.normal(size=len(targets)), targets, features)
        write_shard(folder, index, split[chosen], task[chosen], example[chosen], content, {"flops": 0.0})
    folder.write_json(LAYOUT, {"rows": len(split), "dimension": dimension, "shards": shards})
    weights = build_model(config.model, suite.inputs.shape[1:], suite.tasks, 0).state_dict()
    folder.write_bytes("base_model/model.safetensors", save_safetensors(weights))
    count = sum(tensor.numel() for tensor in weights.values())
    tables = {name: torch.rand(tasks, count) for name in ("mean", "validation_mean", "square")}
    write_anchor(folder, {"weights": torch.zeros(count), "scale": torch.ones(count), **tables}, 0.0)
    identities = {"suite": suite.content_hash}
    for stage in stages_of(config)[:2]:
        timing = {"name": stage.name, "seconds": 0.0, "flops": 0.0, "peak_bytes": 0, "workers": 1}
        folder.complete(stage.name, stage.fingerprint(config, identities), stage.outputs, timing)
        identities |= identities_of(stage, folder)
    return config, folder
