"""What `affinity plan` promises against what a run then takes, on three configs: the ratio per stage.

The machine should have nothing else to do; what else runs shows as the share of a core that a process obtains.
Stages below a second are shown and not judged.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from affinity_service import Study
from affinity_service.config import Config
from affinity_service.planning import Plan, calibrate, inspect_machine, plan_study
from affinity_service.planning.workload import Workload
from affinity_service.tasks import load_suite

FACTOR = 2.0
JUDGED_SECONDS = 1.0
QUANTITIES = (("seconds", 1.0, "s"), ("flops", 1e9, "GFLOP"), ("bytes", 1e6, "MB"))


def synthetic(path: Path, examples: int = 4000, tasks: int = 40, features: int = 64, missing: float = 0.4) -> None:
    """Noisy binary tasks around five directions of the inputs, labels missing at random."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(examples, features)).astype(np.float32)
    directions = rng.normal(size=(features, 5))[:, rng.integers(0, 5, tasks)] + 0.5 * rng.normal(size=(features, tasks))
    scores = inputs @ directions / np.sqrt(features) + 0.7 * rng.normal(size=(examples, tasks))
    labels = np.where(rng.random(scores.shape) < missing, np.nan, scores > 0).astype(np.float32)
    columns: dict[str, Any] = {"features": pa.FixedSizeListArray.from_arrays(pa.array(inputs.ravel()), features)}
    columns |= {f"task_{t}": pa.array(labels[:, t], from_pandas=True) for t in range(tasks)}
    pq.write_table(pa.table(columns), path)


def configs(folder: Path) -> list[Config]:
    synthetic(folder / "suite.parquet")
    repository = Path(__file__).resolve().parents[2]
    missing: dict[str, Any] = {
        "name": "missing-labels",
        "data": {"source": "parquet", "path": str(folder / "suite.parquet")},
        "model": {"hidden": [256, 256]},
        "base": {"epochs": 20},
        "fits": {"epochs": 8},
        "group_models": {"seeds": 2, "random_groupings": 1},
    }
    exact: dict[str, Any] = {
        "name": "exact-one-worker",
        "data": {"source": "yeast"},
        "model": {"hidden": [8]},
        "base": {"epochs": 20, "patience": 20},
        "gradients": {"reduction": "exact", "workers": 1},
        "fits": {"subsets": 200, "workers": 1},
        "group_models": {"seeds": 2, "random_groupings": 1, "workers": 1},
    }
    return [Config.load(repository / "ray_jobs/configs/yeast.yaml"), Config.parse(missing), Config.parse(exact)]


def compare(plan: Plan, timings: list[dict[str, Any]]) -> list[str]:
    """Prints planned, measured and their ratio; names what is outside the factor."""
    before, after = plan.machine.rates.share, calibrate().share
    print(f"\n{plan.name} (a process gets {before:.0%} of a core before, {after:.0%} after)")
    print(f"{'':<14}" + "".join(f"{f'{name} planned':>17}{'measured':>10}{'ratio':>7}" for name, *_ in QUANTITIES))
    wrong = []
    measured = {timing["name"]: {**timing, "bytes": timing["peak_bytes"]} for timing in timings}
    for stage in plan.stages:
        line = f"{stage.name:<14}"
        for name, unit, _ in QUANTITIES:
            expected, found = getattr(stage, name), measured[stage.name][name]
            ratio = expected / found if found else float("nan")
            line += f"{expected / unit:>17,.2f}{found / unit:>10,.2f}{ratio:>7.2f}"
            judged = measured[stage.name]["seconds"] >= JUDGED_SECONDS and found
            if judged and not 1 / FACTOR <= ratio <= FACTOR:
                wrong.append(f"{plan.name} {stage.name} {name} {ratio:.2f}")
        print(line)
    total = sum(timing["seconds"] for timing in timings)
    expected = plan.total_seconds - plan.start_seconds
    print(f"{'total':<14}{expected:>17,.2f}{total:>10,.2f}{expected / total:>7.2f}", flush=True)
    return wrong


def main() -> None:
    """Names of configs as arguments run only those."""
    wrong = []
    with tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_CACHE_HOME"] = directory
        for config in configs(Path(directory)):
            if sys.argv[1:] and config.name not in sys.argv[1:]:
                continue
            work = Workload.of(config, load_suite(config.data))
            plan = plan_study(config, work, inspect_machine(directory).calibrated())
            study = Study.run(config, Path(directory, config.name))
            wrong += compare(plan, study.folder.read_json("timings.json")["stages"])
    if wrong:
        sys.exit(f"outside a factor of {FACTOR:g}: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
