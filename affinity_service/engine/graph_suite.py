"""The suite stage of graphs: edge tiles, node features, hops, and the rows of the nodes that are examples.

Every step is a Ray task on one block of nodes that reads and writes blocks; nothing else moves between nodes. An
interrupted stage continues from the blocks that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import ray
import torch

from affinity_service.artifacts import StudyFolder
from affinity_service.config_graphs import GraphSource
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.placement import workers_with_room
from affinity_service.engine.pool import TASK_RETRIES, map_unordered, result
from affinity_service.engine.threads import take_assigned_threads
from affinity_service.graphs.blocks import gram_name, layer_name, layer_names, layer_reader, read_block, write_block
from affinity_service.graphs.embedding import (
    HOPS_APART,
    gram,
    in_large_component,
    orthonormalising,
    random_rows,
    unit_rows,
)
from affinity_service.graphs.examples import Examples, sample_examples
from affinity_service.graphs.propagate import next_hop, row_scale
from affinity_service.graphs.raw import RawGraph
from affinity_service.graphs.source import read_graph
from affinity_service.graphs.tiles import BOTH_WAYS, TILES, GraphFacts, read_tiles, tile_edges, write_tiles
from affinity_service.graphs.trees import example_nodes, gather
from affinity_service.tasks.prepared import CONTENT, read_suite, write_suite
from affinity_service.tasks.source import checked_suite

FACTS, EXAMPLES = "suite/graph.json", "graph/examples.npz"
GIVEN, LARGE, HOP, POWER, ROWS = "given", "large", "hop", "power", "rows"
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@ray.remote
def build_graph(source: GraphSource, folder: StudyFolder) -> None:
    """Read the source once: tiles, given features, examples, and last the facts."""
    graph = read_graph(source)
    examples = sample_examples(graph, source)
    with folder.writing(EXAMPLES) as stream:
        np.savez(stream, nodes=examples.nodes, labels=examples.labels, split=examples.split, tasks=examples.tasks)
    facts = _write_tiles(graph, source.directed, source, folder)
    given = graph.features is not None and source.features.kind != "structural"
    embedded = facts
    if source.directed and not given:
        embedded = _write_tiles(graph, False, source, folder, BOTH_WAYS)
    # What node features begin from: their own, or where the embedding begins with random numbers.
    if graph.features is not None and given:
        start = torch.from_numpy(graph.features)
    else:
        start = in_large_component(graph.edges, graph.nodes, source.features.dimension)
        facts = replace(facts, without_features=int((start == 0).sum()))
    for block in range(facts.blocks):
        write_block(folder, layer_name(GIVEN if given else LARGE, block), start[facts.rows(block)])
    folder.write_json(FACTS, {**facts.to_json(), "given": given, "embedding_entries": embedded.entries})


def _write_tiles(
    graph: RawGraph, directed: bool, source: GraphSource, folder: StudyFolder, kind: str = TILES
) -> GraphFacts:
    facts, tiles = tile_edges(graph.edges, graph.nodes, directed, source.block_rows)
    for block, own in enumerate(tiles):
        write_tiles(folder, block, own, kind)
    return facts


@ray.remote
def make_block(layer: Layer, block: int, facts: GraphFacts, source: GraphSource, folder: StudyFolder) -> None:
    """One block of one layer, unless a process that was lost later has written it."""
    if folder.exists(layer_name(layer.name, block)):
        return
    take_assigned_threads()
    layer.make(block, facts, source, folder)


@dataclass(frozen=True)
class Layer:
    """Features of all nodes, `kind` and number; travelling ones where they are to be propagated."""

    kind: str
    number: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"

    def make(self, block: int, facts: GraphFacts, source: GraphSource, folder: StudyFolder) -> None:
        # Along edges only, every node that none leads to would have an eigenvector for itself.
        both = self.kind == POWER and source.directed
        tiles, dtype = read_tiles(folder, block, BOTH_WAYS if both else TILES), TYPES[source.precision]
        scale = row_scale(tiles.degrees, source.normalisation)
        if self.kind in (POWER, HOP) and self.number:
            before = Layer(self.kind, self.number - 1)
            made = next_hop(tiles, block, layer_reader(folder, before.name))
            if before.turned:
                made = (made.float() @ read_block(folder, before.turn)).to(dtype)
        elif self.kind == POWER:
            rows = random_rows(len(scale), source.features.dimension, source.features.seed, block)
            made = (rows * scale * read_block(folder, layer_name(LARGE, block))).to(dtype)
        elif self.kind == HOP:
            made = (self._start(block, source, folder) * scale).to(dtype)
        else:
            made = self._examples(block, facts, source, folder, scale)
        if self.turned:
            write_block(folder, gram_name(self.name, block), gram(made.float() / scale))
        write_block(folder, layer_name(self.name, block), made)

    @property
    def turned(self) -> bool:
        """Whether the features are made orthonormal when they are next used."""
        return self.kind == POWER and self.number > 0 and self.number % HOPS_APART == 0

    @property
    def turn(self) -> str:
        """The file of the (d, d) matrix that does it."""
        return f"graph/{self.name}/turn.arrow"

    def is_whole(self, facts: GraphFacts, folder: StudyFolder) -> bool:
        return len(folder.sizes(layer_names(self.name, facts.blocks))) == facts.blocks

    def finish(self, facts: GraphFacts, folder: StudyFolder) -> None:
        """Once all blocks are there."""
        if self.turned and not folder.exists(self.turn):
            grams = [read_block(folder, gram_name(self.name, block)) for block in range(facts.blocks)]
            write_block(folder, self.turn, orthonormalising(torch.stack(grams).sum(dim=0)))

    def _start(self, block: int, source: GraphSource, folder: StudyFolder) -> torch.Tensor:
        if folder.exists(layer_name(GIVEN, block)):
            return read_block(folder, layer_name(GIVEN, block))
        last = Layer(POWER, source.features.iterations * HOPS_APART)
        # Unit length does away with the scale that the powers travel with.
        return unit_rows(read_block(folder, layer_name(last.name, block)).float() @ read_block(folder, last.turn))

    def _examples(
        self, block: int, facts: GraphFacts, source: GraphSource, folder: StudyFolder, scale: torch.Tensor
    ) -> torch.Tensor:
        """(examples of the block, hops + 1, d) as they are, no longer travelling; of sampled neighbours (…, d)."""
        rows = facts.rows(block)
        with np.load(folder.local_path(EXAMPLES)) as stored:
            nodes = stored["nodes"]
        own = torch.from_numpy(nodes[(nodes >= rows.start) & (nodes < rows.stop)] - rows.start)
        if source.neighbours is not None:
            return _neighbourhoods(own + rows.start, block, facts, source, folder)
        hops = [layer_reader(folder, Layer(HOP, number).name)(block)[own].float() for number in range(source.hops + 1)]
        return torch.stack([hop / scale[own] for hop in hops], dim=1)


def _neighbourhoods(
    own: torch.Tensor, block: int, facts: GraphFacts, source: GraphSource, folder: StudyFolder
) -> torch.Tensor:
    """Of the examples `own` of a block: (examples, 1 + fanout 1, 1 + fanout 2, …, d), no longer travelling."""
    assert source.neighbours is not None
    stored = layer_reader(folder, Layer(HOP).name)
    sampled = example_nodes(own, source.neighbours, facts, partial(read_tiles, folder), block)
    return gather(sampled, facts, lambda b: (stored(b), row_scale(read_tiles(folder, b).degrees, source.normalisation)))


@ray.remote
def assemble(facts: GraphFacts, source: GraphSource, folder: StudyFolder) -> None:
    """Check and standardise the suite, and store it."""
    parts = [read_block(folder, layer_name(Layer(ROWS).name, block)) for block in range(facts.blocks)]
    raw = _examples(folder).suite(torch.cat(parts).numpy())
    write_suite(folder, checked_suite(replace(raw, facts=facts.counts()), source))


def prepare_graph_suite(context: StageContext) -> StageOutcome:
    config, folder = context.config, context.folder
    source = config.data
    assert isinstance(source, GraphSource)
    workers = workers_with_room("suite", source.workers, config.resources, context.warn)
    options: dict[str, Any] = {"num_cpus": config.resources.cpus, **TASK_RETRIES}
    if not folder.exists(FACTS):
        context.progress(0, 1, "reading the graph")
        result(build_graph.options(**options).remote(source, folder))
    found = folder.read_json(FACTS)
    given, embedding_entries = found.pop("given"), found.pop("embedding_entries")
    facts = GraphFacts(**found)
    warn_of(facts, source.features.dimension, context.warn)
    layers = layers_of(source, given)
    # Once the suite is whole, what it was made from may be half removed.
    if not folder.exists(CONTENT):
        _make(context, options, workers, facts, layers)
        result(assemble.options(**options).remote(facts, source, folder))
    folder.delete("graph/")
    suite = read_suite(folder)
    entries = {POWER: embedding_entries, HOP: facts.entries}
    sums = sum(entries[layer.kind] for layer in layers if layer.kind in entries and layer.number)
    return StageOutcome(2.0 * sums * suite.inputs.shape[-1], workers, suite.content_hash)


def warn_of(facts: GraphFacts, dimension: int, warn: Callable[[str], None]) -> None:
    """What nodes lack, with structural features of this dimension."""
    if facts.isolated:
        warn(f"{facts.isolated} of {facts.nodes} nodes have no edge: their neighbourhoods are they alone")
    if facts.without_features:
        warn(
            f"{facts.without_features} of {facts.nodes} nodes lie in components of at most {dimension} nodes "
            "(data.features.dimension): their structural features are zeros"
        )


def _make(
    context: StageContext, options: dict[str, Any], workers: int, facts: GraphFacts, layers: Sequence[Layer]
) -> None:
    """All layers, from the first that is not there."""
    source, folder = context.config.data, context.folder
    assert isinstance(source, GraphSource)
    # What lies before a finished layer may have been removed.
    first = max((number for number, layer in enumerate(layers) if layer.is_whole(facts, folder)), default=0)
    for number, layer in enumerate(layers[first:], first):
        missing = context.unfinished(layer_names(layer.name, facts.blocks), f"blocks of {layer.name}")

        def submit(_: int, block: int, layer: Layer = layer) -> ray.ObjectRef:
            return make_block.options(**options).remote(layer, block, facts, source, folder)

        before = (number + 1) * facts.blocks - len(missing)
        for done, _ in enumerate(map_unordered(submit, range(workers), missing), 1):
            context.progress(before + done, len(layers) * facts.blocks, "blocks of propagated features")
        layer.finish(facts, folder)
        # Of layers done with, only the hops are asked for again.
        if layer.kind == POWER and number:
            folder.delete(f"graph/{layers[number - 1].name}/")


def layers_of(source: GraphSource, given: bool) -> Sequence[Layer]:
    """In the order in which they are made."""
    last = source.features.iterations * HOPS_APART
    powers = [] if given else [Layer(POWER, number) for number in range(last + 1)]
    return [*powers, *(Layer(HOP, number) for number in range(source.hops + 1)), Layer(ROWS)]


def _examples(folder: StudyFolder) -> Examples:
    with np.load(folder.local_path(EXAMPLES)) as stored:
        return Examples(stored["nodes"], stored["labels"], stored["split"], tuple(stored["tasks"].tolist()))
