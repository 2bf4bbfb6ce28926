"""What preparing a graph costs: reading it, its tiles, its hops."""

from __future__ import annotations

from affinity_service.config import Config
from affinity_service.config_graphs import GeneratedGraphSource, GraphSource
from affinity_service.graphs.embedding import HOPS_APART
from affinity_service.graphs.source import has_given_features
from affinity_service.planning.machine import Machine
from affinity_service.planning.memory import TRAIN_REMAINS, WORKER, Bytes, with_common
from affinity_service.planning.workload import Workload

# Bytes per edge while the tiles are sorted (both ways, several numbers of eight bytes each), and that stay on disk for
# both ways.
SORTED_BYTES = 130
TILE_BYTES = 8
# Seconds per edge of reading text, of generating, of sorting into tiles; per number of a neighbour that a hop reads.
READ_SECONDS, GENERATE_SECONDS, TILE_SECONDS, HOP_SECONDS = 2e-7, 8e-7, 4e-7, 2.5e-10
START_SECONDS = 4.0
# Numbers per member of the suite while it is put together, checked and standardised.
ASSEMBLED_COPIES = 4
# Of the inputs of a block's examples; bytes per neighbour in a graph that PyTorch Geometric holds.
GATHERED_COPIES = 2
PYG_BYTES = 40


def suite_flops(config: Config, work: Workload) -> float:
    """A hop adds up one row per edge and direction."""
    assert isinstance(config.data, GraphSource)
    return 2.0 * _rows_added(config.data, work) * work.input_shape[-1]


def suite_seconds(config: Config, work: Workload, machine: Machine, workers: int) -> float:
    source = config.data
    assert isinstance(source, GraphSource)
    read = GENERATE_SECONDS if isinstance(source, GeneratedGraphSource) else READ_SECONDS
    once = work.edges * (read + TILE_SECONDS) + work.suite_bytes / 2e8
    hops = _rows_added(source, work) * work.input_shape[-1] * HOP_SECONDS
    written = _layers(source) * work.nodes * work.input_shape[-1] * _item(source) / 5e8
    return (START_SECONDS + once + (hops + written) / workers) * machine.rates.overhead * machine.rates.slowdown


def suite_bytes(config: Config, work: Workload, machine: Machine, workers: int) -> Bytes:
    source = config.data
    assert isinstance(source, GraphSource)
    width = work.input_shape[-1]
    reading = SORTED_BYTES * work.edges + work.examples * work.tasks * 4
    # A block that is made, in float32, one of each kind that it is made from, and a block's tiles.
    block = min(source.block_rows, work.nodes)
    share = block / max(1, work.nodes)
    hop = workers * (block * width * (3 * 4 + _item(source)) + TILE_BYTES * work.edges * share)
    # Of the last step: the rows of a block's examples.
    rows = workers * GATHERED_COPIES * work.suite_bytes * min(1, share)
    if source.neighbours is not None and source.neighbours.sampler == "pyg":
        rows += workers * PYG_BYTES * _entries(source, work)
    assembling = ASSEMBLED_COPIES * work.suite_bytes
    held = TRAIN_REMAINS + (workers + 1) * WORKER + max(reading, hop, rows, assembling)
    # A directed graph whose embedding is made has tiles of both directions beside its own.
    entries = _entries(source, work) + (2 * work.edges if source.directed and not has_given_features(source) else 0)
    scratch = _layers(source) * work.nodes * width * _item(source) + TILE_BYTES / 2 * entries
    return with_common(machine, work, held, work.suite_bytes + scratch)


def _layers(source: GraphSource) -> int:
    """Layers of features on the disk at a time."""
    return source.hops + 1 + (0 if has_given_features(source) else 2)


def _rows_added(source: GraphSource, work: Workload) -> float:
    """By all hops: those of the embedding go over edges both ways."""
    powers = 0 if has_given_features(source) else HOPS_APART * source.features.iterations
    return powers * 2 * work.edges + source.hops * _entries(source, work)


def _entries(source: GraphSource, work: Workload) -> float:
    return work.edges * (1 if source.directed else 2)


def _item(source: GraphSource) -> int:
    """Bytes of a number while it travels."""
    return 2 if source.precision == "bf16" else 4
