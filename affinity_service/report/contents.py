"""What of a study is there to report."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.config_models import PretrainedConfig
from affinity_service.config_text_suites import LanguageSource
from affinity_service.errors import UserError
from affinity_service.evaluation.outcomes import GROUPS
from affinity_service.stages import estimates_identity
from affinity_service.tables import read_table, safetensors_header
from affinity_service.tasks.units import loss_unit

# What one step takes from a loss is shown in millionths of it.
MILLION = 1e6
TEXTS = "suite/texts.parquet"
RESULT_COLUMNS = ["setting", "grouping", "group", "seed", "task", "validation_loss", "test_loss"]


@dataclass(frozen=True)
class Contents:
    """The artifacts of a study, None or empty where their stage is not done.

    Attributes
    ----------
    suite : `suite.json`. history : `base_model/history.json`. grouping : `groups.json`.
    subsets : how many subsets were estimated.
    results : one row per trained model and task, only while they belong to the present groups.
    superseded : trained group models exist, but of an earlier grouping.
    trained : every subset was truly fine-tuned, instead of estimated.
    calibration : what the fits' probes said; None without probes.
    fidelity : `fidelity.json`, only while it is of the present estimates.
    measurements, schedule : what the base model's training measured, and which tasks took turns in it.
    weights : of a pretrained model, shapes of what trains by name.
    samples : of texts, a question and its answer per task.
    unfinished : stages that have begun and not ended: what comes after them may belong to an earlier run.
    """

    config: Config
    config_text: str
    suite: dict[str, Any] | None
    history: dict[str, Any] | None
    matrix: AffinityMatrix | None
    subsets: int
    grouping: dict[str, Any] | None
    results: pd.DataFrame | None
    superseded: bool
    timings: list[dict[str, Any]]
    unfinished: list[str]
    trained: bool = False
    calibration: dict[str, Any] | None = None
    fidelity: dict[str, Any] | None = None
    measurements: pa.Table | None = None
    schedule: pa.Table | None = None
    weights: dict[str, list[int]] | None = None
    samples: dict[str, tuple[str, str]] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """Tasks in the order of the suite."""
        if self.suite is not None:
            return [task["name"] for task in self.suite["tasks"]]
        return list(self.matrix.names) if self.matrix is not None else []

    @cached_property
    def groups(self) -> list[list[str]]:
        return [] if self.grouping is None else self.grouping["groups"]

    @cached_property
    def ordered(self) -> list[list[str]]:
        """Every task once, group by group; tasks in no group come last."""
        seen: set[str] = set()
        parts = []
        for group in [*self.groups, self.names]:
            parts.append([name for name in group if name not in seen])
            seen.update(group)
        return [part for part in parts if part]

    @cached_property
    def group_of(self) -> dict[str, int]:
        """The first group, counted from 1, that holds the task."""
        found: dict[str, int] = {}
        for index, group in enumerate(self.groups, 1):
            for name in group:
                found.setdefault(name, index)
        return found

    @property
    def measure(self) -> str | None:
        """The measure that the matrix is of, where it was taken while the base model trained."""
        return self.config.affinity.estimator if self.config.measured else None

    @cached_property
    def estimate_unit(self) -> str:
        """The unit of the matrix's entries."""
        if self.measure is None:
            return f"{self.unit} of validation loss"
        return "cosine" if self.measure == "cosine" else "ppm of the loss per step"

    @cached_property
    def unit(self) -> str:
        return loss_unit(task["kind"] for task in (self.suite or {"tasks": []})["tasks"])


