"""Rows of texts in passes that hold few tokens, as many on every rank."""

from __future__ import annotations

import numpy as np
import torch

from affinity_service.config import TrainConfig
from affinity_service.engine.micro_batches import as_inputs, evaluation_batches, own_rows, passes_per_step
from tests.language_models import answers_suite
from tests.suites import mixed_suite

SUITE = answers_suite(rows=50)
ROWS = np.arange(50)


def test_passes_are_as_many_as_the_longest_rows_need_and_at_least_those_asked_for():
    longest = int(SUITE.inputs.lengths.max())
    for tokens, passes in {2 * longest: 3, longest: 6, 1: 6, 10**6: 1}.items():
        train = TrainConfig(batch_size=12, tokens=tokens)
        assert passes_per_step(SUITE.inputs, ROWS, train, world=2) == passes
    assert passes_per_step(SUITE.inputs, ROWS, TrainConfig(batch_size=12, accumulation=4), world=2) == 4
    assert passes_per_step(mixed_suite().inputs, ROWS, TrainConfig(batch_size=12, tokens=1), world=2) == 1


def test_ranks_share_a_batch_and_get_rows_of_like_length_together():
    batch = np.random.default_rng(0).permutation(50)[:12]
    parts = [own_rows(SUITE.inputs, batch, rank, 3) for rank in range(3)]
    assert sorted(np.concatenate(parts)) == sorted(batch)
    for part in parts:
        assert (np.diff(SUITE.inputs.lengths[part]) >= 0).all()
    # Vectors keep their order: it decides nothing but dropout masks, which a resumed study must draw again.
    assert own_rows(mixed_suite().inputs, batch, 1, 3).tolist() == batch[1::3].tolist()


def test_evaluation_covers_every_row_once_in_as_many_passes_on_every_rank():
    of_rank = [evaluation_batches(SUITE.inputs, ROWS[:23], rank, 3, tokens=40) for rank in range(3)]
    assert len({len(passes) for passes in of_rank}) == 1
    assert sorted(np.concatenate([np.concatenate(passes) for passes in of_rank])) == list(range(23))
    for passes in of_rank:
        assert all(len(rows) * SUITE.inputs.lengths[rows].max() <= 40 for rows in passes if len(rows) > 1)


def test_ids_stay_whole_numbers():
    assert as_inputs(SUITE.inputs, ROWS[:2], torch.device("cpu"), torch.bfloat16).dtype == torch.int64
    assert as_inputs(mixed_suite().inputs, ROWS[:2], torch.device("cpu"), torch.bfloat16).dtype == torch.bfloat16
