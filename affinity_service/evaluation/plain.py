"""Training models one after the other in a plain loop: those too large to be stacked, such as language models, whose
pretrained weights all runs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affinity_service.config import TrainConfig
from affinity_service.errors import UserError
from affinity_service.evaluation.run import Run
from affinity_service.evaluation.stacked import RunOutcome, evaluated_together
from affinity_service.models.losses import TaskLosses, task_weights
from affinity_service.models.optimizer import torch_optimizer
from affinity_service.models.state import load_trained, trained_parameters
from affinity_service.tasks.sampling import epoch_batches
from affinity_service.tasks.suite import TEST, TRAIN, VALIDATION, Suite
from affinity_service.tasks.tokens import bounded_batches


class PlainTrainer:
    """Trains models of one architecture, each as it would be alone; as ``StackedTrainer`` does, dropout apart.

    Parameters
    ----------
    build : seed → module to start from; asked once, and again only for another seed's initial weights.
    same_start : whether all seeds start alike.
    tokens : of sequences in one pass, padding counted.
    """

    def __init__(
        self,
        suite: Suite,
        config: TrainConfig,
        build: Callable[[int], nn.Module],
        device: str,
        record_test: bool = False,
        same_start: bool = True,
        tokens: int = 4096,
    ) -> None:
        self.suite, self.config, self.build, self.device = suite, config, build, device
        self.record_test, self.same_start, self.tokens = record_test, same_start, tokens
        self.losses = TaskLosses(suite.tasks)
        self.counts = suite.label_counts(TRAIN).tolist()
        self._model: nn.Module | None = None
        self._initial: dict[str, Tensor] = {}

    def train(self, runs: Sequence[Run], progress: Callable[[int, int, str], None] | None = None) -> list[RunOutcome]:
        """Train every run to its best validation epoch, `patience` epochs without a better one ending it.

        Raises
        ------
        UserError
            The validation loss of a run was never finite.
        """
        found = []
        for done, run in enumerate(runs, 1):
            found.append(self._train(run))
            if progress is not None:
                progress(done, len(runs), "models")
        return found

    def _start(self, seed: int) -> nn.Module:
        """The model with its initial weights."""
        if self._model is None or not self.same_start:
            self._model = self.build(seed).to(self.device)
            self._initial = _copy(self._model)
        else:
            load_trained(self._model, self._initial)
        return self._model

    def _train(self, run: Run) -> RunOutcome:
        model = self._start(run.seed)
        parameters = list(trained_parameters(model).values())
        optimizer = torch_optimizer(parameters, self.config)
        rows = self.suite.rows(TRAIN, run.tasks)
        weights = task_weights(self.counts, run.tasks, len(rows), self.config.mixing_temperature).to(self.device)
        history: list[NDArray[np.float64]] = []
        tests: list[NDArray[np.float64]] = []
        best, best_loss, best_epoch = self._initial, np.inf, -1
        epoch = 0
        while epoch < self.config.epochs and epoch - 1 - best_epoch < self.config.patience:
            self._epoch(model, optimizer, parameters, rows, weights, run, epoch)
            history.append(self._split_losses(model, VALIDATION, run.tasks))
            if self.record_test:
                tests.append(self._split_losses(model, TEST, run.tasks))
            mean = float(np.nanmean(history[-1]))
            if mean < best_loss:
                best, best_loss, best_epoch = _copy(model), mean, epoch
            epoch += 1
        if best_epoch < 0:
            names = ", ".join(f"`{self.suite.names[task]}`" for task in run.tasks[:5])
            raise UserError(
                f"training on {names} with seed {run.seed} diverged: its validation loss was never finite; lower "
                f"base.learning_rate ({self.config.learning_rate:g}) or set base.gradient_clipping "
                f"({self.config.gradient_clipping:g})"
            )
        if tests:
            test = tests[best_epoch]
        else:
            load_trained(model, best)
            test = self._split_losses(model, TEST, run.tasks)
        weights_at_best = {name: values.cpu() for name, values in best.items()}
        every = np.stack(tests) if tests else None
        return RunOutcome(
            run, best_epoch + 1, epoch, history[best_epoch], test, weights_at_best, np.stack(history), every
        )

    def _epoch(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        rows: NDArray[np.int64],
        weights: Tensor,
        run: Run,
        epoch: int,
    ) -> None:
        model.train()
        devices = [torch.device(self.device)] if torch.device(self.device).type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            # Of dropout masks.
            torch.manual_seed(int(np.random.SeedSequence([run.seed, epoch]).generate_state(1)[0]))
            for batch in epoch_batches(rows, self.config.batch_size, run.seed, epoch):
                for part in self._parts(batch):
                    with self._precision():
                        outputs = model(*self._inputs(part))
                    losses = self.losses.of_known(outputs.float(), self._labels(part))
                    ((losses * weights).sum() / len(batch)).backward()
                if self.config.gradient_clipping:
                    nn.utils.clip_grad_norm_(parameters, self.config.gradient_clipping)
                optimizer.step()
                optimizer.zero_grad()

    @torch.no_grad()
    def _split_losses(self, model: nn.Module, split: int, tasks: Sequence[int]) -> NDArray[np.float64]:
        """(T,) mean losses of a run's tasks over a split, in float32 whatever it trains in; NaN for other tasks and
        where there is no label."""
        model.eval()
        count = len(self.suite.tasks)
        total, labelled = np.zeros(count), np.zeros(count)
        for part in self._parts(self.suite.rows(split, tasks)):
            labels = self._labels(part)
            losses = self.losses.of_known(model(*self._inputs(part)).float(), labels)
            total += losses.double().sum(dim=0).cpu().numpy()
            labelled += (~labels.isnan()).sum(dim=0).cpu().numpy()
        chosen = np.isin(np.arange(count), tasks) & (labelled > 0)
        return np.where(chosen, total / np.maximum(labelled, 1), np.nan)

    def _parts(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        for places in bounded_batches(self.suite.inputs, rows, evaluated_together(self.device), self.tokens):
            yield rows[places]

    def _inputs(self, rows: NDArray[np.int64]) -> tuple[Tensor, Sequence[int]]:
        return torch.as_tensor(self.suite.inputs[rows], device=self.device), range(len(self.suite.tasks))

    def _labels(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.as_tensor(self.suite.labels[rows], device=self.device)

    def _precision(self) -> Any:
        if self.config.precision != "bf16":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trained_parameters(model).items()}