def read_contents(folder: StudyFolder) -> Contents:
    """Raises UserError where there is no study or one of its files is broken."""
    if not folder.exists("config.yaml"):
        raise UserError(f"{folder.root}: no study there (config.yaml is missing); `affinity run CONFIG` makes one")
    text = folder.read_bytes("config.yaml").decode()
    suite = _json(folder, "suite.json")
    grouping = _json(folder, "groups.json")
    results = _results(folder)
    superseded = results is not None and grouping is not None and not _belongs(results, grouping["groups"])
    config = Config.from_yaml(text, f"study {folder.root}")
    matrix, scale = (
        _matrix(folder, suite),
        MILLION if config.measured and config.affinity.estimator != "cosine" else 1.0,
    )
    if matrix is not None and scale != 1:
        matrix = matrix.scaled(scale)
    if grouping is not None and scale != 1:
        grouping = {
            **grouping,
            **{key: scale * grouping[key] for key in ("objective", "bound") if grouping[key] is not None},
        }
    return Contents(
        config=config,
        config_text=text,
        suite=suite,
        history=_json(folder, "base_model/history.json"),
        matrix=matrix,
        subsets=0 if config.measured else _subsets(folder),
        grouping=grouping,
        results=None if superseded or grouping is None else results,
        superseded=superseded,
        # Its own cost is known only after the report is written, so it would differ from one writing to the next.
        timings=[s for s in (_json(folder, "timings.json") or {"stages": []})["stages"] if s["name"] != "report"],
        unfinished=[
            stage
            for name in folder.list("stages/", ".part.json")
            if (stage := name.removeprefix("stages/").removesuffix(".part.json")) != "report"
        ],
        trained=_estimator(folder, config) == "trained",
        calibration=None if config.measured else _json(folder, "fits/calibration.json"),
        fidelity=_fidelity(folder, config),
        measurements=_training_table(folder, "measurements") if config.measuring is not None else None,
        schedule=_training_table(folder, "schedule") if config.schedule is not None else None,
        weights=_weights(folder) if isinstance(config.model, PretrainedConfig) else None,
        samples=_samples(folder) if isinstance(config.data, LanguageSource) else {},
    )


def _estimator(folder: StudyFolder, config: Config) -> str:
    """The one named in the config, or that `auto` chose."""
    chosen = _json(folder, "fits/estimator.json") if config.affinity.estimator == "auto" else None
    return chosen["estimator"] if chosen else config.affinity.estimator


def _fidelity(folder: StudyFolder, config: Config) -> dict[str, Any] | None:
    found = _json(folder, "fidelity.json")
    return found if found is not None and found["fits"] == estimates_identity(config, folder) else None


def _training_table(folder: StudyFolder, name: str) -> pa.Table | None:
    """One that the base model's training left; None where it took no rows."""
    path = f"base_model/{name}.parquet"
    table = read_table(folder, path) if folder.exists(path) else None
    return table if table is not None and len(table) else None


def _json(folder: StudyFolder, name: str) -> Any:
    return folder.read_json(name) if folder.exists(name) else None


def _matrix(folder: StudyFolder, suite: dict[str, Any] | None) -> AffinityMatrix | None:
    if not folder.exists("affinity/matrix.parquet"):
        return None
    table = read_table(folder, "affinity/matrix.parquet")
    names = table["source"].to_pylist()[: round(np.sqrt(len(table)))]
    if suite is not None and names != [task["name"] for task in suite["tasks"]]:
        return None  # of other data: the stages that follow the present suite have not run yet
    return AffinityMatrix.from_table(table, names)


def _subsets(folder: StudyFolder) -> int:
    if not folder.exists("affinity/estimates.parquet"):
        return 0
    return len(read_table(folder, "affinity/estimates.parquet", ["subset"])["subset"].unique())


def _results(folder: StudyFolder) -> pd.DataFrame | None:
    if not folder.exists("group_models/results.parquet"):
        return None
    table = read_table(folder, "group_models/results.parquet")
    # Only language models answer.
    columns = [*RESULT_COLUMNS, *(name for name in ("exact_match",) if name in table.column_names)]
    found = table.select(columns).to_pandas()
    return found.astype({name: float for name in columns if name not in RESULT_COLUMNS[:5]})


def _weights(folder: StudyFolder) -> dict[str, list[int]] | None:
    if not folder.exists("base_model/model.safetensors"):
        return None
    head = folder.reading("base_model/model.safetensors", safetensors_header)
    return {name: entry["shape"] for name, entry in head.items() if name != "__metadata__"}


def _samples(folder: StudyFolder) -> dict[str, tuple[str, str]]:
    """The first training example of every task."""
    if not folder.exists(TEXTS):
        return {}
    table = read_table(folder, TEXTS).to_pandas()
    first = table[table["split"] == "train"].drop_duplicates("task")
    return {str(row.task): (row.input, row.target) for row in first.itertuples()}


def _belongs(results: pd.DataFrame, groups: list[list[str]]) -> bool:
    """Whether the trained groups are the stored ones: `affinity group` stores new ones without training."""
    trained = results[results["setting"] == GROUPS].groupby("group")["task"].agg(frozenset)
    return set(trained) == {frozenset(group) for group in groups}
