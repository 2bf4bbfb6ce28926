"""True fine-tuning of the base model on many subsets at once: the truth that estimates are measured by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.affinity.estimates import Moment
from affinity_service.config import Config
from affinity_service.config_models import PretrainedConfig
from affinity_service.errors import UserError
from affinity_service.evaluation.flops import RunFlops
from affinity_service.evaluation.head_slots import Form, forms
from affinity_service.evaluation.plain import PlainTrainer
from affinity_service.evaluation.run import Run
from affinity_service.evaluation.stacked import RunOutcome, StackedTrainer, evaluated_together
from affinity_service.models import build_model
from affinity_service.models.heads import stackable
from affinity_service.models.state import load_trained
from affinity_service.planning.memory import STACK_BYTES, stacked_model_bytes
from affinity_service.planning.workload import Workload
from affinity_service.tasks.suite import Suite


def seeds_of(purpose: Literal["probe", "truth", "oracle", "estimate", "groups"], seed: int, count: int) -> list[int]:
    """`count` seeds of true trainings that no other purpose or seed shares."""
    key = [("probe", "truth", "oracle", "estimate", "groups").index(purpose), seed]
    return np.random.SeedSequence(key).generate_state(count, np.uint32).tolist()


@dataclass(frozen=True)
class FineTuned:
    """Losses of M subsets after every epoch.

    validation, test : (M, epochs, T) mean loss per task, NaN outside the subset. flops : of all of it.
    """

    validation: NDArray[np.float64]
    test: NDArray[np.float64] | None
    flops: float

    def at(self, moment: Moment) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(M, T) validation losses at a moment, and the epoch (from 1) of each subset."""
        if moment == "best":
            # A training that diverges later still had a best epoch.
            member = ~np.isnan(self.validation).all(axis=1, keepdims=True)
            means = np.where(member, self.validation, 0).sum(axis=2) / member.sum(axis=2)
            epochs = np.where(np.isfinite(means), means, np.inf).argmin(axis=1)
        else:
            epochs = np.full(len(self.validation), moment - 1)
        return self.validation[np.arange(len(epochs)), epochs], epochs + 1


class FineTuner:
    """Fine-tunes one base model on subsets, side by side; dropout and early stopping off, all epochs are run.

    Parameters
    ----------
    weights : of the base model by parameter name; None starts every run from the initialisation of its seed.
    linearised : train the linearisation at the base model instead (needs weights).
    """

    def __init__(
        self,
        suite: Suite,
        config: Config,
        weights: Mapping[str, Tensor] | None,
        device: str = "cpu",
        linearised: bool = False,
        record_test: bool = False,
        epochs: int | None = None,
    ) -> None:
        self.suite, self.config, self.weights = suite, config, weights
        self.epochs = config.fits.epochs if epochs is None else epochs
        training = config.base if weights is None else config.tuning
        training = training.model_copy(update={"epochs": self.epochs, "patience": self.epochs})
        model = self._build(0)
        # From given weights all seeds start alike.
        build = self._build if weights is None else lambda seed: model
        self.trainer: StackedTrainer | PlainTrainer
        # A pretrained network is large, whatever of it trains.
        if stackable(model) and not isinstance(config.model, PretrainedConfig):
            self.trainer = StackedTrainer(suite, training, build, device, record_test, linearised)
        elif linearised:
            raise UserError("validation.oracle_seeds trains linearised networks, which this model is too large for: 0")
        else:
            same = weights is not None
            self.trainer = PlainTrainer(suite, training, build, device, record_test, same, config.base.tokens)
        self._flops, self._work = RunFlops(model, suite), Workload.of(config, suite)
        self._rows = max(training.batch_size, evaluated_together(device))

    def _build(self, seed: int) -> torch.nn.Module:
        model = build_model(self.config.model, self.suite.inputs.shape[1:], self.suite.tasks, seed)
        if self.weights is not None:
            load_trained(model, self.weights)
        return model

    def run(self, subsets: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[FineTuned]:
        """One result per seed, which decides the order of the examples (and the initial weights where there are no
        others).

        Raises
        ------
        UserError
            The validation loss of a run was never finite.
        """
        runs = [Run(tuple(sorted(subset)), seed) for seed in seeds for subset in subsets]
        # Neighbours of about equal numbers of examples wait less for each other.
        order = sorted(range(len(runs)), key=lambda i: (len(runs[i].tasks), runs[i].tasks, runs[i].seed))
        outcomes: dict[int, RunOutcome] = {}
        for part in self._stacks(runs, order):
            trained = self.trainer.train([runs[i] for i in part])
            # Only losses are asked for.
            outcomes |= {i: replace(outcome, weights={}) for i, outcome in zip(part, trained, strict=True)}
        results = []
        for number in range(len(seeds)):
            own = [outcomes[number * len(subsets) + i] for i in range(len(subsets))]
            tests = [o.test_history for o in own if o.test_history is not None]
            flops = sum(self.flops(o.run.tasks) for o in own)
            results.append(FineTuned(np.stack([o.history for o in own]), np.stack(tests) if tests else None, flops))
        return results

    def flops(self, tasks: Sequence[int]) -> float:
        """Of one run, all epochs."""
        return self._flops(tasks, self.epochs)

    def _stacks(self, runs: Sequence[Run], order: Sequence[int]) -> Iterator[list[int]]:
        """As many neighbours in the order at a time as memory takes."""
        if isinstance(self.trainer, PlainTrainer):
            yield list(order)
            return
        part: list[int] = []
        heads: Counter[Form] = Counter()
        for index in order:
            own = forms(self.suite.tasks[task] for task in runs[index].tasks)
            if part and (len(part) + 1) * self._bytes(heads | own) > STACK_BYTES:
                yield part
                part, heads = [], Counter()
            part.append(index)
            heads |= own
        if part:
            yield part

    def _bytes(self, heads: Counter[Form]) -> float:
        """Of one model with these heads in a stack."""
        columns = sum(number * outputs for (_, outputs), number in heads.items())
        return stacked_model_bytes(
            self._work.parameters_with(columns), self._rows, self._work.activations_with(columns)
        )
