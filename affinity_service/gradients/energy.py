"""How much of the loss gradients' squared length the features hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.gradients.features import Features
from affinity_service.gradients.statistics import loss_slopes
from affinity_service.tasks.suite import TRAIN, Suite


def captured_energy(content: Features, suite: Suite, training: NDArray[np.bool_], task: NDArray[np.int32]) -> float:
    """Σ over training rows of the squared length of their reduced loss gradients."""
    margins, goal = torch.from_numpy(content.margins[training]), torch.from_numpy(content.targets[training])
    slopes = loss_slopes(margins, goal, torch.from_numpy(task[training]).long(), suite).numpy()
    lengths = np.square(content.features[training], dtype=np.float64).sum(axis=1)
    return float((slopes**2 * lengths).sum())


def total_energy(anchor: Mapping[str, Tensor], suite: Suite) -> float:
    """The same of the whole scaled gradients; `anchor` as ``read_anchor`` gives it."""
    rows = torch.from_numpy(suite.label_counts(TRAIN)).double()
    return float(rows @ (anchor["square"].double() @ anchor["scale"].double().square()))
