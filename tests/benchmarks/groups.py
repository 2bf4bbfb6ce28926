"""What the groups are worth: test loss of models trained per group against random groups of the same sizes, joint and
single-task training, on real data.

    python -m tests.benchmarks.groups [--sets yeast,school] [--splits 5] [--groups 4] [--keep FOLDER]

Groups by density (sdp) and by descent on the predicted losses of the groups themselves (direct); models fine-tuned
from the base model, which is what the estimates are of, and from scratch; `shrink` and `probe` as in the config. Gains
are per task, positive where the groups have the lower test loss, means over splits with 95% intervals over (split,
seed). FOLDER is that of fidelity.py: base models, estimates and true trainings are reused.

Below each set stands the limit of all choosing by validation losses: how far the *true* losses of subsets on validation
examples tell those on test examples (centred r between trainings of different seeds). `--cases ""` prints only this.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affinity_service import Study
from affinity_service.config import Config
from affinity_service.engine.session import connected
from affinity_service.engine.true_trainings import read_pieces
from affinity_service.engine.validation import truths_and_oracles, validation_subsets
from affinity_service.evaluation.fidelity import centred_r
from affinity_service.evaluation.outcomes import interval
from affinity_service.reporter import LogReporter
from affinity_service.tables import read_table
from affinity_service.tasks import load_suite
from tests.benchmarks.fidelity import config_of, median
from tests.benchmarks.real_suites import SUITES, available

SEEDS, RANDOM = 5, 8
# So many tasks are also trained alone.
SINGLE = 4
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "sdp": ({"method": "sdp"}, "base"),
    "direct": ({"method": "direct"}, "base"),
    "sdp, from scratch": ({"method": "sdp"}, "initial"),
    "sdp, shrink": ({"method": "sdp", "shrink": True}, "base"),
    "direct, probe": ({"method": "direct", "probe": True}, "base"),
}


def gains_of(results: pd.DataFrame) -> pd.DataFrame:
    """One row per seed: mean over tasks of (baseline − groups) in test loss."""
    means = results.groupby(["task", "seed", "setting"])["test_loss"].mean().unstack("setting")
    return pd.DataFrame(
        {
            baseline: (means[baseline] - means["groups"]).groupby("seed").mean()
            for baseline in ("random", "joint", "single")
        }
    )


def carries_over(study: Study) -> float:
    """Centred r of true validation losses with true test losses of other seeds, if fidelity.py trained the subsets."""
    config, folder, suite = study.config, study.folder, load_suite(study.config.data)
    pieces, _ = truths_and_oracles(config, folder, suite, validation_subsets(config, len(suite.tasks)))
    if not all(folder.exists(piece.name) for piece in pieces):
        return float("nan")
    truths = read_pieces(folder, pieces, len(suite.tasks))
    half = len(truths) // 2
    validation = np.mean([truth.at("best")[0] for truth in truths[:half]], axis=0)
    test = np.mean([truth.test[np.arange(len(truth.test)), truth.at("best")[1] - 1] for truth in truths[half:]], axis=0)
    return centred_r(test, validation) or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SUITES))
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--cases", default="sdp;direct;sdp, from scratch", help="of " + "; ".join(CASES))
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print("| set | groups by | against random | against joint | against single |")
    print("|---|---|---|---|---|")
    with connected():
        for name in options.sets.split(","):
            if not available(name):
                print(f"| {name} | skipped, its data is not beside this repository | | | |")
                continue
            for case in filter(None, options.cases.split(";")):
                settings, start = CASES[case]
                found = []
                for split in range(options.splits):
                    content = config_of(name, split, folder).model_dump(mode="json")
                    content["groups"] |= {**settings, "k": options.groups}
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
                print(f"| {name} | {case} | " + " | ".join(cells) + " |", flush=True)
            tells = [carries_over(Study.open(folder / f"{name}-{split}")) for split in range(options.splits)]
            print(f"{name}: true validation losses tell true test losses {median(tells)}", flush=True)


if __name__ == "__main__":
    main()
