"""Overlapping networks within a budget, chosen by the predicted losses of the networks themselves.

TAG's problem (arXiv 2109.04617, §3.2; Standley et al. 2020, §4) without its approximation by pairs. The networks
predicted so far form a pool; a linear programme tells which of them matter within the budget, and their neighbours, one
task more or less, are predicted next. An integer programme then chooses among all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from affinity_service.deadline import check_deadline, seconds_left
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
        used, bound = pool.relaxed(budget)
        new, found = pool.unknown(_neighbours(used, tasks)), None
        if not new:
            found = pool.chosen(budget, bound)
            new = pool.unknown([*_neighbours(found.groups, tasks), *_exchanges(found.groups, tasks)])
            if not new:
                return replace(found, settled=True)
        # Those of the networks that matter most come first.
        room = max(0, most - len(pool.known))
        if room:
            pool.add(new[:room])
        if room < len(new):
            return found if found is not None and not room else pool.chosen(budget, pool.relaxed(budget)[1])


class _Pool:
    """The networks predicted so far."""

    def __init__(self, predict: Predict, tasks: int, cost: Cost) -> None:
        self.predict, self.tasks, self.cost = predict, tasks, cost
        self.networks: list[Network] = []
        self.known: set[Network] = set()
        self.costs: list[float] = []
        self.losses: list[NDArray[np.float64]] = []

    def add(self, networks: Iterable[Network]) -> None:
        new = self.unknown(networks)
        self.known |= set(new)
        for network, losses in zip(new, self.predict(new) if new else (), strict=True):
            cost = float(self.cost(network))
            if not 0 < cost < np.inf:
                raise UserError(
                    f"cost: found {cost} for the network of tasks {list(network)}; expected a positive number"
                )
            # A training that is predicted to diverge is no choice.
            if np.isfinite(losses).all():
                self.networks.append(network)
                self.costs.append(cost)
                self.losses.append(np.asarray(losses, dtype=np.float64))

    def unknown(self, networks: Iterable[Network]) -> list[Network]:
        return [network for network in dict.fromkeys(networks) if network not in self.known]

    def relaxed(self, budget: float) -> tuple[list[Network], float]:
        """The networks of which the linear programme uses a part, the largest parts first, and its optimum: a lower
        bound on the total loss."""
        found = self._solve(budget, whole=False)
        # Without an optimum: every task served by the best there is for it.
        bound = (
            float(found.fun) if found.status == 0 else float(self._table(range(len(self.networks))).min(axis=0).sum())
        )
        parts = np.zeros(len(self.networks)) if found.x is None else found.x[: len(self.networks)]
        order = np.argsort(-parts, kind="stable")
        return [self.networks[index] for index in order if parts[index] > _USED], bound

    def chosen(self, budget: float, bound: float) -> Networks:
        """The best choice, given a lower bound on the total loss."""
        found = self._solve(budget, whole=True)
        if found.x is None:
            taken = self._greedy(budget)
        else:
            taken = np.flatnonzero(found.x[: len(self.networks)] > 0.5).tolist()
        if found.status == 0:
            bound = max(bound, float(found.mip_dual_bound))
        table = self._table(taken)
        serving = table.argmin(axis=0)
        kept = sorted(set(serving.tolist()), key=lambda row: self.networks[taken[row]])
        loss = float(table.min(axis=0).mean())
        return Networks(
            groups=[self.networks[taken[row]] for row in kept],
            served_by=[kept.index(row) for row in serving.tolist()],
            loss=loss,
            bound=min(bound / self.tasks, loss),
            cost=sum(self.costs[taken[row]] for row in kept),
            evaluated=len(self.known),
            settled=False,
        )

    def _table(self, taken: Iterable[int]) -> NDArray[np.float64]:
        """(networks, T) losses, inf outside."""
        chosen = list(taken)
        table = np.full((len(chosen), self.tasks), np.inf)
        for row, index in zip(table, chosen, strict=True):
            row[list(self.networks[index])] = self.losses[index]
        return table

    def _greedy(self, budget: float) -> list[int]:
        """The best network of all tasks that is paid for, then whatever lowers the loss most, while the budget lasts:
        for where the integer programme found nothing in its time."""
        table, costs = self._table(range(len(self.networks))), np.array(self.costs)
        whole = np.isfinite(table).all(axis=1) & (costs <= budget)
        if not whole.any():
            raise UserError(
                f"budget: found {budget:g}; no networks within it that serve all {self.tasks} tasks were found in "
                f"{_SECONDS:.0f} s; raise the budget or lower `most`"
            )
        taken = [int(np.where(whole, table.sum(axis=1), np.inf).argmin())]
        while True:
            current = table[taken].min(axis=0)
            gains = np.maximum(current - table, 0).sum(axis=1)
            gains[costs > budget - costs[taken].sum()] = 0
            if not gains.max() > 0:
                return taken
            taken.append(int(gains.argmax()))

    def _solve(self, budget: float, whole: bool) -> Any:
        """scipy's result: the part of each network, then of each (network, task) that it serves."""
        count = len(self.networks)
        if {task for network in self.networks for task in network} != set(range(self.tasks)):
            raise UserError("the predicted losses of some task are not finite in any network: its trainings diverge")
        task = np.concatenate([np.array(network) for network in self.networks])
        owner = np.repeat(np.arange(count), [len(network) for network in self.networks])
        served, rows, ones = count + np.arange(len(task)), np.arange(len(task)), np.ones(len(task))
        width = count + len(task)
        everybody = csr_array((ones, (task, served)), shape=(self.tasks, width))
        # In units of the budget, whatever those of the costs are.
        shares = np.array(self.costs) / budget
        paid = csr_array((shares, (np.zeros(count, int), np.arange(count))), shape=(1, width))
        open_only = csr_array(
            (np.concatenate([ones, -ones]), (np.tile(rows, 2), np.concatenate([served, owner]))),
            shape=(len(task), width),
        )
        found = milp(
            np.concatenate([np.zeros(count), *self.losses]),
            constraints=[
                LinearConstraint(everybody, 1, 1),
                LinearConstraint(paid, -np.inf, 1 + 1e-9),
                LinearConstraint(open_only, -np.inf, 0),
            ],
            # Who serves a task follows from which networks there are; what costs more than the budget is none.
            integrality=np.concatenate([np.full(count, int(whole)), np.zeros(len(task))]),
            bounds=Bounds(0, np.concatenate([(shares <= 1 + 1e-9).astype(float), ones])),
            options={"mip_rel_gap": _GAP, "time_limit": seconds_left(_SECONDS)},
        )
        check_deadline()
        if found.status == 2:
            cheapest = min(
                (c for n, c in zip(self.networks, self.costs, strict=True) if len(n) == self.tasks), default=0
            )
            raise UserError(
                f"budget: found {budget:g}; it pays for no networks that serve all {self.tasks} tasks (one of all of "
                f"them costs {cheapest:g}); raise the budget"
            )
        return found


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
