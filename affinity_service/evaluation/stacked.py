"""Training many small models at once: their parameters stacked, one product for all of them.

A model costs what its own tasks cost: it has no heads of others, and is evaluated on examples that have a label for one
of its own. Each sees exactly what it would see alone: its own tasks, seed, order of examples, gradient clipping, Adam
state and early stopping. Dropout is the exception: masks are drawn for the whole stack, seeded by the seeds of its
runs, so a model draws other masks than it would alone or in another stack, but the same ones whenever the same stack
is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affinity_service.config import TrainConfig
from affinity_service.errors import UserError
from affinity_service.evaluation.head_slots import HeadSlots, gather, scatter, task_heads
from affinity_service.evaluation.own_rows import Part, evaluation_parts
from affinity_service.evaluation.run import Run
from affinity_service.fitting.optimizers import training_optimizer
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models.losses import TaskLosses, task_weights
from affinity_service.tasks.sampling import epoch_batches, steps_per_epoch
from affinity_service.tasks.suite import TEST, TRAIN, VALIDATION, Suite
from affinity_service.tasks.tokens import TokenRows, bounded_batches

# Rows of a forward pass of many models: as many as stay in a core's cache; a GPU takes more.
EVALUATED_TOGETHER = {"cpu": 256}
# Tokens of a forward pass of one model.
EVALUATED_TOKENS = 4096


def evaluated_together(device: str) -> int:
    return EVALUATED_TOGETHER.get(torch.device(device).type, 2048)


@dataclass(frozen=True)
class RunOutcome:
    """A trained model at its best validation epoch (counted from 1).

    validation, test : (T,) mean loss per task, NaN for tasks it was not trained on or that have no label there.
    weights : parameters by name, float32 on the CPU; heads of tasks it was not trained on are as they were initially.
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
def split_losses(model: nn.Module, suite: Suite, split: int, tasks: Sequence[int] | None = None) -> NDArray[np.float64]:
    """(T,) mean loss of one plain model per task over a split, NaN where there is no label and outside `tasks`, where
    some are named: examples of no other are looked at."""
    rows, losses, every = suite.rows(split, tasks), TaskLosses(suite.tasks), range(len(suite.tasks))
    device = next(model.parameters()).device
    model.eval()
    total = torch.zeros(len(suite.tasks), dtype=torch.float64)
    # Only sequences are made into several batches: arrays are small.
    for batch in bounded_batches(suite.inputs, rows, max(1, len(rows)), EVALUATED_TOKENS):
        inputs = torch.tensor(suite.inputs[rows[batch]], device=device)
        labels = torch.tensor(suite.labels[rows[batch]], device=device)
        total += losses.of_known(model(inputs, every), labels).double().sum(dim=0).cpu()
    found = (total / torch.as_tensor(suite.label_counts(split))).numpy()
    return found if tasks is None else np.where(np.isin(every, tasks), found, np.nan)


