"""What to do with the same computation: joint, single-task and grouped training, PCGrad and scheduled turns.

    python -m tests.benchmarks.training_time [--sets yeast,tox21,bibtex] [--seeds 5] [--epochs 30] [--keep FOLDER]

Every method may evaluate as many gradients of single tasks as joint training does in `--epochs` epochs: a step on m
tasks counts m, a refresh of the scheduler one for each further task. Groups (four, of which random ones have the sizes
of Grad-TAG's) are trained from scratch; what finding them costs is stated apart, in the same unit. After every epoch's
worth of evaluations the validation loss is taken; the test loss is that of the best one. A seed is a split of the data,
a base model and an order of batches. Test losses are means over tasks; gains over joint training are paired by seed,
with 95% intervals. FOLDER is that of fidelity.py.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from affinity_service import Study
from affinity_service.affinity.lookahead import measure_step
from affinity_service.affinity.measured import average_history
from affinity_service.config import Config, TrainConfig
from affinity_service.engine.session import connected
from affinity_service.evaluation.outcomes import interval
from affinity_service.evaluation.stacked import Run, StackedTrainer, split_losses
from affinity_service.gradients.instrument import Instrument
from affinity_service.grouping import centre_rows, cluster
from affinity_service.models import TaskLosses, build_model
from affinity_service.models.losses import task_weights
from affinity_service.models.shared import shared_parameters
from affinity_service.reporter import LogReporter
from affinity_service.scheduling import InterferenceScheduler
from affinity_service.tasks import load_suite
from affinity_service.tasks.sampling import epoch_batches
from affinity_service.tasks.suite import TEST, TRAIN, VALIDATION, Suite
from tests.benchmarks.fidelity import config_of
from tests.benchmarks.real_suites import available

GROUPS, EVERY = 4, 10
# SON-GOKU as published (β, τ, R), and with the options for noisy gradients.
SCHEDULES: dict[str, dict] = {
    "SON-GOKU (τ = .25)": {"track": "active"},
    "SON-GOKU, 30% of pairs part": {"quantile": 0.3, "split": True, "probes": 8},
    "SON-GOKU, 30% part, + PCGrad": {"quantile": 0.3, "split": True, "probes": 8, "aggregator": "PCGrad"},
    "PCGrad": {"warmup": 10**9, "aggregator": "PCGrad"},
}


class Loop:
    """A plain torch loop on all tasks of a suite, as the stacked trainer has it."""

    def __init__(self, suite: Suite, config: Config, train: TrainConfig) -> None:
        self.suite, self.train = suite, train
        self.model = build_model(config.model, suite.inputs.shape[1:], suite.tasks, train.seed)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay
        )
        self.rows = suite.rows(TRAIN)
        counts = (suite.observed & (suite.split == TRAIN)[:, None]).sum(axis=0).tolist()
        self.weights = task_weights(counts, range(len(suite.tasks)), len(self.rows))
        self.inputs, self.labels = torch.tensor(suite.inputs), torch.tensor(suite.labels)
        self.per_task = [TaskLosses([task]) for task in suite.tasks]
        named = dict(self.model.named_parameters())
        self.shared = {name: named[name] for name in shared_parameters(self.model)}

    def batches(self):
        for epoch in range(10**6):
            yield from epoch_batches(self.rows, self.train.batch_size, self.train.seed, epoch)

    def losses(self, rows: np.ndarray, names: list[str]) -> dict[str, Tensor]:
        """Of the tasks that the batch has examples of, weighted as joint training weighs them."""
        body = self.model.body(self.inputs[rows])
        found = {}
        for name in names:
            task = self.suite.names.index(name)
            labels = self.labels[rows][:, [task]]
            if not bool(labels.isnan().all()):
                outputs = self.model.heads(body, [task])
                found[name] = self.per_task[task](outputs, labels).sum() * self.weights[task] / len(rows)
        return found

    def scheduled(self, scheduler: InterferenceScheduler, budget: int, period: int) -> tuple[float, float]:
        """Test loss at the best validation loss, looked at every `period` evaluations; and the seconds it took."""
        spent, looked, best, start = 0, 0, (np.inf, np.nan), time.perf_counter()
        for rows in self.batches():
            plan = scheduler.plan()
            losses = self.losses(rows, scheduler.tasks if plan.refresh else list(plan.active))
            spent += len(losses)
            scheduler.backward(losses)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.train.gradient_clipping)
            self.optimizer.step()
            scheduler.step()
            if spent // period > looked or spent >= budget:
                looked = spent // period
                validation = float(np.mean(split_losses(self.model, self.suite, VALIDATION)))
                if validation < best[0]:
                    best = validation, float(np.mean(split_losses(self.model, self.suite, TEST)))
                self.model.train()
            if spent >= budget:
                break
        return best[1], time.perf_counter() - start

    def tag_matrix(self, epochs: int) -> np.ndarray:
        """TAG's lookahead at every 10th step of a joint training, averaged up to the best validation epoch."""
        losses = TaskLosses(self.suite.tasks)

        def sums(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            inputs, labels = batch
            return losses(model(inputs), labels).double().sum(dim=0), (~labels.isnan()).sum(dim=0)

        tool = Instrument(self.model, sums, list(self.shared))
        history: list[np.ndarray] = []
        best, kept, step = np.inf, 0, 0
        for epoch in range(epochs):
            for rows in epoch_batches(self.rows, self.train.batch_size, self.train.seed, epoch):
                batch = self.inputs[rows], self.labels[rows]
                if step % EVERY == 0:
                    found = measure_step(tool, batch, self.train.learning_rate).lookahead
                    assert found is not None
                    history.append(found.double().numpy())
                loss = (losses(self.model(batch[0]), batch[1]) * self.weights).sum() / len(rows)
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), self.train.gradient_clipping)
                self.optimizer.step()
                step += 1
            validation = float(np.mean(split_losses(self.model, self.suite, VALIDATION)))
            self.model.train()
            if validation < best:
                best, kept = validation, len(history)
        return average_history(self.suite.names, np.stack(history[:kept])).affinity


