"""Directions of a task that a study's basis was made without: what of its gradients lies outside."""

from __future__ import annotations

import torch
from torch import Tensor

from affinity_service.gradients.landmarks import LandmarkGradients
from affinity_service.gradients.orthonormal import RANK_TOLERANCE, leading_span, orthonormalised, without
from affinity_service.gradients.statistics import GradientStatistics
from affinity_service.gradients.subspace_basis import further_directions

# The mean gradients take two, which keeps the path from running along them unseen: on yeast, of 400 coordinates for
# its binary tasks, a regression of 3x is predicted at 30 times its true loss without, at 2.2 times with two, 2.0 with
# 32 and 1.6 with 100. Every question about the task pays for them as for coordinates of the study, which has hundreds.
OWN_DIRECTIONS = 32


def own_directions(
    statistics: GradientStatistics, landmarks: LandmarkGradients, basis: Tensor, count: int, seed: int
) -> Tensor:
    """(p, k) orthonormal columns in the scaled space, k ≤ `count`, orthogonal to the basis (p, d): the span of the
    parts outside it of one task's mean gradients, training and validation, then the leading directions of what is left
    of its margins' gradients.

    Parameters
    ----------
    statistics : (1, p) of the task. landmarks : training rows of it.
    """
    means = torch.cat([statistics.mean, statistics.validation_mean]).to(landmarks.scale.device) * landmarks.scale
    lengths = means.norm(dim=1, keepdim=True)
    outside = without((means / lengths)[(lengths > 0)[:, 0]].T, basis)
    # Of a mean that the basis holds, rounding is left.
    found = leading_span(outside[:, outside.norm(dim=0) > RANK_TOLERANCE], count)
    known = torch.cat([basis, found], dim=1)
    wanted = min(count - found.shape[1], len(basis) - known.shape[1])
    if wanted > 0:
        more = further_directions(landmarks, known, wanted, seed)
        held = landmarks.times(more).square().sum(dim=0, dtype=torch.float64)
        found = torch.cat([found, more[:, held > RANK_TOLERANCE**2 * landmarks.energy()]], dim=1)
    return orthonormalised(without(found, basis)) if found.shape[1] else found
