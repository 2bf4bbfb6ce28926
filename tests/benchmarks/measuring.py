"""What measuring TAG's affinities costs a training: `python -m tests.benchmarks.measuring`.

Yeast (13 tasks), the ready config's model and batches in the DeepSpeed loop, every 10th step measured. The trainings
take turns; figures are medians of five ratios of the epochs' seconds (steps, validation and measurements, without the
start of the workers and without checkpoints), and of the whole call. The weights that come out must be the same bit for
bit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time

import ray

from affinity_service.config import Config
from affinity_service.engine.session import connected
from affinity_service.engine.train import train_model
from affinity_service.engine.train_job import TrainJob
from affinity_service.tasks import load_suite

# Estimator → the ratio that is asked for.
ALLOWED = {"lookahead": 1.6, "first_order": 1.25, "cosine": 1.25}


def settings(estimator: str, epochs: int) -> Config:
    return Config.parse(
        {
            "name": "measuring",
            "data": {"source": "yeast"},
            "base": {"epochs": epochs, "patience": epochs},
            "affinity": {"estimator": estimator},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    repetitions, epochs = (1, 5) if options.quick else (5, 20)
    modes = ["linearized", *ALLOWED]
    suite = load_suite(settings("linearized", epochs).data)
    inside: dict[str, list[float]] = {mode: [] for mode in modes}
    whole: dict[str, list[float]] = {mode: [] for mode in modes}
    weights: dict[str, set[str]] = {mode: set() for mode in modes}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {epochs} epochs")
    with connected(), tempfile.TemporaryDirectory() as storage:
        reference = ray.put(suite)
        for number in range(repetitions):
            for mode in modes:
                config = settings(mode, epochs)
                job = TrainJob(
                    reference, config.model, config.base, tuple(range(len(suite.tasks))), measuring=config.measuring
                )
                begin = time.perf_counter()
                trained = train_model(job, config.resources, storage, f"{mode}-{number}")
                whole[mode].append(time.perf_counter() - begin)
                inside[mode].append(sum(epoch["seconds"] for epoch in trained.state.history))
                weights[mode].add(hashlib.sha256(trained.weights).hexdigest())
    assert len(set.union(*weights.values())) == 1, "measuring changed the weights"
    print("| estimator | seconds of the epochs | over not measuring | whole call |")
    print("|---|---|---|---|")
    for mode in modes:
        ratio, call = (
            statistics.median(a / b for a, b in zip(times[mode], times["linearized"], strict=True))
            for times in (inside, whole)
        )
        print(f"| {mode} | {statistics.median(inside[mode]):.2f} | {ratio:.2f} | {call:.2f} |")
        if mode in ALLOWED and not options.quick:
            assert ratio <= ALLOWED[mode], f"{mode}: {ratio:.2f}, at most {ALLOWED[mode]} expected"
    print("the weights are the same bit for bit")


if __name__ == "__main__":
    main()
