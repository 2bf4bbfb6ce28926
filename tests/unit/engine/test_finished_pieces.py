"""Ray gives a piece of work out again when the answer of a lost process is missing: what it wrote is not made again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from affinity_service.artifacts import StudyFolder
from affinity_service.engine.fits import calibrate_by_probes, fit_tile
from affinity_service.engine.gradients import GradientActor
from affinity_service.engine.graph_suite import Layer, make_block
from affinity_service.engine.group_trials import Trial, train_trial
from affinity_service.engine.true_trainings import Piece, train_piece
from affinity_service.evaluation.run import Run

CONFIG = SimpleNamespace(fits=SimpleNamespace(tile=4))
PIECE = Piece(kind="truth", number=0, seed=1, first=0, subsets=[(0, 1)], key="abc")
TRIAL = Trial((Run((0, 1), 0),), (), ())


def _of_actor(method, *arguments):
    def call(folder):
        actor = GradientActor.__ray_metadata__.modified_class.__new__(GradientActor.__ray_metadata__.modified_class)
        actor.config, actor.folder, actor.suite = None, folder, None
        getattr(actor, method)(None, *arguments)

    return call


PIECES = {
    "gradient sums": ("gradients/sums/00003-1.safetensors", _of_actor("sums", 3, 1)),
    "anchor": ("gradients/anchor.safetensors", _of_actor("anchor", [(3, 1)])),
    "features": ("gradients/shard-00003.arrow", _of_actor("compute", 3)),
    "tile": ("fits/tile-00002.parquet", lambda folder: fit_tile._function(None, None, [(0,)], 8, CONFIG, folder)),
    "calibration": (
        "fits/calibration.json",
        lambda folder: calibrate_by_probes._function(None, None, None, folder),
    ),
    "true training": (PIECE.name, lambda folder: train_piece._function(None, PIECE, None, folder)),
    "trial": (TRIAL.results, lambda folder: train_trial(TRIAL, None, None, folder, "")),
    "graph block": (
        "graph/hop-1/block-00002.arrow",
        lambda folder: make_block._function(Layer("hop", 1), 2, None, None, folder),
    ),
}


@pytest.mark.parametrize("piece", PIECES)
def test_a_written_piece_stays_as_it_is(piece, tmp_path):
    name, work = PIECES[piece]
    folder = StudyFolder.at(tmp_path)
    # Whoever went on would fail, as there is nothing to work with.
    with pytest.raises((AttributeError, TypeError, FileNotFoundError)):
        work(folder)
    folder.write_bytes(name, b"whole")
    work(folder)
    assert folder.read_bytes(name) == b"whole"
