"""Graphs of many shapes: what tiles hold, what hops compute, which examples are drawn, what tables keep."""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.config_graphs import GeneratedGraphSource, GraphTablesSource
from affinity_service.graphs.embedding import HOPS_APART, gram, in_large_component, orthonormalising, random_rows
from affinity_service.graphs.examples import sample_examples
from affinity_service.graphs.generate import generate_graph
from affinity_service.graphs.propagate import next_hop, row_scale
from affinity_service.graphs.raw import RawGraph
from affinity_service.graphs.tables import read_graph_tables, write_graph_tables
from affinity_service.graphs.tiles import GraphFacts, Tiles, tile_edges
from tests.unit.graphs.propagate_reference import dense_adjacency, dense_operator
from tests.unit.graphs.test_tables import same

QUICK = settings(max_examples=60, deadline=None)


@st.composite
def edge_lists(draw: st.DrawFn, most_nodes: int = 30) -> tuple[NDArray[np.int64], int]:
    """(E, 2) with duplicates, edges back, self-loops and isolated nodes; and n."""
    nodes = draw(st.integers(1, most_nodes))
    # Of few nodes many meet, of the others many stay alone.
    busy = draw(st.integers(1, nodes))
    pair = st.tuples(st.integers(0, busy - 1), st.integers(0, nodes - 1))
    edges = draw(st.lists(pair, min_size=1, max_size=4 * nodes))
    return np.array(edges, np.int64), nodes


def tiled(edges: NDArray[np.int64], nodes: int, directed: bool, block_rows: int) -> tuple[GraphFacts, list[Tiles]]:
    facts, tiles = tile_edges(edges, nodes, directed, block_rows)
    return facts, list(tiles)


def hop(facts: GraphFacts, tiles: list[Tiles], features: Tensor, normalisation: str) -> Tensor:
    """(n, d) one hop on, by way of what travels."""
    scales = [row_scale(own.degrees, normalisation) for own in tiles]
    travelling = [
        (features[facts.rows(block)] * scale.to(features.dtype)).to(features.dtype)
        for block, scale in enumerate(scales)
    ]
    return torch.cat(
        [next_hop(own, block, travelling.__getitem__).float() / scales[block] for block, own in enumerate(tiles)]
    )


@QUICK
@given(edge_lists(), st.booleans(), st.integers(1, 40))
def test_tiles_hold_exactly_the_distinct_edges(graph, directed, block_rows):
    edges, nodes = graph
    facts, tiles = tiled(edges, nodes, directed, block_rows)
    expected = dense_adjacency(edges, nodes, directed)
    found = torch.zeros(nodes, nodes, dtype=torch.float64)
    for block, own in enumerate(tiles):
        rows = facts.rows(block)
        assert len(own.degrees) == rows.stop - rows.start
        assert own.degrees.tolist() == expected[rows].sum(dim=1).tolist()
        for number, (offsets, neighbours) in enumerate(zip(own.offsets, own.neighbours, strict=True)):
            for row in range(len(own.degrees)):
                places = neighbours[offsets[row] : offsets[row + 1]] + facts.rows(number).start
                assert (places.diff() > 0).all(), "ascending, so none repeats"
                found[rows.start + row, places.long()] += 1
    assert torch.equal(found, expected)
    assert facts.edges == int(expected.sum()) // (1 if directed else 2)
    assert facts.self_loops == (edges[:, 0] == edges[:, 1]).sum()
    assert facts.edges + facts.duplicates + facts.self_loops == len(edges)
    assert facts.isolated == int(((expected.sum(dim=0) + expected.sum(dim=1)) == 0).sum())
    assert facts.nodes == nodes == sum(len(own.degrees) for own in tiles)


