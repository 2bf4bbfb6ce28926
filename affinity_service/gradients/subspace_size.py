"""How many landmarks and directions a subspace needs, where the config leaves that to the gradients themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from affinity_service.config_estimate import MOST_LANDMARKS, GradientConfig
from affinity_service.gradients.landmarks import Pairs, landmark_pairs
from affinity_service.gradients.layer_factors import Landmarks
from affinity_service.gradients.statistics import GradientStatistics
from affinity_service.gradients.subspace_basis import subspace_basis
from affinity_service.tasks.suite import Suite

FIRST_LANDMARKS = 500
# Training pairs that are no landmarks, on which a basis is judged.
HELD_OUT = 300
# Of the judges' squared length the basis shall hold so much; and, compared with what it holds of the landmarks' own, so
# much: less says that more landmarks would show more.
ENERGY, GENERALISES = 0.9, 0.95


def sized_basis(
    statistics: GradientStatistics | None,
    landmarks_of: Callable[[Pairs], Landmarks],
    suite: Suite,
    settings: GradientConfig,
) -> tuple[Tensor, int]:
    """The basis (p, d) and how many landmarks it is from; without statistics, among many tasks, of landmarks alone.

    Landmarks `auto` are doubled until the basis holds nearly as much of other gradients as of theirs; dimension `auto`
    is the least that holds `ENERGY` of those others, at most what the config allows.
    """

    most = settings.widest_basis(many_tasks=statistics is None)

    def of(count: int) -> tuple[Landmarks, Tensor]:
        landmarks = landmarks_of(landmark_pairs(suite, count, settings.seed))
        return landmarks, subspace_basis(statistics, landmarks, most, settings.seed)

    if settings.landmarks != "auto" and settings.dimension != "auto":
        landmarks, basis = of(settings.landmarks)
        return basis, len(landmarks)
    count = FIRST_LANDMARKS if settings.landmarks == "auto" else settings.landmarks
    while True:
        landmarks, basis = of(count)
        judges = _others(landmarks, landmarks_of, suite, settings.seed)
        held = _held(judges, basis)
        enough = settings.landmarks != "auto" or count >= MOST_LANDMARKS or len(landmarks) < count or not len(judges)
        if enough or held[-1] >= GENERALISES * _held(landmarks, basis)[-1]:
            break
        count *= 2
    if settings.dimension == "auto" and len(judges):
        basis = basis[:, : int((held < ENERGY).sum()) + 1]
    return basis.contiguous(), len(landmarks)


def _others(landmarks: Landmarks, landmarks_of: Callable[[Pairs], Landmarks], suite: Suite, seed: int) -> Landmarks:
    """Pairs drawn as landmarks are, that are none."""
    example, task = landmark_pairs(suite, len(landmarks) + HELD_OUT, seed + 1)
    own = set(zip(landmarks.example.tolist(), landmarks.task.tolist(), strict=True))
    new = np.array([pair not in own for pair in zip(example.tolist(), task.tolist(), strict=True)], bool)
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(new))[:HELD_OUT]
    return landmarks_of((example[np.sort(chosen)], task[np.sort(chosen)]))


def _held(pairs: Landmarks, basis: Tensor) -> Tensor:
    """(d,) part of the pairs' squared length that the first 1…d directions hold."""
    if not len(pairs):
        return torch.ones(basis.shape[1])
    return (pairs.times(basis).square().sum(dim=0, dtype=torch.float64).cumsum(0) / pairs.energy()).cpu()
