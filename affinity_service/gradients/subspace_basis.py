"""The basis of the `subspace` reduction: per-task mean gradients, then leading directions of landmark gradients.

Leaving the means out costs a reduction what it should know of partners: every first step of a training moves along the
mean training gradients of its tasks and is judged along their mean validation gradients. Among many tasks they would
fill the basis: there it is of landmarks alone, and every subset gets its own tasks' means (``outside_means.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from affinity_service.gradients.layer_factors import Landmarks
from affinity_service.gradients.orthonormal import RANK_TOLERANCE, leading_span, orthonormalised, without
from affinity_service.gradients.statistics import GradientStatistics

# The means take at most so much of the dimension; above it their leading directions do.
MEANS_SHARE = 0.75
# Of the randomised range finder (Halko, Martinsson and Tropp 2011, algorithms 4.3 and 4.4).
OVERSAMPLING = 20
POWER_ITERATIONS = 2


def subspace_basis(statistics: GradientStatistics | None, landmarks: Landmarks, dimension: int, seed: int) -> Tensor:
    """(p, d') orthonormal columns in the scaled space, d' ≤ `dimension`: the span of the 2T mean gradients, training
    and validation (none without statistics), then the leading left directions of the landmarks outside it, the
    strongest first."""
    scale = landmarks.scale
    basis = scale.new_zeros(landmarks.size, 0)
    if statistics is not None:
        means = torch.cat([statistics.mean, statistics.validation_mean]).to(scale.device) * scale
        lengths = means.norm(dim=1, keepdim=True)
        kept = (lengths > 0)[:, 0]
        basis = leading_span((means[kept] / lengths[kept]).T, max(1, int(MEANS_SHARE * dimension)))
    wanted = min(dimension, landmarks.size) - basis.shape[1]
    if wanted <= 0 or len(landmarks) == 0:
        return basis
    return orthonormalised(torch.cat([basis, further_directions(landmarks, basis, wanted, seed)], dim=1))


def further_directions(landmarks: Landmarks, basis: Tensor, wanted: int, seed: int) -> Tensor:
    """(p, w) the `wanted` leading left directions of the landmarks outside an orthonormal basis (p, d), the strongest
    first; fewer where the landmarks have fewer."""
    return (_from_kernel if landmarks.has_kernel else _from_range)(landmarks, basis, wanted, seed)


def _from_kernel(landmarks: Landmarks, basis: Tensor, wanted: int, _: int) -> Tensor:
    """The exact leading directions, from the landmarks' inner products: coordinates in them are the Nyström features of
    the kernel (Williams and Seeger 2001)."""
    known = landmarks.times(basis).double()
    values, vectors = torch.linalg.eigh(landmarks.kernel() - known @ known.T)
    order = _leading(values, wanted)
    combined = landmarks.transposed_times((vectors[:, order] / values[order].sqrt()).float())
    return without(combined, basis)


def _from_range(landmarks: Landmarks, basis: Tensor, wanted: int, seed: int) -> Tensor:
    """The leading directions within a range that random combinations of the landmarks find."""
    width = min(wanted + OVERSAMPLING, len(landmarks))
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(len(landmarks), width, generator=generator).to(basis.device)
    y = without(landmarks.transposed_times(z), basis)
    for _ in range(POWER_ITERATIONS):
        mixed = torch.linalg.qr(landmarks.times(torch.linalg.qr(y)[0]))[0]
        y = without(landmarks.transposed_times(mixed), basis)
    q = without(torch.linalg.qr(y)[0], basis)
    projected = landmarks.times(q)
    values, vectors = torch.linalg.eigh((projected.T @ projected).double())
    return q @ vectors[:, _leading(values, wanted)].float()


def _leading(values: Tensor, wanted: int) -> Tensor:
    order = values.argsort(descending=True)[:wanted]
    return order[values[order] > RANK_TOLERANCE**2 * values.max()]
