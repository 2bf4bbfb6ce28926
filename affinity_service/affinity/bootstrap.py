"""How much affinities owe to the validation examples at hand: a bootstrap that reuses the fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.fitting.task_rows import TaskRows

DRAWS = 200
# Of some draws at a time, how often each example was drawn.
_NUMBERS = 1 << 17


def example_errors(
    rows: Iterable[tuple[int, TaskRows]],
    tasks: int,
    subsets: Sequence[Sequence[int]],
    coordinates: Sequence[NDArray[np.float32]],
    seed: int,
    draws: int = DRAWS,
    own_coordinates: int = 0,
) -> NDArray[np.float64]:
    """(T, T) standard errors, over validation examples drawn again, of each affinity minus the receiver's mean over
    its partners; zero on the diagonal. Losses are the linearised ones.

    Parameters
    ----------
    rows : tasks with their validation rows; one task's are held at a time.
    tasks : T.
    subsets : M; those of three or more tasks are averaged, as in the matrix, a pair stands for itself where no larger
        subset holds it.
    coordinates : per subset, see ``SubsetEstimates``. own_coordinates : h of them are of each task alone; where rows
        have products, one number per task follows those, by which the products with its mean are multiplied.
    """
    errors = np.zeros((tasks, tasks))
    holding: list[list[int]] = [[] for _ in range(tasks)]
    for index, subset in enumerate(subsets):
        for task in subset if len(subset) > 1 else ():
            holding[task].append(index)
    for receiver, own in rows if tasks >= 3 else ():
        holders = holding[receiver]
        # (sources, subsets): how a partner's affinity averages the subsets.
        weights = np.zeros((tasks, len(holders)))
        for column, index in enumerate(holders):
            if len(subsets[index]) > 2:
                weights[list(subsets[index]), column] = 1
        for column, index in enumerate(holders):
            if len(subsets[index]) == 2:
                (source,) = set(subsets[index]) - {receiver}
                if not weights[source].any():
                    weights[source, column] = 1
        partners = [t for t in range(tasks) if t != receiver and weights[t].any()]
        if len(partners) < 2:
            continue
        mean = weights[partners] / weights[partners].sum(axis=1, keepdims=True)
        contrast = torch.from_numpy(mean - mean.mean(axis=0)).to(own.features)
        slots = [list(subsets[i]).index(receiver) for i in holders]
        c = np.stack([_of_task(coordinates[i], s, own_coordinates, own) for i, s in zip(holders, slots, strict=True)])
        # The contrasts of every example first: (n, partners). Then each draw weighs the examples anew.
        z = own.margins_at(torch.from_numpy(c).to(own.features))
        if own.products is not None:
            along = np.zeros((tasks, len(holders)), np.float32)
            for column, index in enumerate(holders):
                members = list(subsets[index])
                along[members, column] = coordinates[index][-len(members) :]
            z += own.products.to(z) @ torch.from_numpy(along).to(z)
        values = own.losses(z) @ contrast.T
        errors[receiver, partners] = _spread(values, np.random.default_rng([seed, receiver]), draws)
    return errors


def _spread(values: Tensor, generator: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """(k,) standard deviations of the mean of values (n, k) over its n examples drawn again."""
    n = len(values)
    chances = np.full(n, 1 / n)
    means = []
    together = max(1, _NUMBERS // n)
    for start in range(0, draws, together):
        counts = generator.multinomial(n, chances, size=min(together, draws - start))
        means.append(torch.from_numpy(counts / n).to(values) @ values)
    return torch.cat(means).std(dim=0).double().cpu().numpy()


def _of_task(coordinates: NDArray[np.float32], slot: int, head: int, rows: TaskRows) -> NDArray[np.float32]:
    """(d + h,) of a subset's coordinates, those that the features of the task in this slot are multiplied with."""
    shared = rows.features.shape[1] - head
    if not head:
        return coordinates[:shared]
    first = shared + slot * head
    return np.concatenate([coordinates[:shared], coordinates[first : first + head]])
