"""Small but complete study folders, written through the package's own writers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from affinity_service.affinity.calibration import Calibration
from affinity_service.affinity.matrix import AffinityMatrix, matrix_from_estimates
from affinity_service.artifacts import SCHEMA_VERSION, StudyFolder
from affinity_service.config import Config, Provenance
from affinity_service.evaluation.fidelity import compare, row_means
from affinity_service.evaluation.outcomes import GROUPS, plan_runs
from affinity_service.grouping import centre_rows, cluster
from affinity_service.report import write_report
from affinity_service.tables import write_table
from affinity_service.tasks.checks import drop_rare_tasks
from affinity_service.tasks.suite import Suite, Task, seeded_split

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
STAGES = ("base_model", "gradients", "fits", "affinity", "groups", "group_models")


def write_study(
    root: Path,
    names: Sequence[str] = NAMES,
    k: int = 2,
    lead: float = 0.02,
    seeds: int = 4,
    single_tasks: int = 50,
    until: str = "group_models",
) -> StudyFolder:
    """A study of tasks in k blocks that help each other inside and harm each other across.

    `lead` is by how much the true groups beat joint and random training on test loss; tasks alone are 0.01 worse.
    """
    folder, rng = StudyFolder.at(root), np.random.default_rng(0)
    done = STAGES[: STAGES.index(until) + 1] if until in STAGES else ()
    config = Config.parse(
        {
            "name": "synthetic",
            "data": {"source": "parquet", "path": "data/suite.parquet", "minimum_positives": 5},
            "group_models": {"seeds": seeds, "random_groupings": 2, "single_tasks": single_tasks},
            "written_by": Provenance(version="0.1.0", commit="abc123", schema_version=SCHEMA_VERSION).model_dump(),
        }
    )
    folder.write_bytes("config.yaml", config.to_yaml().encode())
    suite = _suite(names, rng)
    folder.write_json("suite.json", suite.summary())
    _write_base_model(folder, rng)
    block = np.arange(len(names)) * k // len(names)
    matrix = _matrix(folder, names, block, rng)
    write_table(folder, "affinity/matrix.parquet", matrix.to_table())
    groups = [[int(i) for i in np.flatnonzero(block == g)] for g in range(k)]
    _write_groups(folder, names, groups, matrix)
    write_table(folder, "group_models/results.parquet", _results(names, groups, block, config, lead, rng))
    made = {"affinity": "affinity/", "groups": "groups.json", "group_models": "group_models/"}
    made["base_model"] = "base_model/"
    for stage in STAGES:
        if stage not in done and stage in made:
            folder.delete(made[stage])
    timings = [
        {"name": s, "seconds": 3.7 * 3**i, "flops": 1e9 * 20.0**i, "peak_bytes": 2**29 + i, "workers": 2}
        for i, s in enumerate(done)
    ]
    for timing in timings:
        folder.complete(timing["name"], "f", [], timing)
    if timings:
        folder.write_json("timings.json", {"stages": timings})
    if "fits" in done:
        _write_fidelity(folder, len(names))
    return folder


def _write_fidelity(folder: StudyFolder, tasks: int) -> None:
    folder.write_json(
        "fits/calibration.json",
        Calibration(6, residual=0.003, base_residual=0.007, task_errors=(0.004,) * tasks).to_json(),
    )
    rng = np.random.default_rng(0)
    true = 0.5 + 0.1 * rng.normal(size=(30, 5))
    base = true.mean(axis=0)
    estimates = {"estimate": [true + 0.05 * rng.normal(size=true.shape)], "row_mean": [row_means(true)]}
    compared = compare(estimates, true, base)
    compared["estimate"]["coverage_90"] = 0.91
    ratios = {"flops_ratio_model": 0.004, "flops_ratio_total": 0.6, "seconds_ratio": 0.9}
    facts = {"subsets": 30, "seeds": 3, "start": "base", "fits": folder.manifest("fits")["identity"]}
    folder.write_json("fidelity.json", {"best_validation": compared, "epoch_2": compared, **facts, **ratios})


def _suite(names: Sequence[str], rng: np.random.Generator) -> Suite:
    examples = 200
    kinds = ("binary", "regression", "multiclass")
    tasks = [
        Task(n, kinds[i % 3 if i % 5 else 0], classes=3 if i % 3 == 2 and i % 5 else 1) for i, n in enumerate(names)
    ]
    labels = np.empty((examples, len(tasks) + 1), np.float32)
    for column, task in enumerate(tasks):
        draws = {"binary": rng.random(examples) < 0.3, "regression": rng.normal(size=examples)}
        labels[:, column] = draws.get(task.kind, rng.integers(0, 3, examples))
    labels[rng.random(labels.shape) < 0.1] = np.nan
    labels[:, -1] = np.arange(examples) < 3
    suite = Suite(
        inputs=rng.normal(size=(examples, 7)).astype(np.float32),
        labels=labels,
        split=seeded_split(examples, 0.2, 0.2, 0),
        tasks=(*tasks, Task("too rare", "binary")),
    )
    return drop_rare_tasks(suite, 5, 5)


def _write_base_model(folder: StudyFolder, rng: np.random.Generator) -> None:
    epochs = [
        {
            "epoch": e,
            "train_loss": 0.4 + 0.3 * np.exp(-e / 3) - 0.004 * e,
            "validation_loss": 0.45 + 0.3 * np.exp(-e / 3) + 0.001 * max(0, e - 9) ** 2,
            "validation_per_task": [0.5],
            "seconds": 0.2,
        }
        for e in range(1, 16)
    ]
    best = min(epochs, key=lambda entry: entry["validation_loss"])
    folder.write_json("base_model/history.json", {"best_epoch": best["epoch"], "epochs": epochs})


def _matrix(folder: StudyFolder, names: Sequence[str], block: np.ndarray, rng: np.random.Generator) -> AffinityMatrix:
    tasks = len(names)
    pairs = list(combinations(range(tasks), 2)) if tasks <= 80 else []
    larger = [tuple(sorted(rng.choice(tasks, size=min(4, tasks), replace=False).tolist())) for _ in range(60)]
    if tasks > 80:  # too many pairs to list for a fast test: fill the matrix directly
        gains = np.where(block[:, None] == block, 0.02, -0.01) + 0.01 * rng.normal(size=(tasks, tasks))
        gains += 0.01 * rng.normal(size=(tasks, 1))
        np.fill_diagonal(gains, 0)
        matrix = gains - rng.uniform(0.3, 0.7, tasks)[:, None]
        return AffinityMatrix(
            tuple(names), matrix, np.full_like(gains, 0.003), np.full(gains.shape, 5, np.int64), matrix
        )
    subsets = [*((t,) for t in range(tasks)), *pairs, *(s for s in larger if len(s) > 2)]
    level = rng.uniform(0.3, 0.7, tasks)
    losses = []
    for subset in subsets:
        same = np.array([sum(block[i] == block[j] for j in subset) - 1 for i in subset])
        other = len(subset) - 1 - same
        noise = 0.004 * rng.normal(size=len(subset)) * (len(subset) > 1)
        losses.append(level[list(subset)] - 0.02 * same + 0.015 * other + noise)
    table = {
        "subset": np.repeat(np.arange(len(subsets)), [len(s) for s in subsets]),
        "predicted_loss": np.concatenate(losses),
    }
    write_table(folder, "affinity/estimates.parquet", pa.table(table))
    return matrix_from_estimates(names, subsets, losses, [np.full(len(s), 0.01) for s in subsets])


def _write_groups(folder: StudyFolder, names: Sequence[str], groups: list[list[int]], matrix: AffinityMatrix) -> None:
    found = cluster(centre_rows(matrix.affinity), len(groups), "agglomerative")
    content = {"method": found.method, "k": len(groups), "objective": found.objective, "bound": found.bound}
    folder.write_json("groups.json", {**content, "groups": [[names[t] for t in group] for group in groups]})


def _results(
    names: Sequence[str],
    groups: list[list[int]],
    block: np.ndarray,
    config: Config,
    lead: float,
    rng: np.random.Generator,
) -> pa.Table:
    rows = []
    for planned in plan_runs(groups, len(names), config.group_models):
        for task in planned.run.tasks:
            loss = 0.5 + 0.01 * (task % 7) + 0.001 * rng.normal()
            if planned.setting == GROUPS:
                loss -= lead
            elif len(planned.run.tasks) == 1:
                loss += 0.01
            rows.append(
                {
                    "setting": planned.setting,
                    "grouping": planned.grouping,
                    "group": planned.group,
                    "tasks": [names[t] for t in planned.run.tasks],
                    "seed": planned.run.seed,
                    "task": names[task],
                    "validation_loss": loss - 0.01,
                    "test_loss": loss,
                    "best_epoch": 5,
                }
            )
    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, str]:
    """The default study, and its page as text."""
    folder = write_study(tmp_path_factory.mktemp("complete"))
    write_report(folder)
    return folder, folder.read_bytes("report/index.html").decode()


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., StudyFolder]:
    """Writes a study and returns its folder; takes the arguments of `write_study`."""

    def write(**wishes: object) -> StudyFolder:
        return write_study(tmp_path / "study", **wishes)  # type: ignore[arg-type]

    return write
