"""A suite that a stage of the study prepared: arrays in Arrow files, memory-mapped on reading."""

from __future__ import annotations

import numpy as np
import torch

from affinity_service.artifacts import StudyFolder
from affinity_service.graphs.blocks import read_block, write_block
from affinity_service.tasks.suite import Suite, Task

INPUTS, LABELS, CONTENT = "suite/inputs.arrow", "suite/labels.arrow", "suite/tasks.json"


def write_suite(folder: StudyFolder, suite: Suite) -> None:
    """Store a checked and standardised suite."""
    write_block(folder, INPUTS, torch.from_numpy(np.ascontiguousarray(suite.inputs)))
    write_block(folder, LABELS, torch.from_numpy(suite.labels))
    content = {
        "tasks": [vars(task) for task in suite.tasks],
        "left_out": [list(entry) for entry in suite.left_out],
        "facts": dict(suite.facts),
        "split": suite.split.tolist(),
    }
    folder.write_json(CONTENT, content)


def read_suite(folder: StudyFolder) -> Suite:
    """The same suite; its inputs and labels cannot be written to."""
    facts = folder.read_json(CONTENT)
    inputs, labels = (read_block(folder, name).numpy() for name in (INPUTS, LABELS))
    for array in (inputs, labels):
        # Writing to the map of a file would end the process.
        array.flags.writeable = False
    return Suite(
        inputs=inputs,
        labels=labels,
        split=np.array(facts["split"], np.int8),
        tasks=tuple(Task(**entry) for entry in facts["tasks"]),
        left_out=tuple((name, reason) for name, reason in facts["left_out"]),
        facts=facts["facts"],
    )
