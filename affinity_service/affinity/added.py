"""Tasks that were added to a finished study: how they are kept, and estimates of subsets that name them.

One safetensors file per task, named by the fingerprint of the task's name; what is no tensor stands in its metadata.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from affinity_service.affinity.build import (
    EXAMPLES,
    Rows,
    base_model,
    base_weights,
    resolved,
    runs_network,
    study_estimator,
)
from affinity_service.affinity.calibration import Calibration
from affinity_service.affinity.estimates import Estimator, SubsetEstimates, require_losses
from affinity_service.affinity.linearized import LinearizedEstimator
from affinity_service.affinity.network import ValidationNetworks
from affinity_service.artifacts import StudyFolder, fingerprint
from affinity_service.config import Config
from affinity_service.config_models import PretrainedConfig
from affinity_service.errors import UserError
from affinity_service.fitting.task_rows import TaskRows
from affinity_service.gradients.added_rows import anchor_with, rows_with
from affinity_service.gradients.new_task import NewTask, extended_space, with_heads
from affinity_service.tables import safetensors_header
from affinity_service.tasks.suite import Suite, Task

FOLDER = "added/"
# Estimators of subsets with added tasks that are kept, the last ones asked for: each holds the study's rows again.
KEPT = 2
_FACTS = "affinity"


def check_can_add(config: Config, task: str) -> None:
    """Raises UserError for a study that cannot take in a task: it predicts no losses, or its model has no heads."""
    require_losses(config, "add_task")
    if isinstance(config.model, PretrainedConfig):
        raise UserError(
            f"task `{task}`: add_task fits a head to vectors or a graph, not beside models of kind "
            f"{config.model.kind}; put the task's examples into the data and run the study again"
        )


def gradients_identity(folder: StudyFolder) -> str | None:
    """Stands for the features that a study holds now; another one after they were computed again."""
    return (folder.manifest("gradients") or {}).get("identity")


def write_added(folder: StudyFolder, new: NewTask, gradients: str | None) -> None:
    """Keep an added task for as long as the features it belongs to stay.

    Parameters
    ----------
    gradients : what ``gradients_identity`` said before the features' anchor was read for the task.

    Raises
    ------
    UserError
        The features have been computed again since.
    """
    if gradients_identity(folder) != gradients:
        raise UserError(
            f"task `{new.task.name}`: the features of study {folder.root} were computed again while it was being "
            "added; open the study again and add it to the new ones"
        )
    number = 1 + max((facts["number"] for facts in _all_facts(folder).values()), default=-1)
    facts = {"task": asdict(new.task), "energy": new.energy, "gradients": gradients, "number": number}
    content = save_safetensors(dict(new.tensors), {_FACTS: json.dumps(facts)})
    folder.write_bytes(_file_of(new.task.name), content)


def read_added(folder: StudyFolder) -> list[NewTask]:
    """The added tasks whose features fit those that the study holds now, in the order they came."""
    identity = gradients_identity(folder)
    fitting = {name: facts for name, facts in _all_facts(folder).items() if facts["gradients"] == identity}
    return [
        NewTask(Task(**facts["task"]), facts["energy"], load_safetensors(folder.read_bytes(name)))
        for name, facts in sorted(fitting.items(), key=lambda item: (item[1]["number"], item[0]))
    ]


def remove_added(folder: StudyFolder, name: str) -> None:
    """Forget an added task, whatever features it belongs to.

    Raises
    ------
    UserError
        No such task was added.
    """
    if not folder.exists(_file_of(name)):
        there = sorted(facts["task"]["name"] for facts in _all_facts(folder).values())
        listed = ", ".join(f"`{known}`" for known in there) or "none"
        raise UserError(f"task `{name}`: add_task brought no such task to study {folder.root}; it brought {listed}")
    folder.delete(_file_of(name))


def _file_of(name: str) -> str:
    return f"{FOLDER}{fingerprint(name)}.safetensors"


def _all_facts(folder: StudyFolder) -> dict[str, dict[str, Any]]:
    """What is no tensor, by file; of any features."""
    found = {}
    for name in folder.list(FOLDER, ".safetensors"):
        header = folder.reading(name, safetensors_header)
        # Other files are none of ours.
        if _FACTS in header.get("__metadata__", {}):
            found[name] = json.loads(header["__metadata__"][_FACTS])
    return found


def standard_errors(
    subset: Sequence[int], found: SubsetEstimates, calibration: Calibration, count: int, added: Sequence[NewTask]
) -> list[float]:
    """Of the predicted losses of one subset, the first of those found: of the study's own `count` tasks what the probes
    said, or the error over examples where there were none.

    No probe was of an added task: to the error of a usual task is added, in squares, the part of its predicted change
    that stands on gradients which the study does not hold. Of the change from the loss that the head alone reaches that
    part is 1 − energy, and all where the energy is unknown.
    """
    usual, errors = calibration.task_errors, [float(error) for error in found.standard_errors[0]]
    for place, task in enumerate(subset):
        if usual:
            errors[place] = usual[task] if task < count else float(np.median(usual))
        if task >= count:
            new = added[task - count]
            change = float(found.losses[0][place]) - _loss_of_the_head(new)
            errors[place] = float(np.hypot(errors[place], max(1 - (new.energy or 0.0), 0.0) * change))
    return errors


def _loss_of_the_head(new: NewTask) -> float:
    features, margins, targets = (new.tensors[f"validation_{name}"] for name in ("features", "margins", "targets"))
    rows = TaskRows(features, margins, targets, squared=new.task.kind == "regression")
    return float(rows.losses(rows.margins[:, None].double()).mean())


class EstimatorWithAdded:
    """Estimates of subsets of a study's own tasks and, numbered after them, added ones.

    Subsets of its own tasks are left to the study's own estimator, so that added tasks cost them nothing.

    Parameters
    ----------
    own : the estimator of the study's own `count` tasks.
    build : an estimator of those and of the added tasks at the positions that it is given, in their order.
    """

    def __init__(self, own: Estimator, count: int, build: Callable[[tuple[int, ...]], Estimator]) -> None:
        self._own, self._count, self._build = own, count, build
        self._built: OrderedDict[tuple[int, ...], Estimator] = OrderedDict()

    def estimate(self, subsets: Sequence[Sequence[int]]) -> SubsetEstimates:
        """As an ``Estimator`` does, with no coordinates: those of different estimators have nothing in common."""
        chosen = [tuple(subset) for subset in subsets]
        more = [any(task >= self._count for task in subset) for subset in chosen]
        parts = {}
        for with_more in sorted(set(more)):
            own = [subset for subset, found in zip(chosen, more, strict=True) if found == with_more]
            parts[with_more] = iter(_listed(self._with_added(own) if with_more else self._own.estimate(own)))
        losses, errors, epochs, converged = zip(*(next(parts[each]) for each in more), strict=True)
        nothing = [np.zeros(0, np.float32)] * len(chosen)
        return SubsetEstimates(chosen, np.array(epochs), list(losses), list(errors), np.array(converged, bool), nothing)

    def _with_added(self, subsets: Sequence[tuple[int, ...]]) -> SubsetEstimates:
        named = tuple(sorted({task - self._count for subset in subsets for task in subset if task >= self._count}))
        # Taken out and put back, so that the last ones asked for are the last ones there, whoever else asks meanwhile.
        estimator = self._built.pop(named, None) or self._build(named)
        self._built[named] = estimator
        while len(self._built) > KEPT:
            self._built.popitem(last=False)
        number = {self._count + position: self._count + place for place, position in enumerate(named)}
        return estimator.estimate([[number.get(task, task) for task in subset] for subset in subsets])


def _listed(found: SubsetEstimates) -> list[tuple[NDArray, NDArray, int, bool]]:
    return list(zip(found.losses, found.standard_errors, found.epochs, found.converged, strict=True))


def estimator_of_all(
    config: Config,
    folder: StudyFolder,
    rows: Callable[[], tuple[Rows, Mapping[str, Tensor]]],
    tasks: Sequence[Task],
    suite: Callable[[], Suite],
    added: Sequence[NewTask],
    calibration: Calibration,
) -> Estimator | EstimatorWithAdded:
    """The estimator of a study's own tasks and the added ones; arguments as of ``study_estimator``."""
    own = study_estimator(config, folder, rows, tasks, suite)
    if not added:
        return own

    def build(named: tuple[int, ...]) -> Estimator:
        new = [added[position] for position in named]
        return estimator_with_added(resolved(config, folder), folder, *rows(), tasks, new, calibration)

    return EstimatorWithAdded(own, len(tasks), build)


