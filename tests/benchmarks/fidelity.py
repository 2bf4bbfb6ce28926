"""Which estimates know the partners that help: every estimator against true fine-tuning, on real data.

    python -m tests.benchmarks.fidelity [--sets yeast,school] [--splits 5] [--keep FOLDER]

Per data set and split: a base model, 100 subsets of 2 to 8 tasks, the truth as the mean of three seeds (three others
tell how far it repeats), three projection seeds of the published recipe, two trainings of the linearised network, and
TAG's affinities measured while the base model trained.
Probes and their seeds are others than those reported. Medians over splits, in brackets the least and greatest.
The studies are the service's own, with its defaults; kept in FOLDER, finished ones are not run again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from affinity_service import Study
from affinity_service.config import Config
from affinity_service.engine.session import connected
from affinity_service.reporter import LogReporter
from tests.benchmarks.real_suites import SUITES, available
from tests.suites import write_suite

SUBSETS, SEEDS, ORACLES = 100, 3, 2
METRICS = (("centred_r", "centred r"), ("centred_r2", "R²"), ("regret", "regret ×1e4"), ("spearman", "Spearman"))
METRICS += (("relative_distance", "distance"), ("skill", "skill"))
ESTIMATORS = ("estimate", "oracle", "published_recipe", "first_order")
ESTIMATORS += ("tag_lookahead", "tag_first_order", "tag_cosine", "base", "row_mean")
TRUTHS = ("epoch_2", "epoch_5", "best_validation")


def config_of(name: str, split: int, folder: Path) -> Config:
    suite = SUITES[name](split)
    path = folder / f"{name}-{split}.parquet"
    return Config.parse(
        {
            "name": f"{name}-{split}",
            "data": {
                "source": "parquet",
                "path": write_suite(suite, path),
                "split_column": "part",
                "tasks": {task.name: task.kind for task in suite.tasks},
            },
            "base": {"seed": split},
            # TAG's affinities, measured on the way to the same base model.
            "measure": {"always": True},
            "fits": {"subsets": 200},
            "validation": {"subsets": SUBSETS, "seeds": SEEDS, "oracle_seeds": ORACLES, "sizes": (2, 8)},
        }
    )


def median(values: list[float | None], scale: float = 1.0) -> str:
    known = [value * scale for value in values if value is not None]
    if not known:
        return "–"
    return f"{np.median(known):.3f} [{min(known):.3f} {max(known):.3f}]"


def print_set(name: str, found: list[dict[str, Any]]) -> None:
    print(f"\n## {name}: {len(found)} splits, {SUBSETS} subsets")
    for truth in TRUTHS:
        ceilings = [f[truth]["ceiling"]["centred_r"] for f in found]
        roots = [max(0.0, rho) ** 0.5 for rho in ceilings]
        print(f"\n{truth}: reliability ρ {median(ceilings)}, √ρ {median(roots)}")
        print("| estimator | " + " | ".join(words for _, words in METRICS) + " |")
        print("|---" * (len(METRICS) + 1) + "|")
        for estimator in ESTIMATORS:
            cells = [
                median([f[truth][estimator][metric] for f in found], 1e4 if metric == "regret" else 1.0)
                for metric, _ in METRICS
            ]
            print(f"| {estimator} | " + " | ".join(cells) + " |")
        own = [f[truth]["estimate"]["centred_r"] / root for f, root in zip(found, roots, strict=True) if root]
        for other in ("first_order", "published_recipe"):
            ratios = [f[truth]["estimate"]["regret"] / f[truth][other]["regret"] for f in found]
            print(f"regret of the estimate over {other}'s: {median(ratios)}")
        print(f"centred r of the estimate over √ρ: {median(own)}")
    print(
        f"\ncoverage of 90% intervals: {median([f['best_validation']['estimate'].get('coverage_90') for f in found])}"
    )
    for ratio in ("flops_ratio_model", "flops_ratio_total", "seconds_ratio"):
        print(f"{ratio}: {median([f[ratio] for f in found])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SUITES))
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first split's seed")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    with connected():
        for name in options.sets.split(","):
            if not available(name):
                print(f"\n## {name}: skipped, its data is not beside this repository")
                continue
            found = []
            for split in range(options.first, options.first + options.splits):
                config = config_of(name, split, folder)
                study = Study.run(config, folder / config.name, reporter=LogReporter(), until="validation")
                found.append(study.folder.read_json("fidelity.json"))
            print_set(name, found)


if __name__ == "__main__":
    main()
