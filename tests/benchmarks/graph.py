"""Graphs: whole ways, propagation, growth and fidelity, on two cores.

    python -m tests.benchmarks.graph [--only PART,PART …] [--keep FOLDER] [--fidelity]

Parts: propagation, embedding, dblp_100, dblp_500, deezer, generated, growth; all by default.

Whole ways print seconds and peak memory per stage. With `--fidelity`, ten anchor tasks in twenty subsets each are truly
fine-tuned with three seeds (three others tell how far the truth repeats), and every estimator is measured by them.
Graphs of com-DBLP and Deezer lie beside the repository in `../shared/data`; the others are generated.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from affinity_service import Study
from affinity_service.affinity.build import base_model
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine.session import connected
from affinity_service.evaluation.cost import TRAININGS
from affinity_service.evaluation.stacked import split_losses
from affinity_service.graphs.blocks import layer_name, layer_reader, write_block
from affinity_service.graphs.generate import generate_graph
from affinity_service.graphs.propagate import next_hop
from affinity_service.graphs.tiles import read_tiles, tile_edges, write_tiles
from affinity_service.planning.workload import Subsets
from affinity_service.reporter import LogReporter
from affinity_service.tasks.prepared import read_suite
from affinity_service.tasks.suite import VALIDATION as VALIDATION_SPLIT
from tests.benchmarks.real_suites import DATA

LARGEST = Path(__file__).resolve().parents[2] / "ray_jobs" / "configs" / "graph_21m.yaml"
VALIDATION = {"subsets": 200, "anchors": 10, "seeds": 3, "sizes": (2, 8)}
SIGN = {"kind": "sign"}
BATCHES = {"batch_size": 1024}
GRADIENTS = {"dimension": 200, "landmarks": 6000}
ESTIMATORS = ("estimate", "published_recipe", "first_order", "base", "row_mean")
ROUNDS = 5


def dblp(largest: int, **sections: Any) -> dict[str, Any]:
    source = {
        "source": "snap",
        "edges": str(DATA / "com_dblp/com-dblp.ungraph.txt.gz"),
        "communities": str(DATA / "com_dblp/com-dblp.top5000.cmty.txt.gz"),
        "largest": largest,
        **sections.pop("data", {}),
    }
    return {"data": source, "model": SIGN, "base": BATCHES, "validation": VALIDATION, **sections}


def deezer() -> dict[str, Any]:
    source = {
        "source": "snap",
        "edges": str(DATA / "deezer_hu/HU_edges.csv"),
        "communities": str(DATA / "deezer_hu/HU_genres.json"),
        "most_positives": 500,
        "minimum_positives": 50,
    }
    return {"data": source, "model": SIGN, "base": BATCHES, "gradients": GRADIENTS, "validation": VALIDATION}


def largest(**data: Any) -> dict[str, Any]:
    content = Config.load(LARGEST).model_dump(mode="json")
    content["data"] |= data
    return {**content, "validation": {**VALIDATION, "sizes": (10, 10)}}


WORK: dict[str, tuple[Callable[[], dict[str, Any]], str | None, float]] = {
    # Config, data that it needs, minutes asked for.
    "dblp_100": (
        lambda: dblp(100, data={"subgraph": "induced", "most_positives": 500}, gradients=GRADIENTS),
        "com_dblp",
        6,
    ),
    "dblp_500": (
        lambda: dblp(
            500,
            data={"most_positives": 400, "minimum_positives": 10, "minimum_negatives": 10},
            gradients={"dimension": 128},
            fits={"subsets": 4000, "sizes": (10, 10), "tile": 512},
            groups={"k": 20},
            group_models={"start": "base", "seeds": 1, "random_groupings": 1, "single_tasks": 20},
        ),
        "com_dblp",
        15,
    ),
    "deezer": (deezer, "deezer_hu", 6),
    "generated": (largest, None, 20),
}


def whole_way(name: str, folder: Path, fidelity: bool) -> None:
    config, data, minutes = WORK[name]
    if data is not None and not (DATA / data).is_dir():
        print(f"\n## {name}: skipped, its data is not beside this repository")
        return
    start = time.perf_counter()
    study = Study.run(Config.parse(config(), name=name), folder / name, reporter=LogReporter())
    wall = time.perf_counter() - start
    facts = ", ".join(f"{value} {key}" for key, value in study.summary["facts"].items())
    print(f"\n## {name}: {facts}, {len(study.tasks)} tasks, {study.summary['examples']} examples")
    print("| stage | seconds | TFLOP | peak memory GiB |")
    print("|---|---|---|---|")
    stages = [stage for stage in study.folder.read_json("timings.json")["stages"] if stage["name"] != "validation"]
    for stage in stages:
        row = (stage["seconds"], stage["flops"] / 1e12, stage["peak_bytes"] / 2**30)
        print(f"| {stage['name']} | " + " | ".join(f"{x:.1f}" for x in row) + " |")
    peak = max(stage["peak_bytes"] for stage in stages) / 2**30
    spent = sum(stage["seconds"] for stage in stages)
    print(f"whole way: {wall:.0f} s now, stages {spent:.0f} s together (asked {60 * minutes:.0f}), peak {peak:.1f} GiB")
    if fidelity:
        Study.run(Config.parse(config(), name=name), folder / name, reporter=LogReporter(), until="validation")
        found = study.folder.read_json("fidelity.json")
        print_fidelity(found)
        print_parts(study, found["flops_ratio_total"])


def print_fidelity(found: dict[str, Any]) -> None:
    for truth in ("best_validation", "epoch_2", "epoch_5"):
        root = max(0.0, found[truth]["ceiling"]["centred_r"] or 0.0) ** 0.5
        print(f"\n{truth}: √ρ {root:.3f}, {len(found['anchors'])} anchors, {found['subsets']} subsets")
        print("| estimator | centred r | of √ρ | relative distance | squared | regret ×1e4 | Spearman |")
        print("|---|---|---|---|---|---|---|")
        for name in ESTIMATORS:
            own = found[truth][name]
            r = own["centred_r"]
            cells = [f"{r:.3f}", f"{r / root:.2f}"] if r is not None and root else ["–", "–"]
            cells += [f"{100 * own[m]:.2f}%" for m in ("relative_distance", "relative_distance_squared")]
            cells += [f"{1e4 * own['regret']:.1f}", f"{own['spearman']:.3f}" if own["spearman"] is not None else "–"]
            print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"coverage of 90% intervals: {found['best_validation']['estimate'].get('coverage_90')}")
    for ratio in ("flops_ratio_model", "flops_ratio_total", "seconds_ratio"):
        print(f"{ratio}: {found[ratio]:.4f}")


def print_parts(study: Study, ratio: float) -> None:
    """What of `flops_ratio_total` every stage is."""
    flops = {stage["name"]: stage["flops"] for stage in study.folder.read_json("timings.json")["stages"]}
    scale = TRAININGS / Subsets.larger_count(study.config, len(study.tasks))
    parts = {"base_model": flops["base_model"], "gradients": flops["gradients"], "fits": scale * flops["fits"]}
    shares = ", ".join(f"{name} {ratio * own / sum(parts.values()):.4f}" for name, own in parts.items())
    print(f"flops_ratio_total by stage: {shares}")


def propagation(folder: Path) -> None:
    """One hop over 21 million undirected edges and 128 features: torch's CSR product, and blocks in memory and on
    disk, alternating."""
    source = Config.load(LARGEST).data
    graph = generate_graph(source)
    scratch = StudyFolder.at(folder / "propagation")
    facts, tiles = tile_edges(graph.edges, graph.nodes, False, source.block_rows)
    features = torch.randn(facts.nodes, 128)
    for block, own in enumerate(tiles):
        write_tiles(scratch, block, own)
        write_block(scratch, layer_name("from", block), features[facts.rows(block)])
    every = [read_tiles(scratch, block) for block in range(facts.blocks)]
    parts = [features[facts.rows(block)] for block in range(facts.blocks)]
    a, b = graph.edges.T
    keys = np.sort(np.concatenate([a * facts.nodes + b, b * facts.nodes + a]))
    row, column = np.divmod(keys, facts.nodes)
    offsets = np.searchsorted(row, np.arange(facts.nodes + 1)).astype(np.int32)
    matrix = torch.sparse_csr_tensor(
        torch.from_numpy(offsets),
        torch.from_numpy(column.astype(np.int32)),
        torch.ones(len(column)),
        size=(facts.nodes, facts.nodes),
        check_invariants=False,
    )
    del graph, keys, row, column

    def in_memory() -> None:
        for block in range(facts.blocks):
            next_hop(every[block], block, parts.__getitem__)

    def out_of_core() -> None:
        for block in range(facts.blocks):
            made = next_hop(read_tiles(scratch, block), block, layer_reader(scratch, "from"))
            write_block(scratch, layer_name("to", block), made)

    seconds: dict[str, list[float]] = {"torch CSR": [], "blocks in memory": [], "blocks on disk": []}
    for _ in range(ROUNDS):
        for name, work in zip(seconds, (lambda: matrix @ features, in_memory, out_of_core), strict=True):
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    reference = float(np.median(seconds["torch CSR"]))
    print(
        f"\n## propagation: {facts.nodes} nodes, {facts.edges} edges, 128 features, {torch.get_num_threads()} threads"
    )
    print("| one hop | median seconds | of torch's |")
    print("|---|---|---|")
    for name, times in seconds.items():
        print(f"| {name} | {np.median(times):.2f} | {np.median(times) / reference:.2f} |")
    scratch.delete("graph/")


def embedding(folder: Path) -> None:
    """What structural features are worth on com-DBLP: the base model's validation loss and average precision."""
    if not (DATA / "com_dblp").is_dir():
        print("\n## embedding: skipped, its data is not beside this repository")
        return
    cases = {
        "128 dimensions, 12 iterations": {},
        "128 dimensions, 24 iterations": {"iterations": 24},
        "128 dimensions, 1 iteration: nearly random": {"iterations": 1},
        "64 dimensions, 12 iterations": {"dimension": 64},
    }
    print("\n## structural features of com-DBLP, 100 communities")
    print("| features | seconds of the stage | validation loss | mean average precision |")
    print("|---|---|---|---|")
    for number, (name, features) in enumerate(cases.items()):
        data = {"subgraph": "induced", "most_positives": 500, "features": features}
        config = Config.parse(dblp(100, data=data), name=f"embedding-{number}")
        study = Study.run(config, folder / config.name, reporter=LogReporter(), until="base_model")
        suite = read_suite(study.folder)
        model = base_model(config, study.folder, suite.inputs.shape[1:], suite.tasks)
        rows = suite.rows(VALIDATION_SPLIT)
        with torch.no_grad():
            logits = model.eval()(torch.tensor(suite.inputs[rows])).numpy()
        known = suite.observed[rows]
        precision = [
            average_precision_score(suite.labels[rows][known[:, t], t], logits[known[:, t], t])
            for t in range(len(suite.tasks))
        ]
        loss = np.nanmean(split_losses(model, suite, VALIDATION_SPLIT))
        seconds = study.folder.read_json("timings.json")["stages"][0]["seconds"]
        print(f"| {name} | {seconds:.1f} | {loss:.4f} | {np.mean(precision):.3f} |")


