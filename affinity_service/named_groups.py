"""What a study answers about groups and networks, by task name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskGroups:
    """Groups by task name, with the objective and its certified upper bound."""

    tasks: list[list[str]]
    objective: float
    bound: float | None
    method: str
    k: int


@dataclass(frozen=True)
class TaskNetworks:
    """Networks by task name.

    served_by : by task, the number of the network that serves it. loss : mean predicted loss of the tasks there; None
    where affinities were measured while training, which predict none, or every subset is fine-tuned: nothing is trained
    for an answer.
    bound : no choice among the `evaluated` networks that were predicted has a lower loss; None by ``pairs``, whose
    certificate is of averaged pairs. settled : whether the choice is final: all neighbours of the networks were among
    those predicted, or by ``pairs``, no choice has a higher mean affinity.
    """

    tasks: list[list[str]]
    served_by: dict[str, int]
    loss: float | None
    bound: float | None
    evaluated: int
    settled: bool

    @classmethod
    def named(
        cls, tasks: Sequence[str], groups: Sequence[Sequence[int]], served_by: Sequence[int], *facts: Any
    ) -> TaskNetworks:
        """From groups of task integers; `facts` are the other attributes in their order."""
        names = [[tasks[task] for task in group] for group in groups]
        return cls(names, dict(zip(tasks, served_by, strict=True)), *facts)