@QUICK
@given(edge_lists(), st.booleans(), st.integers(1, 40), st.booleans())
def test_a_hop_is_the_dense_product_whatever_the_blocks(graph, directed, block_rows, short):
    edges, nodes = graph
    normalisation = "mean" if directed else "symmetric"
    dtype, relative = (torch.bfloat16, 4e-2) if short else (torch.float32, 1e-5)
    features = torch.from_numpy(np.random.default_rng(nodes).normal(size=(nodes, 8)).astype(np.float32)).to(dtype)
    for kind in {normalisation, "mean"}:
        operator = dense_operator(edges, nodes, directed, kind)
        found = hop(*tiled(edges, nodes, directed, block_rows), features, kind)
        # Of each row, what rounding can add up to.
        room = relative * (operator @ features.double().abs()) + 1e-6
        assert ((found.double() - operator @ features.double()).abs() <= room).all()
        whole = hop(*tiled(edges, nodes, directed, nodes), features, kind)
        assert ((found - whole).abs().double() <= room).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 25), st.sampled_from([4, 9, 40]))
def test_the_iteration_finds_the_leading_eigenvectors(seed, dimension, block_rows):
    """On connected graphs, where an eigenvalue stands apart from the next."""
    rng = np.random.default_rng(seed)
    nodes = 40
    path = np.stack([np.arange(nodes - 1), np.arange(1, nodes)], axis=1)
    edges = np.concatenate([path, rng.integers(nodes, size=(rng.integers(80), 2))])
    _, tiles = tiled(edges, nodes, False, block_rows)
    values, vectors = torch.linalg.eigh(dense_operator(edges, nodes, False, "symmetric"))
    order = values.abs().argsort(descending=True)
    values, vectors = values[order].abs(), vectors[:, order]
    scales = [row_scale(own.degrees, "symmetric") for own in tiles]
    columns = min(dimension, nodes)
    travelling = [random_rows(len(scale), columns, seed, block) * scale for block, scale in enumerate(scales)]
    for _ in range(150):
        for _ in range(HOPS_APART):
            travelling = [next_hop(own, block, travelling.__getitem__) for block, own in enumerate(tiles)]
        total = sum(gram(own / scale) for own, scale in zip(travelling, scales, strict=True))
        travelling = [own @ orthonormalising(total) for own in travelling]
    found = torch.cat([own / scale for own, scale in zip(travelling, scales, strict=True)]).double()
    for leading in range(1, columns + 1):
        # Seen well by then: what lies behind the last column shrinks by this ratio in every hop.
        if columns < nodes and values[leading - 1] * 0.97 < values[columns]:
            break
        wanted = vectors[:, :leading]
        missed = wanted - found @ torch.linalg.lstsq(found, wanted).solution
        assert float(missed.norm(dim=0).max()) < 1e-2
    if columns < nodes:
        torch.testing.assert_close(found.T @ found, torch.eye(columns).double(), rtol=1e-3, atol=1e-3)


@QUICK
@given(edge_lists(), st.integers(1, 30))
def test_whole_components_take_part_in_the_iteration_or_none_of_their_nodes(graph, dimension):
    edges, nodes = graph
    reached = torch.linalg.matrix_power(dense_operator(edges, nodes, False, "mean"), nodes) > 0
    sizes = reached.sum(dim=1)
    expected = sizes > min(dimension, int(sizes.max()) - 1)
    assert torch.equal(in_large_component(edges, nodes, dimension).flatten().bool(), expected)


@st.composite
def communities(draw: st.DrawFn) -> RawGraph:
    """A graph with tasks that overlap, some with known non-members, maybe with features, a split or ids of text."""
    edges, nodes = draw(edge_lists())
    names = draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=5, unique=True))
    names = [name.encode("utf-8", "replace").decode() for name in names]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    members, others = {}, {}
    for name in dict.fromkeys(names):
        order = rng.permutation(nodes)
        count = rng.integers(1, nodes + 1)
        members[name] = np.sort(order[:count])
        if rng.random() < 0.4 and count < nodes:
            others[name] = np.sort(order[count : count + rng.integers(1, 5)])
    ids = np.array([f"n{i}" for i in range(nodes)], object) if rng.random() < 0.5 else rng.permutation(nodes) * 3 - 7
    features = rng.normal(size=(nodes, 3)).astype(np.float32) if rng.random() < 0.5 else None
    split = rng.integers(-1, 3, size=nodes).astype(np.int8) if rng.random() < 0.5 else None
    return RawGraph("made", ids, edges, members, others, features, split)