def estimator_with_added(
    config: Config,
    folder: StudyFolder,
    rows: Rows,
    anchor: Mapping[str, Tensor],
    tasks: Sequence[Task],
    added: Sequence[NewTask],
    calibration: Calibration,
    device: str = "cpu",
) -> LinearizedEstimator:
    """The estimator of the study's fits, of its own tasks and, numbered after them, the added ones."""
    every = [*tasks, *(new.task for new in added)]
    head = anchor["own"].shape[1] if "own" in anchor else 0
    train = rows_with(rows[0], added, len(tasks), "train", head)
    validation = rows_with(rows[1], added, len(tasks), "validation", head)
    network = None
    if runs_network(config, base_weights(folder), len(tasks)):
        examples = load_safetensors(folder.read_bytes(EXAMPLES))
        shape = examples["inputs"].shape[1:]
        model = base_model(config, folder, shape, tasks)
        inputs, labels = _examples(examples, added)
        whole = with_heads(model, tasks, config, shape, added)
        network = ValidationNetworks(whole, extended_space(model, whole, config), every, inputs, labels, device)
    extended = anchor_with(anchor, added)
    return LinearizedEstimator(train, validation, every, config, extended, network, calibration, device)


def _examples(own: Mapping[str, Tensor], added: Sequence[NewTask]) -> tuple[Tensor, Tensor]:
    """Inputs and labels (V, T) of the study's validation examples, then of each added task's."""
    first = own["labels"].shape[1]
    parts = [torch.nn.functional.pad(own["labels"], (0, len(added)), value=torch.nan)]
    for number, new in enumerate(added, start=first):
        labels = torch.full((len(new.tensors["labels"]), first + len(added)), torch.nan)
        labels[:, number] = new.tensors["labels"]
        parts.append(labels)
    return torch.cat([own["inputs"], *(new.tensors["inputs"] for new in added)]), torch.cat(parts)