class StackedTrainer:
    """Trains models of one architecture side by side.

    Parameters
    ----------
    build : seed → module to start from, which is only read; the modules must have parameters of the same names and
        shapes, and all their heads in one `TaskHeads`.
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
        # One example more than there are, and one task, neither of which has labels: what is padded points there.
        assert not isinstance(suite.inputs, TokenRows), "models of sequences are trained one by one"
        one_more = [(0, 1)] + [(0, 0)] * (suite.inputs.ndim - 1)
        self.inputs = torch.from_numpy(np.pad(suite.inputs, one_more)).to(device)
        self.labels = torch.from_numpy(np.pad(suite.labels, (0, 1), constant_values=np.nan)).to(device)
        self.counts = suite.label_counts(TRAIN).tolist()

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
        every = [suite.rows(TRAIN, run.tasks) for run in runs]
        steps = [steps_per_epoch(len(rows), self.config.batch_size) for rows in every]
        order = sorted(range(len(runs)), key=lambda i: -steps[i])
        self.place = np.argsort(order).tolist()
        self.runs, self.steps = [runs[i] for i in order], [steps[i] for i in order]
        self.rows = [every[i] for i in order]
        self.slots = HeadSlots.of([run.tasks for run in self.runs], suite.tasks)
        self.losses = TaskLosses(self.slots.tasks)
        models = {seed: trainer.build(seed) for seed in {run.seed: None for run in self.runs}}
        first = next(iter(models.values()))
        self.skeleton = self.slots.compact(first)
        self.space = WeightSpace({name: tuple(p.shape) for name, p in self.skeleton.named_parameters()})
        self.names = [self.slots.whole_names(task_heads(first)[0], number) for number in range(len(runs))]
        self.initial = {
            seed: {name: p.detach().cpu() for name, p in model.named_parameters()} for seed, model in models.items()
        }
        initial = [
            gather(self.initial[run.seed], names, self.space.shapes)
            for run, names in zip(self.runs, self.names, strict=True)
        ]
        self.weights = torch.stack([self.space.flatten(weights) for weights in initial]).to(device)
        self.buffers = {
            name: torch.stack([models[run.seed].get_buffer(name) for run in self.runs]).to(device)
            for name, _ in first.named_buffers()
        }
        self.start = self.weights.clone() if trainer.linearised else None
        self.history: list[Tensor] = []
        self.test_history: list[Tensor] = []
        self.optimizer = training_optimizer(self.config)
        self.moments = self.optimizer.start(self.weights)
        self.task_in = torch.as_tensor(self.slots.task_in, device=device)
        self.member = self.task_in < len(suite.tasks)
        self.task_weights = self._in_slots(
            [
                task_weights(trainer.counts, run.tasks, len(rows), self.config.mixing_temperature)
                for run, rows in zip(self.runs, self.rows, strict=True)
            ]
        )
        self.evaluations: dict[int, tuple[list[Part], Tensor]] = {}
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
            part = Part(slice(active), index)
            losses = self.losses(self._outputs(leaf, part), self._labels(part))
            total = (losses * self.task_weights[:active, None, :]).sum().div(index.shape[1])
            (gradient,) = torch.autograd.grad(total, leaf)
            with torch.no_grad():
                # What a minibatch adds is in the gradient already.
                fed = self.optimizer.feed(gradient, gradient.new_zeros(1, 1).expand_as(gradient))
                self.optimizer.step(moving, moving.new_zeros(1, 1).expand_as(moving), *fed, self.moments, slice(active))

    def _labels(self, part: Part) -> Tensor:
        """(M', B, S) labels of the models of a part in their slots; NaN where there is none."""
        return self.trainer.labels[part.rows[..., None], self.task_in[part.models][:, None, :]]

    def _outputs(self, weights: Tensor, part: Part) -> Tensor:
        """(M', B, columns) outputs of the models of a part, whose weights (M', p) are given."""

        def call(own: Tensor, buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(self.skeleton, (self.space.unflatten(own), buffers), (x,))

        def tangent(start: Tensor, own: Tensor, buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            value, change, *_ = torch.func.jvp(lambda at: call(at, buffers, x), (start,), (own - start,))
            return value + change

        rows = 0 if part.rows.dim() == 2 else None
        inputs = self.trainer.inputs[part.rows]
        buffers = {name: values[part.models] for name, values in self.buffers.items()}
        if self.start is not None:
            linear = torch.func.vmap(tangent, in_dims=(0, 0, 0, rows), randomness="different")
            return linear(self.start[part.models], weights, buffers, inputs)
        vmapped = torch.func.vmap(call, in_dims=(0, 0, rows), randomness="different")
        return vmapped(weights, buffers, inputs)

    @torch.no_grad()
    def _split_losses(self, split: int, weights: Tensor) -> Tensor:
        """(M, S) mean loss of every model on the tasks in its slots over a split; NaN where there is no label."""
        self.skeleton.eval()
        parts, counts = self._evaluation(split)
        total = torch.zeros_like(counts)
        for part in parts:
            losses = self.losses(self._outputs(weights[part.models], part), self._labels(part))
            total[part.models] += losses.sum(dim=1)
        return total / counts

    def _evaluation(self, split: int) -> tuple[list[Part], Tensor]:
        """Passes over a split, and (M, S) labels of the tasks in the slots."""
        if split not in self.evaluations:
            suite, device = self.trainer.suite, self.trainer.device
            rows = [suite.rows(split, run.tasks) for run in self.runs]
            parts = evaluation_parts(rows, evaluated_together(device), len(suite), device)
            counts = torch.as_tensor(suite.label_counts(split)).float()
            self.evaluations[split] = parts, self._in_slots([counts] * len(self.runs))
        return self.evaluations[split]

    def _in_slots(self, values: Sequence[Tensor]) -> Tensor:
        """A vector (T,) per model → (M, S) of the tasks in the slots, 0 in empty ones."""
        padded = torch.nn.functional.pad(torch.stack(list(values)), (0, 1))
        return padded.to(self.task_in.device).gather(1, self.task_in)

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
        test = self._split_losses(TEST, self.best).double().cpu().numpy()
        histories = [self._every(history) for history in (self.history, self.test_history)]
        found = []
        for i, (run, best, epochs) in enumerate(
            zip(self.runs, self.best_epoch.tolist(), self.epochs_done.tolist(), strict=True)
        ):
            history, tests = (self._of_tasks(i, values[:epochs, i]) for values in histories)
            own = {name: p.clone() for name, p in self.space.unflatten(self.best[i].cpu()).items()}
            found.append(
                RunOutcome(
                    run,
                    best + 1,
                    epochs,
                    history[best],
                    self._of_tasks(i, test[i]),
                    scatter(self.initial[run.seed], self.names[i], own),
                    history,
                    tests if self.test_history else None,
                )
            )
        return [found[place] for place in self.place]

    def _every(self, history: Sequence[Tensor]) -> NDArray[np.float64]:
        """(epochs, M, S)"""
        if not history:
            return np.zeros((0, *self.member.shape))
        return torch.stack(list(history)).double().cpu().numpy()

    def _of_tasks(self, number: int, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., S) of one model → (..., T), NaN for tasks outside its run."""
        own = self.slots.task_in[number]
        found = np.full((*losses.shape[:-1], len(self.trainer.suite.tasks) + 1), np.nan)
        found[..., own] = losses
        return found[..., :-1]
