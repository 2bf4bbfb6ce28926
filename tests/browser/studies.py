"""Study folders for the web page, made in seconds without Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.artifacts import SCHEMA_VERSION, StudyFolder
from affinity_service.config import Config, Provenance
from affinity_service.evaluation.fidelity import compare, row_means
from affinity_service.gradients.anchor import write_anchor
from affinity_service.gradients.features import Features
from affinity_service.gradients.store import LAYOUT, write_shard
from affinity_service.grouping import centre_rows, cluster
from affinity_service.models.losses import TaskLosses
from affinity_service.stages import identities_of, stages_of
from affinity_service.tables import write_table
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite, Task, seeded_split
from tests.estimating import estimator_of, features_of, model_of

CAMPS = ("river", "forest", "desert")
LOG_LINE = "INFO gradients: 3/8 gradient shards"


def camps_suite(each: int = 4, rows: int = 360, seed: int = 0) -> Suite:
    """Binary tasks in three camps; the tasks of a camp follow directions of the inputs that lie close together."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, 12)).astype(np.float32)
    axes, _ = np.linalg.qr(rng.normal(size=(12, len(CAMPS))))
    directions = np.repeat(axes, each, axis=1) + 0.15 * rng.normal(size=(12, len(CAMPS) * each))
    labels = (2 * inputs @ directions + rng.logistic(size=(rows, directions.shape[1])) > 0).astype(np.float32)
    labels[rng.random(labels.shape) < 0.7] = np.nan
    names = [f"{camp}_{number}" for camp in CAMPS for number in range(1, each + 1)]
    return Suite(inputs, labels, seeded_split(rows, 0.3, 0.2, seed), tuple(Task(name, "binary") for name in names))


