"""Training many small models at once: their parameters stacked, one product for all of them.

Each model sees exactly what it would see alone: its own tasks, seed, order of examples, gradient clipping, Adam
state and early stopping. Dropout is the exception: masks are drawn for the whole stack, seeded by the seeds of its
runs, so a model draws other masks than it would alone or in another stack, but the same ones whenever the same stack
is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affinity_service.config import TrainConfig
from affinity_service.errors import UserError
from affinity_service.evaluation.run import Run
from affinity_service.fitting.optimizers import training_optimizer
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models.losses import TaskLosses, task_weights
from affinity_service.tasks.sampling import epoch_batches, steps_per_epoch
from affinity_service.tasks.suite import TEST, TRAIN, VALIDATION, Suite

# Rows of a forward pass of many models: as many as stay in a core's cache; a GPU takes more.
EVALUATED_TOGETHER = {"cpu": 256}


@dataclass(frozen=True)
class RunOutcome:
    """A trained model at its best validation epoch (counted from 1).

    validation, test : (T,) mean loss per task, NaN for tasks it was not trained on or that have no label there.
    weights : parameters by name, float32 on the CPU.
    history : (epochs, T) validation losses after every epoch, and test losses where they were recorded.
    """

    run: Run
    best_epoch: int
    epochs: int
    validation: NDArray[np.float64]
    test: NDArray[np.float64]
    weights: dict[str, Tensor]
    history: NDArray[np.float64]
    test_history: NDArray[np.float64] | None = None


@torch.no_grad()
def split_losses(model: nn.Module, suite: Suite, split: int) -> NDArray[np.float64]:
    """(T,) mean loss of one plain model per task over a split, NaN where there is no label."""
    rows, losses = suite.rows(split), TaskLosses(suite.tasks)
    labels = torch.tensor(suite.labels[rows])
    total = losses(model.eval()(torch.tensor(suite.inputs[rows])), labels).double().sum(dim=0)
    return (total / (~labels.isnan()).sum(dim=0)).numpy()


class StackedTrainer:
    """Trains models of one architecture side by side.

    Parameters
    ----------
    build : seed → module to start from; the modules must have parameters of the same names and shapes.
    record_test : also keep the test losses of every epoch.
    linearised : train the linearisation of the network at the weights it starts from, in all its parameters, instead of
        the network: what an estimate from gradients would be with unlimited dimensions.
    """

    def __init__(
        self,
        suite: Suite,
        config: TrainConfig,
        build: Callable[[int], nn.Module],
        device: str,
        record_test: bool = False,
        linearised: bool = False,
    ) -> None:
        self.suite, self.config, self.build, self.device = suite, config, build, device
        self.record_test, self.linearised = record_test, linearised
        self.inputs = torch.tensor(suite.inputs, device=device)
        self.labels = torch.tensor(suite.labels, device=device)
        self.losses = TaskLosses(suite.tasks)
        self.counts = (suite.observed & (suite.split == TRAIN)[:, None]).sum(axis=0).tolist()

    def train(self, runs: Sequence[Run], progress: Callable[[int, int, str], None] | None = None) -> list[RunOutcome]:
        """Train every run to its best validation epoch, `patience` epochs without a better one ending it.

        Raises
        ------
        UserError
            The validation loss of a run was never finite.
        """
        stack = _Stack(self, runs)
        for epoch in range(self.config.epochs):
            stack.epoch(epoch)
            if progress is not None:
                progress(epoch + 1, self.config.epochs, "epochs")
            if stack.all_stopped():
                break
        return stack.outcomes()


class _Stack:
    """The models as rows of one matrix, those with more steps an epoch first: the ones still at work in an epoch are
    then always the first."""

    def __init__(self, trainer: StackedTrainer, runs: Sequence[Run]) -> None:
        self.trainer, self.config = trainer, trainer.config
        suite, device = trainer.suite, trainer.device
        steps = [steps_per_epoch(len(suite.rows(TRAIN, run.tasks)), self.config.batch_size) for run in runs]
        order = sorted(range(len(runs)), key=lambda i: -steps[i])
        self.place = np.argsort(order).tolist()
        self.runs, self.steps = [runs[i] for i in order], [steps[i] for i in order]
        models = [trainer.build(run.seed).to(device) for run in self.runs]
        self.skeleton = models[0].train()
        self.space = WeightSpace({name: tuple(p.shape) for name, p in self.skeleton.named_parameters()})
        self.weights = torch.stack([self.space.flatten(dict(model.named_parameters())) for model in models])
        _, self.buffers = torch.func.stack_module_state(models)
        self.start = self.weights.clone() if trainer.linearised else None
        self.history: list[Tensor] = []
        self.test_history: list[Tensor] = []
        self.optimizer = training_optimizer(self.config)
        self.moments = self.optimizer.start(self.weights)
        self.rows = [suite.rows(TRAIN, run.tasks) for run in self.runs]
        self.task_weights = torch.stack(
            [task_weights(trainer.counts, run.tasks, len(rows)) for run, rows in zip(self.runs, self.rows, strict=True)]
        ).to(device)
        self.member = torch.zeros(len(runs), len(suite.tasks), dtype=torch.bool, device=device)
        for index, run in enumerate(self.runs):
            self.member[index, list(run.tasks)] = True
        self.best_loss = torch.full((len(runs),), torch.inf, device=device)
        self.best_epoch = torch.full((len(runs),), -1, device=device)
        self.epochs_done = torch.zeros(len(runs), dtype=torch.long, device=device)
        self.best = self.weights.clone()

    def epoch(self, epoch: int) -> None:
        with self._seeded(epoch):
            self._steps(epoch)
        loss = self._split_losses(VALIDATION, self.weights)
        self.history.append(loss)
        if self.trainer.record_test:
            self.test_history.append(self._split_losses(TEST, self.weights))
        mean = torch.where(self.member, loss, 0.0).sum(dim=1) / self.member.sum(dim=1)
        running = ~self._stopped()
        self.epochs_done += running
        better = running & (mean < self.best_loss)
        self.best_loss = torch.where(better, mean, self.best_loss)
        self.best_epoch = torch.where(better, torch.full_like(self.best_epoch, epoch), self.best_epoch)
        self.best[better] = self.weights[better]

    @contextmanager
    def _seeded(self, epoch: int) -> Iterator[None]:
        """Dropout draws from torch's global generators: seeded here, and left as they were."""
        seed = np.random.SeedSequence([epoch, *(run.seed for run in self.runs)]).generate_state(1, np.uint64)
        device = torch.device(self.trainer.device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed[0]))
            yield

    def _steps(self, epoch: int) -> None:
        self.skeleton.train()
        batches = [
            list(epoch_batches(rows, self.config.batch_size, run.seed, epoch))
            for run, rows in zip(self.runs, self.rows, strict=True)
        ]
        for step in range(self.steps[0]):
            # A model with fewer examples has fewer steps: it waits while the others finish the epoch.
            active = sum(own > step for own in self.steps)
            index = torch.as_tensor(np.stack([own[step] for own in batches[:active]]), device=self.trainer.device)
            moving = self.weights[:active]
            leaf = moving.detach().requires_grad_()
            losses = self.trainer.losses(
                self._forward(leaf, self.trainer.inputs[index], per_model=True), self.trainer.labels[index]
            )
            total = (losses * self.task_weights[:active, None, :]).sum().div(index.shape[1])
            (gradient,) = torch.autograd.grad(total, leaf)
            with torch.no_grad():
                # What a minibatch adds is in the gradient already.
                fed = self.optimizer.feed(gradient, gradient.new_zeros(1, 1).expand_as(gradient))
                self.optimizer.step(moving, moving.new_zeros(1, 1).expand_as(moving), *fed, self.moments, slice(active))

    def _forward(self, weights: Tensor, inputs: Tensor, per_model: bool) -> Tensor:
        """(M', B, columns) outputs of the first M' models, whose weights (M', p) are given."""

        def call(own: Tensor, buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(self.skeleton, (self.space.unflatten(own), buffers), (x,))

        def tangent(start: Tensor, own: Tensor, buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            value, change, *_ = torch.func.jvp(lambda at: call(at, buffers, x), (start,), (own - start,))
            return value + change

        rows = 0 if per_model else None
        buffers = {name: values[: len(weights)] for name, values in self.buffers.items()}
        if self.start is not None:
            linear = torch.func.vmap(tangent, in_dims=(0, 0, 0, rows), randomness="different")
            return linear(self.start[: len(weights)], weights, buffers, inputs)
        vmapped = torch.func.vmap(call, in_dims=(0, 0, rows), randomness="different")
        return vmapped(weights, buffers, inputs)

    @torch.no_grad()
    def _split_losses(self, split: int, weights: Tensor) -> Tensor:
        """(M, T) mean loss of every model on every task of a split; NaN where there is no label."""
        self.skeleton.eval()
        rows = self.trainer.suite.rows(split)
        total = torch.zeros(len(self.runs), len(self.trainer.suite.tasks), device=self.trainer.device)
        count = torch.zeros(len(self.trainer.suite.tasks), device=self.trainer.device)
        together = EVALUATED_TOGETHER.get(torch.device(self.trainer.device).type, 2048)
        for start in range(0, len(rows), together):
            part = torch.as_tensor(rows[start : start + together], device=self.trainer.device)
            labels = self.trainer.labels[part]
            outputs = self._forward(weights, self.trainer.inputs[part], per_model=False)
            total += self.trainer.losses(outputs, labels).sum(dim=1)
            count += (~labels.isnan()).sum(dim=0)
        return total / count

    def _stopped(self) -> Tensor:
        return self.epochs_done - 1 - self.best_epoch >= self.config.patience

    def all_stopped(self) -> bool:
        return bool(self._stopped().all())

    def _check_finite(self) -> None:
        for run, best in zip(self.runs, self.best_epoch.tolist(), strict=True):
            if best < 0:
                names = [self.trainer.suite.names[task] for task in run.tasks]
                shown = ", ".join(f"`{name}`" for name in names[:5]) + (", …" if len(names) > 5 else "")
                raise UserError(
                    f"training on {shown} with seed {run.seed} diverged: its validation loss was never finite; lower "
                    f"base.learning_rate ({self.config.learning_rate:g}) or set base.gradient_clipping "
                    f"({self.config.gradient_clipping:g})"
                )

    def outcomes(self) -> list[RunOutcome]:
        self._check_finite()
        losses = [
            torch.where(self.member, self._split_losses(split, self.best), torch.nan).double().cpu().numpy()
            for split in (VALIDATION, TEST)
        ]
        histories = [self._masked(history) for history in (self.history, self.test_history)]
        facts: list[Any] = [self.best_epoch.tolist(), self.epochs_done.tolist(), *losses]
        found = [
            RunOutcome(
                run,
                best + 1,
                epochs,
                validation,
                test,
                {name: p.clone() for name, p in self.space.unflatten(self.best[i].cpu()).items()},
                histories[0][:epochs, i],
                histories[1][:epochs, i] if self.test_history else None,
            )
            for i, (run, best, epochs, validation, test) in enumerate(zip(self.runs, *facts, strict=True))
        ]
        return [found[place] for place in self.place]

    def _masked(self, history: Sequence[Tensor]) -> NDArray[np.float64]:
        """(epochs, M, T), NaN for tasks outside a run."""
        if not history:
            return np.zeros((0, 0, 0))
        return torch.where(self.member, torch.stack(list(history)), torch.nan).double().cpu().numpy()
