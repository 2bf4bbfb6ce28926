"""The slow, obvious form of the anchored path: one subset, one example after the other, float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def follow_subset_reference(
    gradients: Sequence[Floats],
    margins: Sequence[Floats],
    targets: Sequence[Floats],
    weights: Floats,
    steps: int,
    *,
    batch_size: int,
    examples: int,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    held: Sequence[Floats] | None = None,
) -> Floats:
    """(p,) displacement after so many AdamW steps on the subset's whole objective, logistic losses, all in the
    linearised model.

    Parameters
    ----------
    gradients, margins, targets : per task of the subset its rows: margin gradients (n, p), margins and targets (n,).
    examples : of the subset, from which batches of `batch_size` are drawn; their variance goes into the second moment.
    held : per task (n, p) what features hold of the margin gradients, by which margins change and what their changes
        add to the gradient is known; all of them when None.
    """
    held = gradients if held is None else held
    share, size = 1 / len(gradients), len(weights)
    noise = np.zeros(size)
    for g, h, y in zip(gradients, margins, targets, strict=True):
        mean, square = np.zeros(size), np.zeros(size)
        for i in range(len(h)):
            slope = 1 / (1 + np.exp(-h[i])) - y[i]
            mean += slope * g[i] / len(h)
            square += (slope * g[i]) ** 2 / len(h)
        noise += share**2 * (examples / len(h) * square - mean**2)
    noise = np.maximum(noise, 0) * max(0.0, 1 - batch_size / examples) / batch_size
    w, first, second = np.zeros(size), np.zeros(size), np.zeros(size)
    for step in range(1, steps + 1):
        gradient = np.zeros(size)
        for g, k, h, y in zip(gradients, held, margins, targets, strict=True):
            for i in range(len(h)):
                base = 1 / (1 + np.exp(-h[i])) - y[i]
                slope = 1 / (1 + np.exp(-(h[i] + k[i] @ w))) - y[i]
                gradient += share * (base * g[i] + (slope - base) * k[i]) / len(h)
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * (gradient**2 + noise)
        update = (first / (1 - betas[0] ** step)) / (np.sqrt(second / (1 - betas[1] ** step)) + epsilon)
        w = w - learning_rate * (update + weight_decay * (weights + w))
    return w


def held_reference(
    gradients: Floats, scale: Floats, basis: Floats, means: Sequence[Floats], least_square: float
) -> Floats:
    """(n, p) what a subset's features hold of scaled gradients (n, p): their part in an orthonormal basis (p, d), and
    along what the subset's means (p,), scaled and made one long, have outside it."""
    directions = list(basis.T)
    outside = []
    for mean in means:
        unit = scale * mean / max(float(np.linalg.norm(scale * mean)), 1e-30)
        outside.append(unit - sum((b * (b @ unit) for b in basis.T), np.zeros(len(scale))))
    left, values, _ = np.linalg.svd(np.array(outside).T, full_matrices=False)
    directions += [left[:, j] for j in range(len(values)) if values[j] ** 2 > least_square]
    found = np.zeros_like(gradients)
    for i in range(len(gradients)):
        for direction in directions:
            found[i] += direction * (direction @ (scale * gradients[i])) / scale
    return found
