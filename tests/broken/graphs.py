"""Graphs broken in one seeded way each: edge lists, communities, folders of tables, settings."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from affinity_service.config import Config
from affinity_service.graphs.importing import import_graph
from affinity_service.graphs.raw import RawGraph
from affinity_service.graphs.snap import read_snap
from affinity_service.graphs.tables import write_graph_tables
from affinity_service.tasks.source import planned_suite
from tests.broken.cases import Case, Workspace
from tests.broken.configs import misspelt

NODES, COMMUNITIES = 90, 3
WORDS = ("x", "1.5", "nan", "", "-", "1e3", "9" * 30, "\N{SNOWMAN}", "1,2", "\0")


def valid_graph() -> RawGraph:
    rng = np.random.default_rng(0)
    path = np.stack([np.arange(NODES), np.roll(np.arange(NODES), 1)], axis=1)
    edges = np.concatenate([path, rng.integers(NODES, size=(200, 2))])
    members = {f"community_{k}": np.sort(rng.choice(NODES, 40, replace=False)) for k in range(COMMUNITIES)}
    features = rng.normal(size=(NODES, 2)).astype(np.float32)
    return RawGraph("made", np.arange(NODES), edges, members, features=features)


def load(work: Workspace, data: dict[str, Any]) -> Case:
    """The case of a config on this data; what it must name is put in by who breaks it."""
    path = work.write(yaml.safe_dump({"name": "a", "data": data}, allow_unicode=True), ".yaml")
    return Case("", lambda: planned_suite(Config.load(path).data))


def snap_files(work: Workspace) -> tuple[Path, Path, list[str], list[str]]:
    """Two valid files, and their lines."""
    graph = valid_graph()
    edges = ["# a comment", *(f"{a}\t{b}" for a, b in graph.edges)]
    communities = ["\t".join(map(str, nodes)) for nodes in graph.members.values()]
    return work.write("", "-edges.txt"), work.write("", "-communities.txt"), edges, communities


def bad_snap(rng: random.Random, work: Workspace) -> Case:
    edges_file, communities_file, edges, communities = snap_files(work)
    row, community = rng.randrange(1, len(edges)), rng.randrange(COMMUNITIES)
    change = rng.choice(["word", "columns", "one column", "member", "stranger", "no edges", "no communities", "bytes"])
    named: list[tuple[str, ...]] = [(edges_file.name,)]
    if change == "word":
        edges[row] = f"{rng.choice(WORDS)}\t{row}"
        named.append((f"line {row + 1}:",))
    elif change == "columns":
        edges[row] += "\t0.5"
        named.append((f"line {row + 1}:", "column"))
    elif change == "one column":
        edges[row] = str(row)
        named.append((f"line {row + 1}:",))
    elif change in ("member", "stranger"):
        word = (
            rng.choice(["x", "1.5", "-", "9" * 30, "1e3"]) if change == "member" else str(rng.choice([-1, 90, 10**6]))
        )
        communities[community] += f"\t{word}"
        named = [(communities_file.name,), (f"line {community + 1}:", f"`community_{community}`")]
    elif change == "no edges":
        edges = edges[:1]
    elif change == "no communities":
        communities, named = [], [(communities_file.name,)]
    content = "\n".join(edges).encode()
    if change == "bytes":
        at = rng.randrange(len(content))
        content = content[:at] + rng.choice([b"\xff\xfe", b"\0", b"\x80"]) + content[at:]
        named = []
    edges_file.write_bytes(content)
    communities_file.write_text("\n".join(communities))
    if rng.random() < 0.3:
        out = str(work.root / f"graph{work.count}")
        return Case(
            f"import snap {change}",
            lambda: import_graph(lambda: read_snap(str(edges_file), str(communities_file)), out),
            named,
        )
    data = {"source": "snap", "edges": str(edges_file), "communities": str(communities_file)}
    return Case(f"snap {change} at {row}", load(work, data).action, named)


def cut_archive(rng: random.Random, work: Workspace) -> Case:
    edges_file, communities_file, edges, communities = snap_files(work)
    communities_file.write_text("\n".join(communities))
    packed = edges_file.with_suffix(".txt.gz")
    whole = gzip.compress("\n".join(edges).encode())
    packed.write_bytes(whole[: rng.randrange(len(whole))])
    data = {"source": "snap", "edges": str(packed), "communities": str(communities_file)}
    return Case("snap cut off", load(work, data).action, [(packed.name,)])


def bad_graph_tables(rng: random.Random, work: Workspace) -> Case:
    folder = work.root / f"graph{work.count}"
    work.count += 1
    write_graph_tables(valid_graph(), str(folder))
    name = rng.choice(["nodes", "edges", "labels"])
    file = folder / f"{name}.parquet"
    table = pq.read_table(file)
    columns = {"nodes": ["node"], "edges": ["source", "target"], "labels": ["node", "task"]}
    column = rng.choice(columns[name])
    place = table.column_names.index(column)
    change = rng.choice(["cut", "flip", "gone", "no column", "null", "unknown", "kind", "no rows", "repeated"])
    named: list[tuple[str, ...]] = [(".parquet", folder.name)]
    if change in ("cut", "flip"):
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(content) if change == "flip" else bytes(content[: rng.randrange(len(content))]))
    elif change == "gone":
        file.unlink()
        named.append((file.name,))
    elif change == "no rows":
        pq.write_table(table.slice(0, 0), file)
    else:
        values = table[column].to_pylist()
        if change == "null":
            values[rng.randrange(len(values))] = None
        elif change == "unknown":
            values[rng.randrange(len(values))] = "t" if column == "task" else 10**6
        elif change == "kind":
            values = rng.choice([[1.5] * len(values), [[1]] * len(values), [b"\xff"] * len(values)])
        elif change == "repeated":
            values[1] = values[0]
        table = (
            table.drop_columns([column]) if change == "no column" else table.set_column(place, column, pa.array(values))
        )
        pq.write_table(table, file)
        if change in ("null", "no column"):
            named += [(file.name,), (f"`{column}`",)]
    return Case(f"{name} {change} {column}", load(work, {"source": "graph", "path": str(folder)}).action, named)


def bad_graph_settings(rng: random.Random, work: Workspace) -> Case:
    folder = work.root / f"graph{work.count}"
    work.count += 1
    write_graph_tables(valid_graph(), str(folder))
    settings, named = rng.choice(
        [
            ({"tasks": [misspelt(rng, "community_0")]}, "community_0"),
            ({"tasks": ["community_0", "community_0"]}, "`community_0`"),
            ({"largest": rng.choice([0, 4, 99])}, "largest"),
            ({"tasks": ["community_0"], "largest": 1}, "largest"),
            ({"tasks": ["community_1"], "minimum_positives": 41}, "`community_1`"),
            ({"minimum_negatives": 100}, "`community_0`"),
            ({"block_rows": 0}, "block_rows"),
            ({"hops": -1}, "hops"),
            ({"directed": True}, "directed"),
            ({"negatives": 0}, "negatives"),
            ({"features": {"kind": "own"}}, "features.kind"),
            ({"features": {"dimension": 0}}, "features.dimension"),
            ({"precision": "fp16"}, "precision"),
            ({"path": str(folder / "nodes.parquet")}, "nodes.parquet"),
            ({"path": str(folder) + "x"}, folder.name),
        ]
    )
    data = {"source": "graph", "path": str(folder), **settings}
    return Case(f"{settings}", load(work, data).action, [(named,)])
