"""What the driver holds of a feature store while it gathers the matrix."""

from __future__ import annotations

import tracemalloc

import numpy as np

from affinity_service.affinity.estimates import SubsetEstimates
from affinity_service.engine.analysis import estimate_affinity
from affinity_service.engine.context import StageContext
from affinity_service.fitting import subset_design
from affinity_service.gradients.store import LAYOUT
from affinity_service.reporter import LogReporter
from affinity_service.tables import read_table, write_table
from affinity_service.tasks import load_suite
from tests.random_study import random_study

TASKS, DIMENSION = 20, 64


def peak_bytes(place, rows: int) -> tuple[int, int]:
    """Peak of the stage, and the bytes of all validation rows' features."""
    place.mkdir()
    config, folder = random_study(place, TASKS, rows, DIMENSION)
    suite = load_suite(config.data)
    subsets = subset_design(TASKS, 20, (10, 10), 0, "uncovered")
    rng = np.random.default_rng(0)
    losses = [rng.random(len(subset)) for subset in subsets]
    coordinates = [rng.normal(size=DIMENSION).astype(np.float32) / 8 for _ in subsets]
    fine = np.ones(len(subsets), bool)
    estimates = SubsetEstimates(subsets, np.ones(len(subsets), np.int64), losses, losses, fine, coordinates)
    write_table(folder, "fits/tile-00000.parquet", estimates.to_table(0))
    context = StageContext("affinity", config, folder, suite, LogReporter(), "")
    tracemalloc.start()
    estimate_affinity(context)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.isfinite(read_table(folder, "affinity/matrix.parquet")["affinity"].to_numpy()).all()
    held_out = int((suite.split == 1).sum()) * TASKS
    assert folder.read_json(LAYOUT)["rows"] > 4 * held_out
    return peak, held_out * DIMENSION * 4


def test_more_rows_take_no_more_memory(tmp_path):
    few, _ = peak_bytes(tmp_path / "few", 20_000)
    many, everything = peak_bytes(tmp_path / "many", 200_000)
    # A task's rows grow with their number, a twentieth of all, and are held a few times over.
    assert many - few < 0.5 * everything
