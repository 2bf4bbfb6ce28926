"""True trainings of subsets, in pieces that are kept: probes of the fits, truth and oracle of validation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import ray

from affinity_service.affinity.build import base_weights, device_here
from affinity_service.artifacts import StudyFolder, fingerprint
from affinity_service.config import Config
from affinity_service.engine.threads import take_assigned_threads
from affinity_service.evaluation.fine_tuning import FineTuned, FineTuner, seeds_of
from affinity_service.tables import read_metadata, read_table, write_table
from affinity_service.tasks.suite import Suite

Kind = Literal["probe", "truth", "oracle"]
PLACES: dict[Kind, str] = {"probe": "fits/probe", "truth": "validation/truth", "oracle": "validation/oracle"}
# Counts changes of what a true training computes: pieces of another version are not read.
TRAINING_VERSION = 2


@dataclass(frozen=True)
class Piece:
    """One seed of some subsets, from number `first` on; an oracle trains the linearised network. `key` fingerprints all
    that decides its losses, so that a truth outlives changes that do not: of the estimates, of how many subsets and
    seeds are asked for. Probes belong to the fits and go with them."""

    kind: Kind
    number: int
    seed: int
    first: int
    subsets: list[tuple[int, ...]]
    key: str

    @property
    def name(self) -> str:
        return f"{PLACES[self.kind]}-{self.key}.parquet"


def starts_at_base(kind: Kind, config: Config) -> bool:
    """Whether it fine-tunes the base model, or trains from initial weights."""
    return kind == "probe" or config.validation.start == "base"


def pieces_of(
    kind: Kind,
    config: Config,
    folder: StudyFolder,
    suite: Suite,
    subsets: Sequence[tuple[int, ...]],
    seeds: tuple[int, int],
    tile: int,
) -> list[Piece]:
    """Of all subsets and seeds, `tile` subsets each.

    seeds : what they are drawn from, and how many.
    """
    from_base = starts_at_base(kind, config)
    base = (folder.manifest("base_model") or {})["identity"] if from_base else None
    epochs = config.fits.epochs if from_base else config.base.epochs
    training = config.tuning if from_base and config.fits.learning_rate else config.base
    sections = [config.model.fingerprint_part(), training.fingerprint_part()]
    start = "base" if from_base else config.validation.start
    parts = [TRAINING_VERSION, suite.content_hash, sections, start, base, epochs]
    found = []
    for number, seed in enumerate(seeds_of(kind, *seeds)):
        for first in range(0, len(subsets), tile):
            own = list(subsets[first : first + tile])
            key = fingerprint([parts, kind == "oracle", seed, own])[:16]
            found.append(Piece(kind, number, seed, first, own, key))
    return found


@ray.remote
def train_piece(suite: Suite, piece: Piece, config: Config, folder: StudyFolder) -> None:
    """Train one piece and write its losses after every epoch, unless a process that was lost later has."""
    if folder.exists(piece.name):
        return
    take_assigned_threads()
    start = time.perf_counter()
    weights, epochs = None, config.base.epochs
    if starts_at_base(piece.kind, config):
        weights, epochs = base_weights(folder), config.fits.epochs
    tested = piece.kind != "probe"
    tuner = FineTuner(suite, config, weights, device_here(), piece.kind == "oracle", tested, epochs)
    (tuned,) = tuner.run(piece.subsets, [piece.seed])
    facts = {"flops": repr(tuned.flops), "seconds": repr(time.perf_counter() - start)}
    write_table(folder, piece.name, _table(tuned, piece.subsets).replace_schema_metadata(facts))


def _table(tuned: FineTuned, subsets: Sequence[tuple[int, ...]]) -> pa.Table:
    """One row per subset, by its number in the piece, and epoch: lists over the subset's tasks."""
    epochs = tuned.validation.shape[1]
    losses = {"validation_loss": tuned.validation} | ({} if tuned.test is None else {"test_loss": tuned.test})
    return pa.table(
        {
            "subset": np.repeat(np.arange(len(subsets)), epochs),
            "epoch": np.tile(np.arange(1, epochs + 1), len(subsets)),
            "tasks": [list(s) for s in subsets for _ in range(epochs)],
            **{
                name: [table[i, e, list(s)] for i, s in enumerate(subsets) for e in range(epochs)]
                for name, table in losses.items()
            },
        }
    )


def read_pieces(folder: StudyFolder, pieces: Sequence[Piece], tasks: int) -> list[FineTuned]:
    """The losses of all subsets, per seed."""
    numbers = sorted({piece.number for piece in pieces})
    return [_read_seed(folder, [piece for piece in pieces if piece.number == number], tasks) for number in numbers]


def _read_seed(folder: StudyFolder, pieces: Sequence[Piece], tasks: int) -> FineTuned:
    rows = [(piece.first, row) for piece in pieces for row in read_table(folder, piece.name).to_pylist()]
    epochs = max(row["epoch"] for _, row in rows)
    subsets = sum(len(piece.subsets) for piece in pieces)
    losses = {
        name: np.full((subsets, epochs, tasks), np.nan)
        for name in ("validation_loss", "test_loss")
        if all(name in row for _, row in rows)
    }
    for first, row in rows:
        for name, table in losses.items():
            table[first + row["subset"], row["epoch"] - 1, row["tasks"]] = row[name]
    flops = sum(float(read_metadata(folder, piece.name)["flops"]) for piece in pieces)
    return FineTuned(losses["validation_loss"], losses.get("test_loss"), flops)


def seconds_of(folder: StudyFolder, pieces: Sequence[Piece]) -> float:
    """What all of them took, one after the other."""
    return sum(float(read_metadata(folder, piece.name)["seconds"]) for piece in pieces)
