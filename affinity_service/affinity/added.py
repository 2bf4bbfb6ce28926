"""Tasks that were added to a finished study: how they are kept, and estimates of subsets that name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from affinity_service.affinity.build import EXAMPLES, Rows, base_model, base_weights, runs_network
from affinity_service.affinity.calibration import Calibration
from affinity_service.affinity.linearized import LinearizedEstimator
from affinity_service.affinity.network import ValidationNetworks
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.gradients.new_task import NewTask, anchor_with, extended_space, rows_with, with_heads
from affinity_service.tasks.suite import Task

FOLDER = "added/"


def write_added(folder: StudyFolder, new: NewTask) -> None:
    """Keep an added task for as long as the features it belongs to stay."""
    number = len(folder.list(FOLDER, ".json"))
    facts = {"task": asdict(new.task), "energy": new.energy, "gradients": _identity(folder)}
    folder.write_bytes(f"{FOLDER}task-{number:05d}.safetensors", save_safetensors(dict(new.tensors)))
    folder.write_json(f"{FOLDER}task-{number:05d}.json", facts)


def read_added(folder: StudyFolder) -> list[NewTask]:
    """The added tasks whose features fit those that the study holds now, in the order they came."""
    found = []
    for name in folder.list(FOLDER, ".json"):
        facts = folder.read_json(name)
        if facts["gradients"] == _identity(folder):
            tensors = load_safetensors(folder.read_bytes(name.removesuffix(".json") + ".safetensors"))
            found.append(NewTask(Task(**facts["task"]), facts["energy"], tensors))
    return found


def _identity(folder: StudyFolder) -> str | None:
    return (folder.manifest("gradients") or {}).get("identity")


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
    train = rows_with(rows[0], added, len(tasks), "train")
    validation = rows_with(rows[1], added, len(tasks), "validation")
    network = None
    if runs_network(config, base_weights(folder)):
        examples = load_safetensors(folder.read_bytes(EXAMPLES))
        shape = examples["inputs"].shape[1:]
        model = base_model(config, folder, shape, tasks)
        inputs, labels = _examples(examples, added)
        whole = with_heads(model, tasks, config, shape, added)
        network = ValidationNetworks(whole, extended_space(model, whole, config), every, inputs, labels, device)
    factor, stop = calibration.penalty_factor, calibration.stop
    extended = anchor_with(anchor, added)
    return LinearizedEstimator(train, validation, every, config, extended, network, factor, stop, device)


def _examples(own: Mapping[str, Tensor], added: Sequence[NewTask]) -> tuple[Tensor, Tensor]:
    """Inputs and labels (V, T) of the study's validation examples, then of each added task's."""
    first = own["labels"].shape[1]
    parts = [torch.nn.functional.pad(own["labels"], (0, len(added)), value=torch.nan)]
    for number, new in enumerate(added, start=first):
        labels = torch.full((len(new.tensors["labels"]), first + len(added)), torch.nan)
        labels[:, number] = new.tensors["labels"]
        parts.append(labels)
    return torch.cat([own["inputs"], *(new.tensors["inputs"] for new in added)]), torch.cat(parts)
