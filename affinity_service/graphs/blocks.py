"""Node features on disk: one Arrow file per block of nodes and layer, memory-mapped on reading."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from affinity_service.artifacts import StudyFolder

# Arrow has no bfloat16: its bits are kept as whole numbers.
STORED = {torch.float32: torch.float32, torch.float64: torch.float64, torch.bfloat16: torch.int16}
COLUMN = "features"


def layer_name(layer: str, block: int) -> str:
    return f"graph/{layer}/block-{block:05d}.arrow"


def gram_name(layer: str, block: int) -> str:
    return f"graph/{layer}/gram-{block:05d}.arrow"


def write_block(folder: StudyFolder, name: str, features: Tensor) -> None:
    """Features (rows, …) of float32, float64 or bfloat16."""
    flat = features.contiguous().view(STORED[features.dtype]).flatten()
    # A block may have no rows: of its nodes none is an example.
    width = math.prod(features.shape[1:])
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat.numpy()), width)
    batch = pa.record_batch({COLUMN: column})
    batch = batch.replace_schema_metadata({"shape": ",".join(map(str, features.shape[1:]))})
    with folder.writing(name) as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


def read_block(folder: StudyFolder, name: str) -> Tensor:
    """The same features, on a read-only map of the file: nothing may write to them."""
    batch = pa.ipc.open_file(pa.memory_map(str(folder.local_path(name)))).get_batch(0)
    shape = [int(size) for size in batch.schema.metadata[b"shape"].decode().split(",")]
    values: Tensor = torch.from_dlpack(batch.column(COLUMN).flatten())
    if values.dtype == torch.int16:
        values = values.view(torch.bfloat16)
    return values.view(len(batch), *shape)


def layer_reader(folder: StudyFolder, layer: str) -> Callable[[int], Tensor]:
    """Number of a block → its features."""
    return lambda block: read_block(folder, layer_name(layer, block))


def layer_names(layer: str, blocks: int) -> Sequence[str]:
    return [layer_name(layer, block) for block in range(blocks)]