def write_small_study(root: Path, name: str, validated: bool) -> StudyFolder:
    """Twelve tasks whose losses can be predicted: what the stages would have left of a base model trained for a
    moment, by their own writers."""
    suite, config = camps_suite(), _config(name)
    folder = _started(root / name, config, suite.summary())
    model = _trained(model_of(config, suite), suite)
    folder.write_bytes("base_model/model.safetensors", save(dict(model.state_dict())))
    (train, validation), anchor = features_of(config, suite, model)
    write_anchor(folder, anchor, 0.0)
    for shard, (split, rows) in enumerate(((TRAIN, train), (VALIDATION, validation))):
        content = Features(rows.margins, rows.targets, rows.features)
        write_shard(folder, shard, np.full(len(rows.targets), split, np.int8), rows.task_of_row, rows.example, content)
    folder.write_json(LAYOUT, {"dimension": train.features.shape[1], "shards": 2})
    folder.write_json("fits/estimator.json", {"estimator": "linearized"})
    alone = np.concatenate(
        estimator_of(config, suite, model).estimate([(task,) for task in range(len(suite.tasks))]).losses
    )
    matrix = _matrix(suite.names, np.repeat(np.arange(len(CAMPS)), len(suite.tasks) // len(CAMPS)), alone, error=0.002)
    return _finished(folder, config, suite.summary()["content_hash"], matrix, len(CAMPS), validated)


def write_large_study(root: Path, name: str, tasks: int = 500, groups: int = 12) -> StudyFolder:
    """A study of very many tasks that has a matrix and groups, and nothing to predict from."""
    rng = np.random.default_rng(0)
    names = [f"task_{number:03d}" for number in range(tasks)]
    summary = camps_suite().summary()
    summary["tasks"] = [{**summary["tasks"][0], "name": task} for task in names]
    config = _config(name)
    folder = _started(root / name, config, summary)
    camp = rng.permutation(np.arange(tasks) * groups // tasks)
    matrix = _matrix(names, camp, rng.uniform(0.3, 0.7, tasks), error=0.003)
    return _finished(folder, config, summary["content_hash"], matrix, groups, False, camp)


def write_running_study(root: Path, name: str, job: str) -> StudyFolder:
    """One that a job works on, in the middle of its gradients."""
    folder = _started(root / name, _config(name), camps_suite().summary())
    folder.write_json("job.json", {"id": job, "until": "report", "submitted": time.time() - 60})
    _complete(folder, "base_model", "f", 21.4)
    write_progress(folder, 3, 8)
    return folder


def write_progress(folder: StudyFolder, done: int, total: int) -> None:
    entry = {"state": "running", "started": time.time() - 5, "done": done, "total": total, "text": "gradient shards"}
    folder.write_json("progress.json", {"stage": "gradients", "updated": time.time(), "stages": {"gradients": entry}})


def _matrix(names: Sequence[str], camp: NDArray[np.int64], alone: NDArray[np.float64], error: float) -> AffinityMatrix:
    """Tasks of a camp help each other; the others harm a little."""
    rng = np.random.default_rng(0)
    gains = np.where(camp[:, None] == camp, 0.01, -0.002) + error * rng.normal(size=(len(names), len(names)))
    np.fill_diagonal(gains, 0)
    counts = rng.integers(1, 30, gains.shape)
    affinity = gains - alone[:, None]
    return AffinityMatrix(tuple(names), affinity, np.full_like(gains, error), counts, affinity)


def _config(name: str) -> Config:
    return Config.parse(
        {
            "name": name,
            "data": {"source": "yeast"},
            "model": {"hidden": [4]},
            "gradients": {"dimension": 24, "landmarks": 100},
            "fits": {"evaluate": "linearized", "epochs": 4, "probes": 0},
            "affinity": {"estimator": "linearized"},
            "written_by": Provenance(version="0.1.0", commit="abc123", schema_version=SCHEMA_VERSION).model_dump(),
        }
    )


def _started(place: Path, config: Config, summary: dict[str, Any]) -> StudyFolder:
    folder = StudyFolder.at(place)
    folder.write_bytes("config.yaml", config.to_yaml().encode())
    folder.write_json("suite.json", summary)
    return folder


def _trained(model: nn.Module, suite: Suite) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    rows = suite.rows(TRAIN)
    inputs, labels = torch.tensor(suite.inputs[rows]), torch.tensor(suite.labels[rows])
    losses = TaskLosses(suite.tasks)
    for _ in range(15):
        optimizer.zero_grad()
        losses(model(inputs, range(len(suite.tasks))), labels).mean().backward()
        optimizer.step()
    return model


def _finished(
    folder: StudyFolder,
    config: Config,
    suite_hash: str,
    matrix: AffinityMatrix,
    k: int,
    validated: bool,
    camp: NDArray[np.int64] | None = None,
) -> StudyFolder:
    write_table(folder, "affinity/matrix.parquet", matrix.to_table())
    if camp is None:
        found = cluster(centre_rows(matrix.affinity), k)
        groups: Sequence[Sequence[int]] = found.groups
        facts = {"method": found.method, "objective": found.objective, "bound": found.bound}
    else:
        groups = [np.flatnonzero(camp == group).tolist() for group in range(k)]
        facts = {"method": "random", "objective": 0.05, "bound": None}
    names = matrix.names
    folder.write_json("groups.json", {**facts, "k": k, "groups": [[names[t] for t in group] for group in groups]})
    folder.write_bytes("group_models/models/group_0.safetensors", save({"weight": torch.zeros(4)}))
    folder.write_bytes("report/index.html", b"<!doctype html><title>Report</title><h1>The report</h1>")
    if validated:
        _write_fidelity(folder)
    identities = {"suite": suite_hash}
    for number, stage in enumerate(stage for stage in stages_of(config) if not stage.optional):
        _complete(folder, stage.name, stage.fingerprint(config, identities), 1.7 * 2**number)
        identities |= identities_of(stage, folder)
    return folder


def _complete(folder: StudyFolder, stage: str, wanted: str, seconds: float) -> None:
    timing = {"name": stage, "seconds": seconds, "flops": 1e9, "peak_bytes": 2**29, "workers": 2}
    folder.complete(stage, wanted, [], timing)


def _write_fidelity(folder: StudyFolder) -> None:
    rng = np.random.default_rng(0)
    true = 0.5 + 0.1 * rng.normal(size=(30, 5))
    near, far = (true + scale * rng.normal(size=true.shape) for scale in (0.05, 0.3))
    estimates = {
        "estimate": [near],
        "published_recipe": [far],
        "first_order": [far[::-1]],
        "row_mean": [row_means(true)],
    }
    compared = compare(estimates, true, true.mean(axis=0))
    compared["ceiling"] = {**compared["estimate"], "centred_r": 0.81, "centred_r_interval": [0.7225, 0.9025]}
    folder.write_json(
        "fidelity.json", {"best_validation": compared, "epoch_2": compared, "subsets": 30, "seeds": 3, "start": "base"}
    )
