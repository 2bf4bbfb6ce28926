"""A suite that a stage of the study prepared: arrays in Arrow files, memory-mapped on reading."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from affinity_service.artifacts import StudyFolder
from affinity_service.graphs.blocks import read_block, write_block
from affinity_service.tasks.suite import Suite, Task
from affinity_service.tasks.tokens import TokenRows

INPUTS, TOKENS = "suite/inputs.arrow", "suite/tokens.arrow"
LABELS, CONTENT = "suite/labels.arrow", "suite/tasks.json"


def write_suite(folder: StudyFolder, suite: Suite) -> None:
    """Store a checked and standardised suite."""
    if isinstance(suite.inputs, TokenRows):
        _write_tokens(folder, suite.inputs)
    else:
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
    of_tokens = folder.exists(TOKENS)
    labels = read_block(folder, LABELS).numpy()
    inputs = _read_tokens(folder) if of_tokens else read_block(folder, INPUTS).numpy()
    for array in (labels,) if isinstance(inputs, TokenRows) else (inputs, labels):
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


def _write_tokens(folder: StudyFolder, rows: TokenRows) -> None:
    """A list of tokens per example, and one of which are learned: bytes, as Arrow's bits are no NumPy array."""
    lists = {"tokens": rows.tokens, "learned": rows.learned.view(np.uint8)}
    starts = pa.array(rows.starts)
    batch = pa.record_batch(
        {name: pa.LargeListArray.from_arrays(starts, pa.array(values)) for name, values in lists.items()}
    )
    with folder.writing(TOKENS) as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


def _read_tokens(folder: StudyFolder) -> TokenRows:
    """On a map of the file; Arrow's arrays cannot be written to."""
    batch = pa.ipc.open_file(pa.memory_map(str(folder.local_path(TOKENS)))).get_batch(0)
    tokens, learned = batch.column("tokens"), batch.column("learned")
    return TokenRows(tokens.values.to_numpy(), learned.values.to_numpy().view(bool), tokens.offsets.to_numpy())