def growth(folder: Path) -> None:
    """Seconds of the whole way, less the start of processes, when edges or tasks double."""
    small = {"nodes": 200_000, "edges": 4_000_000, "communities": 500, "largest": 120}
    cases = {
        "as it is": small,
        "edges doubled": {**small, "nodes": 400_000, "edges": 8_000_000},
        "tasks doubled": {**small, "communities": 1000, "largest": 240},
    }
    print("\n## growth")
    print("| case | seconds of stages | of the first |")
    print("|---|---|---|")
    first = None
    for name, data in cases.items():
        content = largest(**data)
        # As many subsets per task, and enough for every pair.
        content["fits"]["subsets"] = 8 * data["largest"]
        content["name"] = name.replace(" ", "-")
        config = Config.parse(content)
        study = Study.run(config, folder / f"growth-{config.name}", reporter=LogReporter(), until="groups")
        spent = sum(stage["seconds"] for stage in study.folder.read_json("timings.json")["stages"])
        first = first or spent
        print(f"| {name} | {spent:.0f} | {spent / first:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(["propagation", "embedding", *WORK, "growth"]))
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--fidelity", action="store_true")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    wanted = options.only.split(",")
    if "propagation" in wanted:
        propagation(folder)
    with connected():
        if "embedding" in wanted:
            embedding(folder)
        for name in WORK:
            if name in wanted:
                whole_way(name, folder, options.fidelity)
        if "growth" in wanted:
            growth(folder)


if __name__ == "__main__":
    main()
