"""The affinity stage of a study whose affinities were measured while the base model trained."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from affinity_service.affinity.lookahead import MEASURES
from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.affinity.measured import average_history, history_of, inside_window, losses_by_scores
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.errors import UserError
from affinity_service.tables import write_table

HISTORY = "base_model/measurements.parquet"


def read_history(folder: StudyFolder) -> pa.Table | None:
    """The measurements of the base model's training; None where it measured nothing."""
    if not folder.exists(HISTORY):
        return None
    return pq.read_table(io.BytesIO(folder.read_bytes(HISTORY)))


def measured_matrix(config: Config, folder: StudyFolder, names: list[str], measure: str) -> AffinityMatrix:
    """One measure averaged over the config's window."""
    table = read_history(folder)
    assert table is not None, "the base model was trained to measure"
    best = int(folder.read_json("base_model/history.json")["best_epoch"]) - 1
    inside = inside_window(table, best, config.measure.window)
    if not inside.any():
        raise UserError(
            f"measure.window {config.measure.window} holds none of the {len(table)} measurements up to the best epoch "
            f"({best + 1}); widen it, or lower measure.every ({config.measure.every})"
        )
    return average_history(names, history_of(table, measure, len(names))[inside])


def average_measurements(context: StageContext) -> StageOutcome:
    config, names = context.config, context.suite.names
    matrix = measured_matrix(config, context.folder, names, config.affinity.estimator)
    table = read_history(context.folder)
    assert table is not None
    if int(matrix.subsets.min()) < int(matrix.subsets.max()):
        context.warn(
            f"some pairs were measured {int(matrix.subsets.min())} times and others {int(matrix.subsets.max())}: "
            "batches without examples of a task, or with gradients that are not finite, are left out"
        )
    write_table(context.folder, "affinity/matrix.parquet", matrix.to_table())
    return StageOutcome(flops=float(len(table) * len(names) ** 2), workers=1)


def measured_losses(
    config: Config,
    folder: StudyFolder,
    names: list[str],
    base: NDArray[np.float64],
    subsets: Sequence[Sequence[int]],
) -> dict[str, NDArray[np.float64]]:
    """(M, T) what every measure of the base model's training says of the subsets, as ``tag_lookahead`` and so on, and
    as ``estimate`` the one that the study's matrix is of; empty where nothing was measured."""
    table = read_history(folder)
    if table is None or config.measuring is None:
        return {}
    found = {}
    for measure in MEASURES:
        if table[measure].null_count == 0:
            matrix = measured_matrix(config, folder, names, measure).affinity
            losses = losses_by_scores(matrix, base, subsets, relative=measure != "cosine")
            found[f"tag_{measure}"] = losses
            if config.affinity.estimator == measure:
                found["estimate"] = losses
    return found
