"""Many steps of AdamW at once against one after the other."""

from __future__ import annotations

import pytest
import torch

from affinity_service.fitting.adam_strides import FEW_STEPS, NODES, stride_moves
from affinity_service.fitting.optimizers import AdamW, Moments

M, P = 3, 400
RULE = AdamW(learning_rate=1e-2, weight_decay=0.1)


class Case:
    """Weights, moments, gradients, their squares and drifts of M subsets after `taken` steps, in float64; squares are
    up to `ratio` times as large or small as the second moment so far."""

    def __init__(self, taken: list[int], ratio: float, count: int, subsets: int = M) -> None:
        generator = torch.Generator().manual_seed(len(taken) + count)

        def draw(*shape: int) -> torch.Tensor:
            return torch.rand(*shape, generator=generator, dtype=torch.float64)

        steps = torch.tensor(taken, dtype=torch.float64)[:, None]
        self.second = (0.1 + draw(subsets, P)) * (1 - RULE.betas[1] ** steps)
        self.square = self.second / (1 - RULE.betas[1] ** steps).clamp(min=1e-9) * ratio ** (2 * draw(subsets, P) - 1)
        self.square = torch.where(steps > 0, self.square, 0.1 + draw(subsets, P))
        self.gradient = 0.5 * draw(subsets, P) - 0.2
        self.first = (self.gradient + 0.1 * draw(subsets, P)) * (1 - RULE.betas[0] ** steps)
        self.drift = 0.3 * (draw(subsets, P) - 0.5) / count
        self.weights = draw(P) if subsets == 1 else draw(subsets, P)
        self.w = 0.01 * draw(subsets, P)
        self.steps, self.count = steps[:, 0], count

    def one_by_one(self) -> dict[str, torch.Tensor]:
        w, gradient, steps = self.w.clone(), self.gradient.clone(), self.steps.clone()
        first, second = self.first.clone(), self.second.clone()
        one, two = RULE.betas
        for _ in range(self.count):
            first = one * first + (1 - one) * gradient
            gradient = gradient + self.drift
            second = two * second + (1 - two) * self.square
            steps = steps + 1
            w = w - RULE.learning_rate * RULE.weight_decay * (self.weights + w)
            unbiased = first / (1 - one ** steps[:, None]), second / (1 - two ** steps[:, None])
            w = w - RULE.learning_rate * unbiased[0] / (unbiased[1].sqrt() + RULE.epsilon)
        return {"w": w, "gradient": gradient, "first": first, "second": second}

    def at_once(self) -> dict[str, torch.Tensor]:
        w, gradient = self.w.clone(), self.gradient.clone()
        moments = Moments(self.first.clone(), self.second.clone(), self.steps.clone())
        weights = self.weights if self.weights.ndim == 2 else self.weights[None]
        RULE.step(w, weights, gradient, self.square, moments, slice(0, len(w)), self.count, self.drift)
        torch.testing.assert_close(moments.steps, self.steps + self.count)
        return {"w": w, "gradient": gradient, "first": moments.first, "second": moments.second}

    def apart(self) -> float:
        """Relative error of the displacement; everything else must agree to rounding."""
        found, expected = self.at_once(), self.one_by_one()
        for name in ("gradient", "first", "second"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)
        return float((found["w"] - expected["w"]).norm() / (expected["w"] - self.w).norm())


@pytest.mark.parametrize("subsets", [1, M])
@pytest.mark.parametrize("taken", [0, 1, 40])
@pytest.mark.parametrize("count", [1, 3, FEW_STEPS])
def test_few_steps_are_taken_one_by_one(subsets, taken, count):
    assert Case([taken] * subsets, 10, count, subsets).apart() < 1e-9


@pytest.mark.parametrize("subsets", [1, M])
@pytest.mark.parametrize(("ratio", "most"), [(1, 1e-9), (3, 1e-4), (10, 1e-3)])
@pytest.mark.parametrize(("taken", "count"), [(10, 10), (50, 50), (20, 50), (400, 50)])
def test_many_steps_are_passes_as_few_as_nodes(subsets, ratio, most, taken, count):
    """Gradients whose squares are suddenly so many times larger or smaller."""
    assert len(stride_moves(RULE, (float(taken),) * subsets, count)) == len(NODES)
    assert Case([taken] * subsets, ratio, count, subsets).apart() < most


def test_subsets_that_have_taken_different_numbers_of_steps():
    assert Case([7, 30, 200], 3, 20).apart() < 1e-4
    # One that has taken none has no second moment to begin with: all go step by step.
    assert Case([0, 30, 200], 3, 20).apart() < 1e-9
