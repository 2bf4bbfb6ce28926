"""What the groups are worth: test loss of models trained per group against random groups of the same sizes, joint and
single-task training, on real data.

    python -m tests.benchmarks.groups [--sets yeast,school] [--splits 5] [--groups 4] [--keep FOLDER]

Groups by density (sdp) and by descent on the predicted losses of the groups themselves (direct); models fine-tuned
from the base model, which is what the estimates are of, and from scratch. Gains are per task, positive where the
groups have the lower test loss, means over splits with 95% intervals over (split, seed). FOLDER is that of fidelity.py:
base models and estimates are reused.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from affinity_service import Study
from affinity_service.config import Config
from affinity_service.engine.session import connected
from affinity_service.evaluation.outcomes import interval
from affinity_service.reporter import LogReporter
from affinity_service.tables import read_table
from tests.benchmarks.fidelity import config_of
from tests.benchmarks.real_suites import SUITES, available

SEEDS, RANDOM = 5, 8
# So many tasks are also trained alone.
SINGLE = 4
CASES = (("sdp", "base"), ("direct", "base"), ("sdp", "initial"))


def gains_of(results: pd.DataFrame) -> pd.DataFrame:
    """One row per seed: mean over tasks of (baseline − groups) in test loss."""
    means = results.groupby(["task", "seed", "setting"])["test_loss"].mean().unstack("setting")
    return pd.DataFrame(
        {
            baseline: (means[baseline] - means["groups"]).groupby("seed").mean()
            for baseline in ("random", "joint", "single")
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SUITES))
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first so many rows of a set")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print("| set | groups by | models | against random | against joint | against single |")
    print("|---|---|---|---|---|---|")
    with connected():
        for name in options.sets.split(","):
            if not available(name):
                print(f"| {name} | skipped, its data is not beside this repository | | | | |")
                continue
            for method, start in CASES[: options.cases]:
                found = []
                for split in range(options.splits):
                    content = config_of(name, split, folder).model_dump(mode="json")
                    content["groups"] |= {"method": method, "k": options.groups}
                    content["group_models"] |= {
                        "seeds": SEEDS,
                        "random_groupings": RANDOM,
                        "single_tasks": SINGLE,
                        "start": start,
                    }
                    config = Config.parse(content)
                    study = Study.run(config, folder / config.name, reporter=LogReporter(), until="group_models")
                    found.append(gains_of(read_table(study.folder, "group_models/results.parquet").to_pandas()))
                gains = pd.concat(found)
                cells = []
                for baseline in gains:
                    mean, half = interval(gains[baseline].to_numpy(np.float64))
                    cells.append(f"{mean:+.4f} ± {half:.4f}")
                print(f"| {name} | {method} | {start} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
