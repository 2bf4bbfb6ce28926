"""Heads of the models in a stack: only as many as the largest run has tasks, not one for every task of the suite."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affinity_service.models.heads import TaskHeads, task_heads
from affinity_service.tasks.suite import Kind, Task

# What makes the heads and losses of two tasks interchangeable.
Form = tuple[Kind, int]


def forms(tasks: Iterable[Task]) -> Counter[Form]:
    """How many heads of which kind and width some tasks need; ``|`` of two such counts serves either."""
    return Counter((task.kind, task.outputs) for task in tasks)


@dataclass(frozen=True)
class HeadSlots:
    """Which task's head lies where in each model of a stack: every model has the same slots, some of which are empty.

    Attributes
    ----------
    tasks : S tasks whose kinds and widths the slots have.
    task_in : (M, S) the task in each slot of a model, `empty` where there is none.
    empty : the number of all tasks.
    """

    tasks: tuple[Task, ...]
    task_in: NDArray[np.int64]
    empty: int

    @classmethod
    def of(cls, runs: Sequence[Sequence[int]], tasks: Sequence[Task]) -> HeadSlots:
        """runs : tasks of each model. Tasks of one form lie in its slots in their order."""
        form_of = [(task.kind, task.outputs) for task in tasks]
        needed = reduce(or_, (forms(tasks[t] for t in run) for run in runs))
        slots = [form for form, number in needed.items() for _ in range(number)]
        task_in = np.full((len(runs), len(slots)), len(tasks), np.int64)
        for row, run in zip(task_in, runs, strict=True):
            for form in needed:
                own = [t for t in run if form_of[t] == form]
                first = slots.index(form)
                row[first : first + len(own)] = own
        return cls(tuple(tasks[form_of.index(form)] for form in slots), task_in, len(tasks))

    def compact(self, model: nn.Module) -> nn.Module:
        """The model with the slots for heads, as a form to call with weights: its own heads are not copied, and those
        of the slots have shapes only."""
        _, heads = task_heads(model)
        with torch.device("meta"):
            slots = TaskHeads(heads.width, self.tasks)
        return copy.deepcopy(model, {id(heads): slots})

    def whole_names(self, prefix: str, number: int) -> dict[str, str | None]:
        """Parameters of the heads of compact model `number` and what they are called in the whole model, None of empty
        slots. prefix : as ``task_heads`` gives it."""
        found: dict[str, str | None] = {}
        for slot, task in enumerate(self.task_in[number].tolist()):
            for name, whole in zip(TaskHeads.names(slot), TaskHeads.names(task), strict=True):
                found[prefix + name] = None if task == self.empty else prefix + whole
        return found


def gather(
    whole: Mapping[str, Tensor], names: Mapping[str, str | None], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Weights of a compact model, whose parameters have these shapes, out of the whole one's; empty slots are 0."""
    sources = {name: names.get(name, name) for name in shapes}
    return {name: torch.zeros(shapes[name]) if own is None else whole[own] for name, own in sources.items()}


def scatter(
    whole: Mapping[str, Tensor], names: Mapping[str, str | None], compact: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The other way: the whole model's weights, in which those that the compact one has are replaced."""
    found = dict(whole)
    for name, weight in compact.items():
        own = names.get(name, name)
        if own is not None:
            found[own] = weight
    return found