def one_seed(name: str, seed: int, epochs: int, folder: Path) -> dict[str, tuple[float, float, float]]:
    """Per method: test loss, what finding the groups took (in budgets), seconds of the training."""
    config = config_of(name, seed, folder)
    content = config.model_dump(mode="json")
    content["groups"] |= {"k": GROUPS}
    config = Config.parse(content)
    study = Study.run(config, folder / config.name, reporter=LogReporter(), until="groups")
    suite = load_suite(config.data)
    tasks = range(len(suite.tasks))
    train = config.base.model_copy(update={"epochs": epochs, "patience": epochs, "seed": 1000 + seed})
    steps = epochs * -(-len(suite.rows(TRAIN)) // train.batch_size)
    budget, period = steps * len(tasks), steps * len(tasks) // epochs
    found: dict[str, tuple[float, float, float]] = {}

    gradtag = [tuple(sorted(suite.names.index(each) for each in group)) for group in study.groups]
    tag = [tuple(group) for group in cluster(centre_rows(Loop(suite, config, train).tag_matrix(epochs)), GROUPS).groups]
    rng = np.random.default_rng(seed)
    order, places = rng.permutation(len(tasks)), np.cumsum([0, *(len(group) for group in gradtag)])
    random = [tuple(sorted(order[a:b].tolist())) for a, b in itertools.pairwise(places)]

    def build(own: int) -> nn.Module:
        return build_model(config.model, suite.inputs.shape[1:], suite.tasks, own)

    timings = {stage["name"]: stage["flops"] for stage in study.folder.read_json("timings.json")["stages"]}
    # What a gradient of one task costs: its part of the base model's joint training.
    history = study.folder.read_json("base_model/history.json")["epochs"]
    per_budget = timings["base_model"] / len(history) * epochs
    finding = {
        # A joint run; at every 10th step a gradient and a lookahead of about half its cost per task.
        "TAG groups": 1 + 1.5 / EVERY,
        "Grad-TAG groups": sum(timings[stage] for stage in ("base_model", "gradients", "fits")) / per_budget,
    }
    partitions = {
        "joint": [tuple(tasks)],
        "single-task": [(task,) for task in tasks],
        "random groups": random,
        "TAG groups": tag,
        "Grad-TAG groups": gradtag,
    }
    for method, groups in partitions.items():
        begin = time.perf_counter()
        runs = [Run(group, train.seed) for group in groups]
        outcomes = StackedTrainer(suite, train, build, "cpu").train(runs)
        losses = np.nanmean(np.stack([outcome.test for outcome in outcomes]), axis=0)
        found[method] = float(losses.mean()), finding.get(method, 0.0), time.perf_counter() - begin
    for method, options in SCHEDULES.items():
        loop = Loop(suite, config, train)
        torch.manual_seed(seed)
        scheduler = InterferenceScheduler(loop.shared.items(), suite.names, **options)
        loss, seconds = loop.scheduled(scheduler, budget, period)
        found[method] = loss, 0.0, seconds
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="yeast,tox21,bibtex")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    show: Callable[[list[float]], str] = lambda values: "{:+.4f} ± {:.4f}".format(*interval(np.array(values)))  # noqa: E731
    for name in options.sets.split(","):
        if not available(name):
            print(f"{name}: skipped, its data is not beside this repository")
            continue
        with connected():
            found = [one_seed(name, seed, options.epochs, folder) for seed in range(options.seeds)]
        print(f"\n{name}: {options.seeds} seeds, {options.epochs} epochs' worth of task gradients each")
        print("| method | test loss | gain over joint training | finding the groups, in budgets | seconds |")
        print("|---|---|---|---|---|")
        for method in found[0]:
            losses = [each[method][0] for each in found]
            gains = [each["joint"][0] - each[method][0] for each in found]
            cost, seconds = (float(np.median([each[method][i] for each in found])) for i in (1, 2))
            gain = "–" if method == "joint" else show(gains)
            cost_shown = f"{cost:.2f}" if cost else "–"
            print(f"| {method} | {np.mean(losses):.4f} | {gain} | {cost_shown} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
