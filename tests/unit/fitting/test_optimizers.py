"""Many steps at once are as many steps one after the other."""

from __future__ import annotations

import pytest
import torch

from affinity_service.fitting import optimizers
from affinity_service.fitting.optimizers import SGD, AdamW


@pytest.mark.parametrize("rule", [AdamW(0.01, 0.1), AdamW(0.01, 0.0, clip=1.0), SGD(0.01, 0.1)])
@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("drifts", [False, True])
def test_steps_at_once(rule, models, drifts, monkeypatch):
    monkeypatch.setitem(optimizers._BLOCK, "cpu", 64)
    generator = torch.Generator().manual_seed(0)
    start, weights, first, drift = (
        torch.randn(models, 150, generator=generator, dtype=torch.float64) for _ in range(4)
    )
    noise = torch.rand(models, 150, generator=generator, dtype=torch.float64)
    found = []
    for together in (False, True):
        w = start.clone()
        moments = rule.start(w)
        # Models that have come unequally far.
        gradient, square = rule.feed(first, noise)
        rule.step(w[:1], weights[:1], gradient[:1].clone(), square[:1], moments, slice(0, 1), 2)
        gradient = gradient.clone()
        for _ in range(1 if together else 7):
            more = 0.1 * drift if drifts else None
            rule.step(w, weights, gradient, square, moments, slice(None), 7 if together else 1, more)
        found.append((w, moments.first, moments.second, moments.steps))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)
