"""Inputs of the fits: checked once, turned into tensors, with errors that name what is wrong."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from affinity_service.errors import UserError

Kind = Literal["logistic", "squared"]
Array = np.ndarray | Tensor


@dataclass(frozen=True)
class Rows:
    """Examples of all tasks: features (N, d), margins (N,), targets (N,), task (N,), kinds per task."""

    features: Tensor
    margins: Tensor
    targets: Tensor
    task: Tensor
    kinds: tuple[Kind, ...]

    @property
    def n_tasks(self) -> int:
        return len(self.kinds)


@dataclass(frozen=True)
class Members:
    """Which tasks are in which subset, as flat pairs in the order of the subsets.

    `subset` and `task` (P,) int64 on the CPU, `size` (M,) int64: tasks per subset.
    """

    subset: Tensor
    task: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.size)

    def take(self, which: Tensor) -> "Members":
        """The given subsets, renumbered from 0 in the given (ascending) order."""
        number = torch.full((len(self),), -1)
        number[which] = torch.arange(len(which))
        renumbered = number[self.subset]
        keep = renumbered >= 0
        return Members(renumbered[keep], self.task[keep], self.size[which])


def as_tensor(values: Any, name: str) -> Tensor:
    """A tensor over the caller's memory where possible; integers, booleans and half floats become float32."""
    try:
        tensor = values.detach() if isinstance(values, Tensor) else _wrap(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is not a numeric array: {error}") from error
    if tensor.is_complex():
        raise UserError(f"{name} has dtype {tensor.dtype}; real numbers are expected")
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.to(torch.float32)


def _wrap(array: np.ndarray) -> Tensor:
    """A tensor over the array's memory. Nothing here writes to it, so read-only arrays need no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        # torch knows no negative strides.
        return torch.from_numpy(array if all(stride >= 0 for stride in array.strides) else array.copy())


def check_finite(tensor: Tensor, name: str) -> None:
    """Names the first row (and column) that is NaN or infinite."""
    # A sum is one pass without a temporary; only a suspicious one is worth the exact look.
    if bool(torch.isfinite(tensor.sum())):
        return
    bad = torch.nonzero(~torch.isfinite(tensor))
    if len(bad) == 0:
        return
    where = bad[0].tolist()
    place = f"row {where[0]}" + (f", column {where[1]}" if len(where) > 1 else "")
    value = float(tensor[tuple(where)])
    raise UserError(
        f"{name} has {len(bad)} values that are not finite, the first at {place} ({value}); "
        "finite numbers are expected: drop or impute these examples"
    )


def check_rows(features: Any, margins: Any, targets: Any, task_of_row: Any, kinds: Sequence[str] | None) -> Rows:
    """Rows from the caller's arrays. Raises UserError on shapes, NaN, unknown kinds and bad targets."""
    x = as_tensor(features, "features")
    if x.dim() != 2:
        raise UserError(f"features has shape {tuple(x.shape)}; (rows, dimensions) is expected")
    n = x.shape[0]
    vectors = {}
    for name, values in (("margins", margins), ("targets", targets)):
        vector = as_tensor(values, name)
        if vector.shape != (n,):
            raise UserError(f"{name} has shape {tuple(vector.shape)}; features has {n} rows, so ({n},) is expected")
        check_finite(vector, name)
        vectors[name] = vector.to(x.device)
    check_finite(x, "features")
    task = _task_ids(task_of_row, n)
    n_tasks = int(task.max()) + 1 if n else 0
    task_kinds = _check_kinds(kinds, n_tasks)
    rows = Rows(x, vectors["margins"], vectors["targets"], task.to(x.device), task_kinds)
    _check_targets(rows)
    return rows


def _task_ids(task_of_row: Any, n: int) -> Tensor:
    try:
        task = task_of_row.detach() if isinstance(task_of_row, Tensor) else _wrap(np.asarray(task_of_row))
    except (TypeError, ValueError) as error:
        raise UserError(f"task_of_row is not an array of integers: {error}") from error
    if task.shape != (n,):
        raise UserError(f"task_of_row has shape {tuple(task.shape)}; features has {n} rows, so ({n},) is expected")
    if n == 0:
        return torch.zeros(0, dtype=torch.int64)
    if task.dtype.is_floating_point or task.dtype == torch.bool or task.is_complex():
        raise UserError(f"task_of_row has dtype {task.dtype}; integer task numbers are expected")
    task = task.to("cpu", torch.int64)
    if int(task.min()) < 0:
        row = int(torch.nonzero(task < 0)[0])
        raise UserError(f"task_of_row has {int(task[row])} at row {row}; task numbers start at 0")
    return task


def _check_kinds(kinds: Sequence[str] | None, n_tasks: int) -> tuple[Kind, ...]:
    if kinds is None:
        default: Kind = "logistic"
        return (default,) * n_tasks
    if isinstance(kinds, str):
        raise UserError(f"kinds is the string {kinds!r}; a sequence with one kind per task is expected")
    checked: list[Kind] = []
    for task, kind in enumerate(kinds):
        if kind != "logistic" and kind != "squared":
            raise UserError(f"kinds has {kind!r} for task {task}; 'logistic' or 'squared' is expected")
        checked.append("logistic" if kind == "logistic" else "squared")
    if len(checked) < n_tasks:
        raise UserError(
            f"kinds names {len(checked)} tasks but task_of_row has task {n_tasks - 1}; "
            f"one kind for each of at least {n_tasks} tasks is expected"
        )
    return tuple(checked)


def _check_targets(rows: Rows) -> None:
    wrong = (rows.targets != 0) & (rows.targets != 1)
    if "squared" in rows.kinds:
        logistic = torch.tensor([kind == "logistic" for kind in rows.kinds], device=rows.task.device)
        wrong &= logistic[rows.task]
    if bool(wrong.any()):
        row = int(torch.nonzero(wrong)[0])
        raise UserError(
            f"targets has {float(rows.targets[row])} at row {row} of task {int(rows.task[row])}, a logistic task; "
            "0 or 1 is expected (kinds='squared' for a regression task)"
        )


def check_subsets(subsets: Iterable[Iterable[int]], task_of_row: Tensor, n_tasks: int) -> Members:
    """Members of the subsets. Raises UserError on empty subsets, repeated, unknown and empty tasks."""
    lists = [_as_list(subset, number) for number, subset in enumerate(subsets)]
    size = torch.tensor([len(tasks) for tasks in lists], dtype=torch.int64)
    if len(lists) and int(size.min()) == 0:
        raise UserError(f"subset {int(size.argmin())} is empty; every subset needs at least one task")
    flat = np.fromiter((task for tasks in lists for task in tasks), np.int64, int(size.sum()))
    task = torch.from_numpy(flat)
    subset = torch.repeat_interleave(torch.arange(len(lists)), size)
    if len(task) == 0:
        return Members(subset, task, size)
    unknown = torch.nonzero((task < 0) | (task >= n_tasks)).flatten()
    if len(unknown):
        number, bad = int(subset[unknown[0]]), int(task[unknown[0]])
        raise UserError(
            f"subset {number} contains task {bad}, which is unknown: "
            + (f"tasks 0 to {n_tasks - 1} are expected" if n_tasks else "there are no rows at all")
        )
    count = torch.bincount(task_of_row.to("cpu"), minlength=n_tasks)
    missing = torch.nonzero(count[task] == 0).flatten()
    if len(missing):
        number, bad = int(subset[missing[0]]), int(task[missing[0]])
        raise UserError(
            f"subset {number} contains task {bad}, which has no rows in task_of_row; "
            "give it examples or leave it out of the subsets"
        )
    key, _ = torch.sort(subset * n_tasks + task)
    twice = torch.nonzero(key[1:] == key[:-1]).flatten()
    if len(twice):
        number, bad = divmod(int(key[twice[0]]), n_tasks)
        raise UserError(f"subset {number} contains task {bad} more than once; a subset is a set of distinct tasks")
    return Members(subset, task, size)


def _as_list(subset: Any, number: int) -> list[int]:
    values = subset.tolist() if isinstance(subset, np.ndarray | Tensor) else subset
    try:
        tasks = list(values)
    except TypeError:
        raise UserError(f"subset {number} is {subset!r}; a list of task numbers is expected") from None
    if set(map(type, tasks)) == {int}:
        return tasks
    for task in tasks:
        if isinstance(task, bool) or not isinstance(task, int | np.integer):
            raise UserError(f"subset {number} contains {task!r}; integer task numbers are expected")
    return tasks


def check_l2(l2: Any, n_subsets: int) -> Tensor:
    """l2 per subset (M,) float64 on the CPU. Raises UserError unless all are positive and finite."""
    try:
        values = torch.as_tensor(l2, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"l2 is {l2!r}; a positive number or one per subset is expected") from error
    if values.dim() == 0:
        values = values.expand(n_subsets)
    if values.shape != (n_subsets,):
        raise UserError(
            f"l2 has shape {tuple(values.shape)}; one number or ({n_subsets},), one per subset, is expected"
        )
    wrong = torch.nonzero(~((values > 0) & torch.isfinite(values))).flatten()
    if len(wrong):
        number = int(wrong[0])
        raise UserError(
            f"l2 is {float(values[number])} for subset {number}; a positive finite number is expected: without it "
            "separable labels have no minimum. A small value such as 1e-4 comes close to no penalty"
        )
    return values
