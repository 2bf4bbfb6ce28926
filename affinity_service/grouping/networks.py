"""Overlapping networks within a budget, chosen by the predicted losses of the networks themselves.

TAG's problem (arXiv 2109.04617, §3.2; Standley et al. 2020, §4) without its approximation by pairs. Column generation:
a linear programme over the networks predicted so far prices what a task's loss and a unit of the budget are worth, and
at those prices the neighbours of the networks it uses are predicted next. A mixed-integer programme chooses among all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from affinity_service.errors import UserError
from affinity_service.grouping.direct import MOST, Predict

Network = tuple[int, ...]
Cost = Callable[[Network], float]
# Parts of a network smaller than this in the linear programme are rounding.
_USED = 1e-6
# The integer programme ends at this relative gap, or after so many seconds with the gap that it then has.
_GAP, _SECONDS = 1e-6, 60.0
# All networks are predicted where they are at most this share of what may be, all pairs where they are at most that.
_ALL, _PAIRS = 1 / 8, 1 / 2


@dataclass(frozen=True)
class Networks:
    """Networks to train, and which of them serves each task.

    groups : sorted tuples of tasks, each serving at least one. served_by : (T,) index into them. loss : mean over tasks
    of the predicted loss in the serving network. bound : no choice among the networks that were predicted has a lower
    one. cost : of all of them. evaluated : how many networks were predicted. settled : whether every neighbour of what
    the linear programme uses was predicted and none would lower it.
    """

    groups: list[Network]
    served_by: list[int]
    loss: float
    bound: float
    cost: float
    evaluated: int
    settled: bool


def _one(_: Network) -> float:
    return 1.0


def choose_networks(
    predict: Predict,
    tasks: int,
    budget: float,
    *,
    cost: Cost = _one,
    start: Sequence[Sequence[int]] = (),
    most: int = MOST,
) -> Networks:
    """Choose networks, tasks in several allowed, so that the mean over tasks of the least predicted loss is lowest.

    Parameters
    ----------
    predict : losses of the members of subsets, in the order of their sorted tasks.
    budget : the costs of the networks sum to at most this.
    cost : of a network, positive; 1 each if not given, so that the budget is their number.
    start : networks to begin with, such as the clusters of the pairwise matrix.
    most : networks whose losses are predicted, at most (the single tasks, everybody and `start` always are).

    Raises
    ------
    UserError
        The budget is not positive, or does not pay for any choice that serves every task.
    """
    if not budget > 0:
        raise UserError(f"budget: found {budget!r}; expected a positive number, such as how many networks to train")
    pool = _Pool(predict, tasks, cost)
    pool.add([(task,) for task in range(tasks)])
    pool.add([tuple(range(tasks)), *(tuple(sorted(group)) for group in start)])
    if tasks * (tasks - 1) // 2 + len(pool.networks) <= _PAIRS * most:
        pool.add(itertools.combinations(range(tasks), 2))
    if 2**tasks <= _ALL * most:
        pool.add(network for size in range(3, tasks) for network in itertools.combinations(range(tasks), size))
    while True:
        # The cheap look first: the integer programme is solved where the linear one leads no further.
        new = pool.unknown(_neighbours(pool.relaxed(budget), tasks))
        if not new:
            found = pool.chosen(budget)
            new = pool.unknown([*_neighbours(found.groups, tasks), *_exchanges(found.groups, tasks)])
            if not new:
                return replace(found, settled=True)
        if len(pool.networks) + len(new) > most:
            return pool.chosen(budget)
        pool.add(new)


class _Pool:
    """The networks predicted so far."""

    def __init__(self, predict: Predict, tasks: int, cost: Cost) -> None:
        self.predict, self.tasks, self.cost = predict, tasks, cost
        self.networks: list[Network] = []
        self.known: set[Network] = set()
        self.costs: list[float] = []
        self.losses: list[NDArray[np.float64]] = []

    def add(self, networks: Iterable[Network]) -> None:
        if new := self.unknown(networks):
            self.losses += [np.asarray(each, dtype=np.float64) for each in self.predict(new)]
            self.costs += [float(self.cost(network)) for network in new]
            self.networks += new
            self.known |= set(new)

    def relaxed(self, budget: float) -> list[Network]:
        """The networks of which the linear programme uses a part."""
        parts, _ = self._solve(budget, whole=False)
        return [network for network, part in zip(self.networks, parts, strict=True) if part > _USED]

    def unknown(self, networks: Iterable[Network]) -> list[Network]:
        return [network for network in dict.fromkeys(networks) if network not in self.known]

    def chosen(self, budget: float) -> Networks:
        parts, bound = self._solve(budget, whole=True)
        taken = np.flatnonzero(parts > 0.5)
        table = np.full((len(taken), self.tasks), np.inf)
        for row, index in enumerate(taken):
            table[row, list(self.networks[index])] = self.losses[index]
        serving = table.argmin(axis=0)
        kept = sorted(set(serving.tolist()), key=lambda row: self.networks[taken[row]])
        loss = float(table.min(axis=0).mean())
        return Networks(
            groups=[self.networks[taken[row]] for row in kept],
            served_by=[kept.index(row) for row in serving.tolist()],
            loss=loss,
            bound=min(bound / self.tasks, loss),
            cost=sum(self.costs[taken[row]] for row in kept),
            evaluated=len(self.networks),
            settled=False,
        )

    def _solve(self, budget: float, whole: bool) -> tuple[NDArray[np.float64], float]:
        """(N,) the part of each network, and a lower bound on the total loss."""
        count = len(self.networks)
        sizes = [len(network) for network in self.networks]
        task = np.concatenate([np.array(network) for network in self.networks])
        owner = np.repeat(np.arange(count), sizes)
        # Variables: the part of each network, then of each (network, task) that it serves.
        served = count + np.arange(len(task))
        objective = np.concatenate([np.zeros(count), *self.losses])
        rows = np.arange(len(task))
        ones = np.ones(len(task))
        width = count + len(task)
        everybody = csr_array((ones, (task, served)), shape=(self.tasks, width))
        paid = csr_array((np.array(self.costs), (np.zeros(count, int), np.arange(count))), shape=(1, width))
        open_only = csr_array(
            (np.concatenate([ones, -ones]), (np.tile(rows, 2), np.concatenate([served, owner]))),
            shape=(len(task), width),
        )
        found = milp(
            objective,
            constraints=[
                LinearConstraint(everybody, 1, 1),
                LinearConstraint(paid, -np.inf, budget * (1 + 1e-9)),
                LinearConstraint(open_only, -np.inf, 0),
            ],
            # Who serves a task follows from which networks there are.
            integrality=np.concatenate([np.full(count, int(whole)), np.zeros(len(task))]),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": _GAP, "time_limit": _SECONDS},
        )
        if found.x is None:
            cheapest = min(self.costs[i] for i in range(count) if sizes[i] == self.tasks)
            raise UserError(
                f"budget: found {budget:g}; it pays for no networks that serve all {self.tasks} tasks (one of all of "
                f"them costs {cheapest:g}); raise the budget"
            )
        bound = found.mip_dual_bound if whole and found.mip_dual_bound is not None else found.fun
        return found.x[:count], float(bound)


def _neighbours(networks: Sequence[Network], tasks: int) -> list[Network]:
    """Every network with one task more or one less."""
    less = [(*n[:i], *n[i + 1 :]) for n in networks if len(n) > 1 for i in range(len(n))]
    return less + [tuple(sorted((*n, task))) for n in networks for task in range(tasks) if task not in n]


def _exchanges(networks: Sequence[Network], tasks: int) -> list[Network]:
    """Every network with one task in place of another."""
    return [
        tuple(sorted((*n[:i], *n[i + 1 :], task)))
        for n in networks
        for i in range(len(n))
        for task in range(tasks)
        if task not in n
    ]