@QUICK
@given(communities())
def test_tables_keep_all_of_a_graph(graph):
    with tempfile.TemporaryDirectory() as folder:
        write_graph_tables(graph, folder)
        found = read_graph_tables(folder)
    # Tasks lie in the order of their members, negatives in the same.
    same(found, graph)


@QUICK
@given(
    communities(), st.none() | st.integers(1, 10), st.floats(0.1, 4), st.sampled_from(["members", "nodes"]),
    st.integers(0, 50),
)  # fmt: skip
def test_examples_are_members_and_strangers_within_caps_and_ratios(graph, cap, ratio, pool, seed):
    source = GraphTablesSource(path="g", most_positives=cap, negatives=ratio, negatives_from=pool, sample_seed=seed)
    found = sample_examples(graph, source)
    again = sample_examples(graph, source)
    np.testing.assert_array_equal(found.labels, again.labels)
    np.testing.assert_array_equal(found.split, again.split)
    assert (np.diff(found.nodes) > 0).all(), "one row and so one split per node"
    assert not np.isnan(found.labels).all(axis=1).any(), "every row is an example of something"
    belongs = np.unique(np.concatenate(list(graph.members.values())))
    # Without a given split all nodes are one part.
    part = np.zeros(graph.nodes, np.int8) if graph.split is None else graph.split
    for column, (name, members) in enumerate(graph.members.items()):
        positives, negatives = (found.nodes[found.labels[:, column] == label] for label in (1, 0))
        assert np.isin(positives, members).all()
        assert not np.isin(negatives, members).any()
        there = int((part[members] >= 0).sum())
        assert len(positives) == min(there, cap or there)
        strangers = np.setdiff1d(belongs if pool == "members" else np.arange(graph.nodes), members)
        strangers = graph.others.get(name, strangers)
        if name in graph.others and cap is None:
            np.testing.assert_array_equal(negatives, strangers[part[strangers] >= 0])
            continue
        assert np.isin(negatives, strangers).all()
        for code in range(3):
            count, most = ((part[nodes] == code).sum() for nodes in (positives, strangers))
            least = 0 if graph.split is None or not count else 1
            assert (part[negatives] == code).sum() == min(max(round(ratio * count), least), most)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(20, 300), st.integers(1, 12), st.floats(0.02, 1), st.floats(0, 1), st.floats(0, 0.9),
    st.integers(1, 400), st.integers(0, 99),
)  # fmt: skip
def test_generated_graphs_have_what_was_asked_for(nodes, count, share, loyalty, background, themes, seed):
    source = GeneratedGraphSource(
        nodes=nodes,
        edges=max(1, int(share * nodes * (nodes - 1) // 4)),
        communities=count,
        community_sizes=(2, max(2, nodes // 3)),
        loyalty=loyalty,
        background=background,
        themes=themes,
        seed=seed,
    )
    graph, again = generate_graph(source), generate_graph(source)
    same(graph, again)
    assert len(np.unique(graph.edges, axis=0)) == len(graph.edges) == source.edges
    assert (graph.edges[:, 0] < graph.edges[:, 1]).all()
    assert graph.edges.min() >= 0
    assert graph.edges.max() < nodes
    sizes = [len(np.unique(members)) for members in graph.members.values()]
    assert len(sizes) == count
    assert sizes == sorted(sizes, reverse=True)
    assert all(2 <= size <= max(2, nodes // 3) for size in sizes)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.floats(0, 0.5))
def test_edges_of_a_generated_graph_are_denser_within_communities(seed, background):
    source = GeneratedGraphSource(
        nodes=600, edges=3000, communities=8, community_sizes=(20, 80), background=background, seed=seed
    )
    graph = generate_graph(source)
    together = np.zeros((600, 600), bool)
    for members in graph.members.values():
        together[np.ix_(members, members)] = True
    np.fill_diagonal(together, False)
    inside = together[graph.edges[:, 0], graph.edges[:, 1]].sum() / (together.sum() / 2)
    outside = (~together)[graph.edges[:, 0], graph.edges[:, 1]].sum() / ((~together).sum() / 2)
    assert inside > 3 * outside
    other = generate_graph(source.model_copy(update={"seed": seed + 1}))
    assert not np.array_equal(graph.edges, other.edges)
