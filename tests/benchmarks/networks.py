"""Network selection on published tables: `python -m tests.benchmarks.networks`.

TAG's affinity matrices (Taskonomy, CelebA), Standley's measured losses of all networks of five tasks in four settings
with the higher-order approximation (HOA) as baseline, and networks chosen by predicted losses of 30 tasks against those
chosen by averaged pairs.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from affinity_service.grouping import choose_networks, select_networks
from tests import standley

REPETITIONS = 5
BUDGETS = (1, 2, 3, 4)


def seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPETITIONS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def published(path: Path) -> None:
    content = json.loads(path.read_text())
    affinity, names = np.array(content["affinity"]), content["tasks"]
    print(f"\n## {path.stem}: {len(names)} tasks")
    print("| budget | networks | mean score | certified | seconds (median of 5) |")
    print("|---|---|---|---|---|")
    for budget in range(1, 6):
        found = select_networks(affinity, budget)
        groups = ", ".join("{" + ", ".join(names[task] for task in group) + "}" for group in found.groups)
        taken = seconds(lambda budget=budget: select_networks(affinity, budget))
        print(f"| {budget} | {groups} | {found.score:.4f} | {'yes' if found.optimal else 'no'} | {taken:.3f} |")


def measured() -> None:
    print("\n## Measured networks of five tasks: total test loss, chosen on validation")
    print("| setting | " + " | ".join(f"budget {budget}: optimal, HOA" for budget in BUDGETS) + " |")
    print("|---" * (len(BUDGETS) + 1) + "|")
    for number, setting in enumerate(standley.SETTINGS, start=1):
        pairs = [standley.totals(setting, budget) for budget in BUDGETS]
        print(f"| {number} | " + " | ".join(f"{best:.5f}, {hoa:.5f}" for best, hoa in pairs) + " |")


def by_losses(tasks: int = 30, seed: int = 0) -> None:
    """Losses with an interaction that pairs do not show: company helps until a network is full."""
    rng = np.random.default_rng(seed)
    pair = 0.1 * rng.normal(size=(tasks, tasks)) - 0.1 * (np.arange(tasks)[:, None] % 4 == np.arange(tasks) % 4)

    def predict(subsets: list[tuple[int, ...]]) -> list[np.ndarray]:
        return [
            1 + (pair[np.ix_(s, s)].sum(axis=1) - pair[s, s]) / len(s) ** 0.5 + 0.002 * len(s) ** 2
            for s in map(list, subsets)
        ]

    singles = np.array([predict([(task,)])[0][0] for task in range(tasks)])
    pairs = np.array([[predict([tuple(sorted({i, j}))])[0][int(i > j)] for j in range(tasks)] for i in range(tasks)])
    print(f"\n## {tasks} tasks, mean predicted loss of the networks chosen")
    print("| budget | by averaged pairs | by predicted losses | bound | networks predicted | seconds |")
    print("|---|---|---|---|---|---|")
    for budget in BUDGETS:
        begin = time.perf_counter()
        found = choose_networks(predict, tasks, budget)
        taken = time.perf_counter() - begin
        chosen = select_networks(-pairs, budget, singleton_score=-singles).groups
        table = np.full((len(chosen), tasks), np.inf)
        for row, group in zip(table, chosen, strict=True):
            row[group] = predict([tuple(group)])[0]
        averaged = float(table.min(axis=0).mean())
        print(
            f"| {budget} | {averaged:.4f} | {found.loss:.4f} | {found.bound:.4f} | {found.evaluated} | {taken:.1f} |",
            flush=True,
        )
        assert found.loss <= averaged + 1e-9


def main() -> None:
    if standley.FOLDER.is_dir():
        for name in ("tag_taskonomy", "tag_celeba"):
            published(standley.FOLDER / f"{name}.json")
        measured()
    else:
        print("published tables are not beside this repository: skipped")
    by_losses()


if __name__ == "__main__":
    main()
