"""What groups must look like: sizes, tasks that belong together, tasks that must be kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, kron
from scipy.sparse.csgraph import connected_components

from affinity_service.config import GroupConfig
from affinity_service.deadline import check_deadline, seconds_left
from affinity_service.errors import UserError
from affinity_service.grouping.matrix import Floats, Labels, checked_integer
from affinity_service.grouping.partition import groups_of
from affinity_service.tasks.names import task_index

# Seconds for the integer programme that finds groups as the constraints want them.
_SECONDS = 60.0


@dataclass(frozen=True)
class Constraints:
    """Of every partition that `cluster` may return.

    Attributes
    ----------
    min_size, max_size : tasks per group; None sets no upper limit.
    must_link : sets of tasks that share a group. cannot_link : sets of tasks of which no two share one.
    names : of the tasks, for messages.
    """

    min_size: int = 1
    max_size: int | None = None
    must_link: tuple[tuple[int, ...], ...] = ()
    cannot_link: tuple[tuple[int, ...], ...] = ()
    names: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def named(
        cls,
        known: Sequence[str],
        min_size: int = 1,
        max_size: int | None = None,
        must_link: Sequence[Sequence[str]] = (),
        cannot_link: Sequence[Sequence[str]] = (),
    ) -> Constraints:
        """From task names.

        Raises
        ------
        UserError
            A name is unknown or named twice in one set.
        """

        def numbers(sets: Sequence[Sequence[str]], key: str) -> tuple[tuple[int, ...], ...]:
            if isinstance(sets, str) or any(isinstance(own, str) for own in sets):
                raise UserError(f"{key}: found {sets!r}; expected a list of lists of task names")
            try:
                return tuple(tuple(task_index(own, known)) for own in sets)
            except UserError as error:
                raise UserError(f"{key}: {error}") from error

        together, apart = numbers(must_link, "must_link"), numbers(cannot_link, "cannot_link")
        return cls(min_size, max_size, together, apart, tuple(known))

    def called(self, task: int) -> str:
        """How messages call a task."""
        return f"`{self.names[task]}`" if self.names else str(task)

    @property
    def trivial(self) -> bool:
        return self == Constraints()

    def keeps(self, groups: Sequence[Sequence[int]]) -> bool:
        """Whether some of the groups of a partition are as they must be, as far as these groups tell."""
        members = [set(group) for group in groups]
        most = float("inf") if self.max_size is None else self.max_size
        return (
            all(self.min_size <= len(own) <= most for own in members)
            and all(
                own.isdisjoint(together) or own.issuperset(together) for own in members for together in self.must_link
            )
            and all(len(own.intersection(apart)) <= 1 for own in members for apart in self.cannot_link)
        )


UNCONSTRAINED = Constraints()


class Rules:
    """Constraints on T tasks, with the tasks that must be together contracted into *atoms*.

    Attributes
    ----------
    atom_of : (T,) atom of each task. weights : (A,) tasks of each atom. apart : (A, A) bool, symmetric.
    min_size, max_size : tasks per group.

    Raises
    ------
    UserError
        A size or a task is out of range, or two tasks must be both together and apart.
    """

    def __init__(self, constraints: Constraints, tasks: int) -> None:
        self.constraints = constraints
        self.min_size = checked_integer(constraints.min_size, "min_size", 1, tasks, ", the number of tasks")
        most = tasks if constraints.max_size is None else constraints.max_size
        self.max_size = min(tasks, checked_integer(most, "max_size", self.min_size, None))
        together = _pairs(constraints, "must_link", tasks)
        apart = _pairs(constraints, "cannot_link", tasks)
        graph = coo_array((np.ones(len(together)), (together[:, 0], together[:, 1])), shape=(tasks, tasks))
        count, atoms = connected_components(graph, directed=False)
        self.atom_of: Labels = atoms.astype(np.intp)
        self.weights: Floats = np.bincount(self.atom_of, minlength=count).astype(np.float64)
        for one, other in apart.tolist():
            if self.atom_of[one] == self.atom_of[other]:
                pair = f"{constraints.called(one)} and {constraints.called(other)}"
                raise UserError(
                    f"cannot_link: tasks {pair} are to be kept apart, but must_link puts them together, directly or "
                    "through others; drop one of the two"
                )
        self.apart: NDArray[np.bool_] = np.zeros((count, count), dtype=bool)
        self.apart[self.atom_of[apart[:, 0]], self.atom_of[apart[:, 1]]] = True
        self.apart |= self.apart.T
        if (largest := int(self.weights.max())) > self.max_size:
            raise UserError(
                f"max_size: found {self.max_size}, but must_link puts {largest} tasks together; raise max_size"
            )

    def groups_possible(self, max_k: int | None) -> tuple[int, int, int]:
        """The fewest and the most groups that `auto` chooses from, and the most that there can be.

        What the sizes leave room for, up to max_k; where that is None half as many as tasks are enough to choose from,
        but links may ask for more.

        Raises
        ------
        UserError
            There are none.
        """
        tasks = len(self.atom_of)
        low, room = -(-tasks // self.max_size), min(tasks // self.min_size, len(self.weights))
        high = min(room, max(2, tasks // 2, low) if max_k is None else max_k)
        if low > high:
            limit = "" if max_k is None else f" up to max_k {max_k}"
            raise UserError(
                f"k: auto, but {tasks} tasks in groups of {self.min_size} to {self.max_size} make no number of groups "
                f"from {low} to {room}{limit}; change min_size, max_size or must_link"
            )
        return low, high, high if max_k is not None else room

    def nearest_possible(self, k: int, low: int, high: int) -> int:
        """The number of groups from low to high, nearest to k, for which some groups keep the rules.

        Raises
        ------
        UserError
            There is none.
        """
        tasks = len(self.atom_of)
        for candidate in sorted(range(low, high + 1), key=lambda number: (abs(number - k), number)):
            try:
                self.repaired(np.arange(tasks) % candidate, candidate)
            except UserError:
                continue
            return candidate
        raise UserError(
            f"k: auto, but no {low} to {high} groups of {self.min_size} to {self.max_size} tasks keep must_link and "
            "cannot_link; change these"
        )

    def contracted(self, matrix: Floats) -> Floats:
        """(A, A) sums of a (T, T) matrix over the tasks of atoms."""
        tasks = len(self.atom_of)
        member = csr_array((np.ones(tasks), (np.arange(tasks), self.atom_of)), shape=(tasks, len(self.weights)))
        return np.asarray(member.T @ (member.T @ matrix.T).T)

    def repaired(self, labels: Labels, k: int) -> Labels:
        """(A,) groups of the atoms that keep the rules and as many tasks as can be where `labels` (T,) puts them.

        Raises
        ------
        UserError
            No k groups keep the rules, or none were found in a minute.
        """
        if len(groups := groups_of(labels)) == k and self.constraints.keeps(groups):
            first = np.unique(self.atom_of, return_index=True)[1]
            return labels[first]
        atoms = len(self.weights)
        agree = np.zeros((atoms, k))
        np.add.at(agree, (self.atom_of, labels), 1.0)
        each_once = kron(csr_array(np.eye(atoms)), np.ones((1, k)))
        sizes = kron(csr_array(self.weights[None, :]), csr_array(np.eye(k)))
        constraints = [LinearConstraint(each_once, 1, 1), LinearConstraint(sizes, self.min_size, self.max_size)]
        one, other = np.nonzero(np.triu(self.apart))
        if len(one):
            both = np.zeros((len(one), atoms))
            both[np.arange(len(one)), one] = both[np.arange(len(one)), other] = 1
            constraints.append(LinearConstraint(kron(csr_array(both), csr_array(np.eye(k))), -np.inf, 1))
        found = milp(
            -agree.ravel(),
            constraints=constraints,
            integrality=np.ones(atoms * k, dtype=np.int64),
            bounds=Bounds(0, 1),
            options={"time_limit": seconds_left(_SECONDS), "mip_rel_gap": 1e-3},
        )
        check_deadline()
        if found.x is None:
            why = "no such groups exist" if found.status == 2 else f"none were found in {_SECONDS:.0f} s"
            raise UserError(
                f"k: found {k} groups of {self.min_size} to {self.max_size} tasks with {len(one)} pairs of tasks to "
                f"be kept apart: {why}; change k, the sizes or cannot_link"
            )
        chosen: Labels = found.x.reshape(atoms, k).argmax(axis=1).astype(np.intp)
        return chosen


def constraints_of(settings: GroupConfig, names: Sequence[str]) -> Constraints:
    """Of the config, by task number. Raises UserError for a name that the suite does not know."""
    return Constraints.named(names, settings.min_size, settings.max_size, settings.must_link, settings.cannot_link)


def check_possible(constraints: Constraints, tasks: int, k: int | Literal["auto"]) -> None:
    """Raise UserError unless some partition into k groups keeps the constraints."""
    if constraints.trivial:
        return
    rules = Rules(constraints, tasks)
    if k == "auto":
        low, _, most = rules.groups_possible(None)
        rules.nearest_possible(low, low, most)
    else:
        rules.repaired(np.arange(tasks) % k, k)


def _pairs(constraints: Constraints, key: Literal["must_link", "cannot_link"], tasks: int) -> NDArray[np.intp]:
    """(n, 2) pairs of every set."""
    pairs = []
    for own in getattr(constraints, key):
        members = [checked_integer(task, key, 0, tasks - 1, ", a task") for task in own]
        if len(set(members)) < 2 or len(set(members)) < len(members):
            shown = ", ".join(constraints.called(task) for task in members)
            raise UserError(f"{key}: found [{shown}]; expected at least two different tasks")
        pairs += [(one, other) for i, one in enumerate(members) for other in members[i + 1 :]]
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)
