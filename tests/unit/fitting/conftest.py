"""Small problems with a planted signal."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest


@dataclass
class Examples:
    features: np.ndarray
    margins: np.ndarray
    targets: np.ndarray
    task: np.ndarray
    kinds: list[str]

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.features, self.margins, self.targets, self.task


@pytest.fixture
def make() -> Callable[..., Examples]:
    def build(
        counts: list[int], d: int, seed: int = 0, kinds: list[str] | None = None, margin: float = 1.0
    ) -> Examples:
        rng = np.random.default_rng(seed)
        kinds = kinds or ["logistic"] * len(counts)
        task = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        features = rng.standard_normal((len(task), d))
        margins = margin * rng.standard_normal(len(task))
        signal = rng.standard_normal((len(counts), d)) / np.sqrt(d)
        z = margins + np.einsum("nd,nd->n", features, signal[task])
        binary = (rng.random(len(task)) < 1 / (1 + np.exp(-z))).astype(float)
        squared = np.array([kind == "squared" for kind in kinds])[task]
        return Examples(features, margins, np.where(squared, z + rng.standard_normal(len(z)), binary), task, kinds)

    return build
