"""All rows of one subset at once give what they give task by task."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affinity_service.fitting.member_rows import MemberRows
from affinity_service.fitting.subset_rows import SubsetRows
from affinity_service.fitting.subset_weights import Anchor, SubsetWeights
from affinity_service.fitting.task_rows import TaskRows

P, D, HEAD, TASKS = 9, 4, 3, 4


def problem(squared: list[bool], own: bool, means: bool) -> tuple[list[TaskRows | None], Anchor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    width, more = P + TASKS * HEAD * own, {}
    if own:
        more["own"] = P + torch.arange(TASKS * HEAD).view(TASKS, HEAD)
    if means:
        more["outside"] = normal(TASKS, P)
    tensors = {
        "weights": normal(width),
        "scale": normal(width).exp(),
        "basis": torch.linalg.qr(normal(P, D))[0],
        **more,
    }
    anchor = Anchor.from_tensors({**tensors, "mean": normal(TASKS, width), "square": normal(TASKS, width) ** 2}, "cpu")
    # One task has a single row, the last none at all.
    rows: list[TaskRows | None] = []
    for n, kind in zip((7, 1, 12), squared, strict=True):
        targets = normal(n) if kind else (normal(n) > 0).double()
        products = normal(n, TASKS) if means else None
        rows.append(TaskRows(normal(n, D + HEAD * own), normal(n), targets, kind, products))
    return [*rows, None], anchor


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("own", "means"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("squared", [[False] * 3, [True] * 3, [False, True, True]])
@pytest.mark.parametrize("subset", [(0, 1, 2), (2, 3, 0), (1,)])
def test_margins_sums_and_losses_are_those_of_its_members(subset, squared, own, means):
    rows, anchor = problem(squared, own, means)
    layout = SubsetWeights(anchor, [subset])
    alone, members = SubsetRows(rows, layout), MemberRows(rows, layout)
    rng = np.random.default_rng(1)
    c = torch.tensor(rng.normal(size=(1, layout.coordinates)))
    z, at = alone.at(c[0]), 0
    total, zero = torch.zeros_like(c), torch.zeros(1, dtype=torch.long)
    squares = torch.zeros(1)
    for task in subset:
        if rows[task] is None:
            continue
        _, slots = layout.holders(task)
        expected = members.margins(task, c, zero, slots, slice(None))
        np.testing.assert_allclose(z[at : at + len(rows[task])], expected[:, 0])
        at += len(rows[task])
        change = rows[task].slopes(expected) - rows[task].slopes(rows[task].margins[:, None])
        share = torch.tensor([1 / len(subset)])
        members.add_sums(total, task, zero, slots, slice(None), change, share / len(rows[task]))
        squares += (expected[:, 0] - rows[task].margins).square().mean() * share
    assert at == len(z)
    np.testing.assert_allclose(alone.sums(z), total[0], atol=1e-12)
    np.testing.assert_allclose(alone.mean_square(z - alone.margins), squares[0])
    for found, expected in zip(alone.losses(c), members.losses(c), strict=True):
        np.testing.assert_allclose(found, expected)
