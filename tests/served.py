"""Finished studies made without training, and jobs that nobody runs, for tests of the service."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.artifacts import SCHEMA_VERSION, StudyFolder
from affinity_service.config import Config, Provenance
from affinity_service.gradients.anchor import write_anchor
from affinity_service.gradients.features import Features
from affinity_service.gradients.store import LAYOUT, write_shard
from affinity_service.grouping import centre_rows, cluster
from affinity_service.service.jobs import FAILED, PENDING, RUNNING, STOPPED, SUCCEEDED, JobInfo, LogTail
from affinity_service.stages import stages_of
from affinity_service.tables import write_table
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite, Task, seeded_split


def told(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    """What `affinity serve --json` prints once it answers; its errors go to the log.

    Raises
    ------
    RuntimeError
        It ended before.
    """
    assert process.stdout is not None
    lines: list[str] = []
    while not (lines and lines[-1] == "}\n"):
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the service ended:\n{''.join(lines)}{log.read_text()[-4000:]}")
        lines.append(line)
    return json.loads("".join(lines))


def write_study(
    root: Path | str,
    tasks: int = 5,
    rows: int = 40,
    dimension: int = 6,
    weights: int = 12,
    until: str = "report",
    **fits: Any,
) -> StudyFolder:
    """A study of binary tasks whose features are random, complete up to a stage; `rows` are a task's training examples
    and its validation examples. `fits` go into that section."""
    folder, rng = StudyFolder.at(root), np.random.default_rng(0)
    config = Config.parse(
        {
            "name": folder.root.rsplit("/", 1)[-1],
            "data": {"source": "yeast"},
            "fits": {"solution": "ridge", "l2": 1e-2, "evaluate": "linearized", "probes": 0, **fits},
            "written_by": Provenance(version="0.1.0", commit="abc123", schema_version=SCHEMA_VERSION).model_dump(),
        }
    )
    names = [f"task_{index}" for index in range(tasks)]
    suite = _suite(names, rng)
    folder.write_bytes("config.yaml", config.to_yaml().encode())
    folder.write_json("suite.json", suite.summary())
    model = {"body.weight": torch.zeros(3, 4)}
    folder.write_bytes("base_model/model.safetensors", save(model))
    folder.write_json("base_model/history.json", {"best_epoch": 1, "epochs": []})
    _write_features(folder, tasks, rows, dimension, weights, rng)
    matrix = _matrix(names, rng)
    write_table(folder, "affinity/matrix.parquet", matrix.to_table())
    found = cluster(centre_rows(matrix.affinity), min(2, tasks), "agglomerative")
    groups = [[names[task] for task in group] for group in found.groups]
    content = {"method": "sdp", "k": len(groups), "groups": groups, "objective": found.objective, "bound": None}
    folder.write_json("groups.json", content)
    folder.write_bytes("group_models/group-0.safetensors", save(model))
    folder.write_bytes("report/index.html", b"<!doctype html><title>report</title><p>task_0")
    _complete(folder, config, suite, until)
    return folder


def _suite(names: list[str], rng: np.random.Generator) -> Suite:
    examples = 60
    inputs = rng.normal(size=(examples, 3)).astype(np.float32)
    labels = rng.integers(0, 2, (examples, len(names))).astype(np.float32)
    return Suite(inputs, labels, seeded_split(examples, 0.2, 0.2, 0), tuple(Task(name, "binary") for name in names))


def _write_features(
    folder: StudyFolder, tasks: int, rows: int, dimension: int, weights: int, rng: np.random.Generator
) -> None:
    count = 2 * tasks * rows
    features = (rng.normal(size=(count, dimension)) / dimension**0.5).astype(np.float32)
    targets = (features[:, 0] + 0.3 * rng.normal(size=count) > 0).astype(np.float32)
    content = Features(np.zeros(count), targets, features)
    split = np.repeat(np.array([TRAIN, VALIDATION], np.int8), tasks * rows)
    task = np.tile(np.repeat(np.arange(tasks, dtype=np.int32), rows), 2)
    write_shard(folder, 0, split, task, np.arange(count), content)
    folder.write_json(LAYOUT, {"rows": count, "dimension": dimension, "shards": 1})
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(weights, dimension, generator=generator))
    anchor = {
        "weights": torch.zeros(weights),
        "scale": torch.ones(weights),
        "basis": basis.contiguous(),
        "mean": 1e-2 * torch.randn(tasks, weights, generator=generator),
        "square": torch.full((tasks, weights), 1e-3),
    }
    write_anchor(folder, anchor, 0.0)


def _matrix(names: list[str], rng: np.random.Generator) -> AffinityMatrix:
    shape = (len(names), len(names))
    affinity = -0.5 + 0.01 * rng.normal(size=shape)
    return AffinityMatrix(tuple(names), affinity, np.full(shape, 0.003), np.full(shape, 4), affinity - 0.001)


def _complete(folder: StudyFolder, config: Config, suite: Suite, until: str) -> None:
    identities = {"suite": suite.content_hash}
    for stage in stages_of(config):
        if stage.optional:
            continue
        timing = {"name": stage.name, "seconds": 1.5, "flops": 1e6, "peak_bytes": 1 << 20, "workers": 1}
        folder.complete(stage.name, stage.fingerprint(config, identities), stage.outputs, timing)
        manifest = folder.manifest(stage.name)
        assert manifest is not None
        identities |= {stage.name: manifest["identity"], f"{stage.name}.fingerprint": manifest["fingerprint"]}
        if stage.name == until:
            return


class FakeJobs:
    """Takes jobs and runs none of them; a test says how they go."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobInfo] = {}
        self.submitted: list[tuple[str, Config, str, str]] = []
        self.failure: Exception | None = None
        # What every job has printed, where a test says so; how much of logs was asked for.
        self.log: str | None = None
        self.asked: list[int] = []

    def submit(self, job: str, config: Config, study: str, until: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.submitted.append((job, config, study, until))
        self.jobs[job] = JobInfo(job, PENDING, started=time.time())

    def state(self, job: str) -> JobInfo | None:
        if self.failure is not None:
            raise self.failure
        return self.jobs.get(job)

    def cancel(self, job: str) -> JobInfo | None:
        if job in self.jobs and not self.jobs[job].over:
            self.jobs[job] = JobInfo(job, STOPPED, ended=time.time())
        return self.jobs.get(job)

    def log_tail(self, job: str, most: int) -> LogTail | None:
        if job not in self.jobs:
            return None
        self.asked.append(most)
        content = (self.log or f"log of {job}\n").encode()
        return LogTail(content[-most:], len(content) > most)

    def run(self, job: str) -> None:
        self.jobs[job] = JobInfo(job, RUNNING, started=time.time())

    def end(self, job: str, message: str | None = None) -> None:
        status = SUCCEEDED if message is None else FAILED
        self.jobs[job] = JobInfo(job, status, message or "", ended=time.time())
