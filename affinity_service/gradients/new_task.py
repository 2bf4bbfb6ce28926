"""Features of a task that the base model has never seen, beside those of a finished study.

The base model's body stays as it is. The task gets a head of its own, fitted to what the body makes of its examples.
Its gradients by all older parameters are taken in the same metric and reduced by the same map as those of the others.
That map was made without the task, so directions of its own follow (``own_directions``), then coordinates by its own
head, one per weight. The other tasks' features are zero in both, and nothing of theirs is computed again: by the head
that is exact; along the directions their margins are held still, as wherever the study's basis does not reach.

Where every subset has its own tasks' means, the directions are the task's, in place of one mean, and other tasks' rows
are known along them as far as the study's means span them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.landmarks import LandmarkGradients
from affinity_service.gradients.outside_means import spanned_by
from affinity_service.gradients.own_directions import OWN_DIRECTIONS, own_directions
from affinity_service.gradients.own_parameters import shared_columns, shared_space
from affinity_service.gradients.per_example import GradientBlock, PerExampleGradients
from affinity_service.gradients.reductions import Exact, Reduction, build_reduction
from affinity_service.gradients.statistics import GradientStatistics, combine, gradient_sums
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models import TaskHeads, TaskLosses, build_model
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite, Task

# Penalties of the head that its validation loss chooses from, and steps of its fit at most.
_PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
_STEPS = 200
# Training examples that its own directions are found from, at most.
LANDMARKS = 2000


@dataclass(frozen=True)
class NewTask:
    """What a study keeps of an added task.

    Attributes
    ----------
    task : its name and kind.
    energy : part of its loss gradients' squared length, by the parameters older than it, that the study's own map
        holds; None where a map of random signs has no such part.
    tensors : by name, `head_weight` (C, width), `head_bias` (C,); of the q parameters of the head that gradients are
        taken of, `head_space` (q,), their values, and `head_scale` (q,), their metric; `directions` (p, k) of its own;
        `inputs` and `labels` of its validation examples; rows `mean`, `validation_mean`, `square` (p + q,) of the
        anchor; and of the splits (`train_…`, `validation_…`) `features` (n, d + k + q), `margins`, `targets`,
        `example` (n,). Beside means outside the basis `features` are (n, d + q), `products` (n, W + k) with the W means
        and the directions, and `span` (W, k) combines the means to what they span of the directions.
    """

    task: Task
    energy: float | None
    tensors: Mapping[str, Tensor]

    @property
    def head_size(self) -> int:
        """q."""
        return len(self.tensors["head_scale"])

    @property
    def more(self) -> int:
        """k + q, the coordinates that only this task has."""
        return self.tensors["directions"].shape[1] + self.head_size


def extended_space(model: nn.Module, extended: nn.Module, config: Config) -> WeightSpace:
    """The base model's parameters as they lie, then those of the added heads, task after task."""
    old, every = dict(model.named_parameters()), dict(extended.named_parameters())
    ordered = {**{name: every[name] for name in old}, **every}
    return WeightSpace({name: tuple(p.shape) for name, p in ordered.items()}, config.gradients.layers)


def with_heads(
    model: nn.Module, tasks: Sequence[Task], config: Config, input_shape: Sequence[int], added: Sequence[NewTask]
) -> nn.Module:
    """The base model of `tasks` with the heads of added tasks behind its own."""
    extended = build_model(config.model, input_shape, [*tasks, *(new.task for new in added)], config.base.seed)
    heads = _heads_name(extended)
    weights = dict(model.state_dict())
    for index, new in enumerate(added, start=len(tasks)):
        weights[f"{heads}.weight_{index}"] = new.tensors["head_weight"]
        weights[f"{heads}.bias_{index}"] = new.tensors["head_bias"]
    extended.load_state_dict(weights)
    return extended


def new_task(
    model: nn.Module,
    suite: Suite,
    config: Config,
    anchor: Mapping[str, Tensor],
    device: str | torch.device = "cpu",
) -> NewTask:
    """Features of the last task of a suite, by a base model of the tasks before it.

    Parameters
    ----------
    model : the base model. anchor : of the study, as ``read_anchor`` gives it.

    Raises
    ------
    UserError
        The base model diverges on an example of the task.
    """
    known, task = suite.tasks[:-1], suite.tasks[-1]
    number, shape = len(known), suite.inputs.shape[1:]
    blank = torch.zeros(task.outputs, _width(model)), torch.zeros(task.outputs)
    unfitted = NewTask(task, 0.0, dict(zip(("head_weight", "head_bias"), blank, strict=True)))
    extended = with_heads(model, known, config, shape, [unfitted]).to(device)
    weight, bias = _fitted_head(extended, suite, device)
    with torch.no_grad():
        own = extended.get_submodule(_heads_name(extended)).head(number)  # type: ignore[operator]
        own[0].copy_(weight)
        own[1].copy_(bias)
    gradients, batch = PerExampleGradients(extended, suite.tasks), config.gradients.batch_rows
    old, space = extended_space(model, model, config), extended_space(model, extended, config)
    head = WeightSpace({name: shape for name, shape in space.shapes.items() if name not in old.shapes})
    head_scale = torch.full((head.size,), _usual_head_scale(old, _heads_name(model), anchor))
    example, of_task = zip(*(suite.pairs(split) for split in (TRAIN, VALIDATION)), strict=True)
    rows = [own[task == number] for own, task in zip(example, of_task, strict=True)]
    numbers = [np.full(len(own), number, np.int32) for own in rows]
    # The only task of its own statistics.
    sums = [
        replace(gradient_sums(gradients, space, suite, *pairs, batch), tasks=np.zeros(1, np.int64))
        for pairs in zip(rows, numbers, strict=True)
    ]
    statistics = combine(sums[:1], sums[1:], 1)
    directions = torch.zeros(old.size, 0)
    if "basis" in anchor:
        spanned, columns = _spanned(old, _heads_name(model), anchor)
        by_older = GradientStatistics(**{n: row[:, columns] for n, row in statistics.to_tensors().items()})
        seed, scale = config.gradients.seed, anchor["scale"][columns].to(device)
        few = np.sort(np.random.default_rng([seed, 11]).permutation(len(rows[0]))[:LANDMARKS])
        landmarks = LandmarkGradients(gradients, spanned, scale, suite, rows[0][few], numbers[0][few], batch)
        directions = own_directions(by_older, landmarks, anchor["basis"].to(device), OWN_DIRECTIONS, seed).cpu()
    named = dict(extended.named_parameters())
    apart = {"span": spanned_by(anchor["outside"], directions.T)} if "outside" in anchor else {}
    tensors = {
        **apart,
        **{"head_weight": weight.cpu(), "head_bias": bias.cpu(), "directions": directions, "head_scale": head_scale},
        "head_space": head.flatten(named).cpu() if head.size else torch.zeros(0),
        **{name: part[0].clone() for name, part in statistics.to_tensors().items()},
        "inputs": torch.from_numpy(suite.inputs[rows[1]]),
        "labels": torch.from_numpy(suite.labels[rows[1], number]),
    }
    reduce = _Reduction(config, old, _heads_name(model), head, anchor, directions, head_scale, device)
    for name, own, task_of in zip(("train", "validation"), rows, numbers, strict=True):
        made = compute_features(gradients, reduce, suite, own, task_of, batch)
        parts = {"features": made.features, "margins": made.margins, "targets": made.targets, "example": own}
        parts |= {} if made.products is None else {"products": made.products}
        tensors |= {f"{name}_{key}": torch.from_numpy(np.ascontiguousarray(part)) for key, part in parts.items()}
    return NewTask(task, _energy(tensors, anchor, config, task), tensors)


class _Reduction(Reduction):
    """That of the study for its own parameters with the directions of the task behind its basis, and every parameter
    of the new head as it is; behind those, as `products`, what is along means outside the basis and the directions."""

    def __init__(
        self,
        config: Config,
        old: WeightSpace,
        heads: str,
        head: WeightSpace,
        anchor: Mapping[str, Tensor],
        directions: Tensor,
        head_scale: Tensor,
        device: str | torch.device,
    ) -> None:
        basis, scale = None, anchor["scale"]
        if "basis" in anchor:
            means = [anchor["outside"].T] if "outside" in anchor else []
            basis = torch.cat([anchor["basis"], *means, directions], dim=1).to(device)
            old, columns = _spanned(old, heads, anchor)
            scale = scale[columns]
        self._old = build_reduction(config.gradients, old, scale.to(device), basis)
        self._head = Exact(head, head_scale.to(device)) if head.size else None
        self.products = len(anchor["outside"]) + directions.shape[1] if "outside" in anchor else 0
        self.dimension = self._old.dimension + head.size - self.products

    def add(self, block: GradientBlock, total: Tensor) -> None:
        # The study's own numbers lie around those of the new head.
        first = self._old.dimension - self.products
        around = torch.zeros(len(total), self._old.dimension, device=total.device)
        self._old.add(block, around)
        total[:, :first] += around[:, :first]
        total[:, self.dimension :] += around[:, first:]
        if self._head is not None:
            self._head.add(block, total[:, first : self.dimension])


def _spanned(old: WeightSpace, heads: str, anchor: Mapping[str, Tensor]) -> tuple[WeightSpace, Tensor]:
    """The older parameters that the basis is of, and their columns: all, or those outside the heads."""
    if "own" not in anchor:
        return old, torch.arange(old.size)
    return shared_space(old, f"{heads}."), shared_columns(anchor["own"], old.size)


def _usual_head_scale(old: WeightSpace, heads: str, anchor: Mapping[str, Tensor]) -> float:
    """The optimizer never saw the new head: its metric is that of a usual parameter of the other heads."""
    known = [anchor["scale"][columns] for name, columns in old.slices.items() if name.startswith(f"{heads}.")]
    return float(torch.cat(known).median()) if known else 1.0


def _energy(tensors: Mapping[str, Tensor], anchor: Mapping[str, Tensor], config: Config, task: Task) -> float | None:
    """Neither the head's coordinates nor the task's own directions count: they hold noise as well as what other tasks
    have to do with it."""
    if "basis" in anchor:
        d = anchor["basis"].shape[1]
    elif config.gradients.reduction == "exact":
        d = len(anchor["weights"])
    else:
        return None
    margins, targets = tensors["train_margins"], tensors["train_targets"]
    slopes = (margins if task.kind == "regression" else torch.sigmoid(margins)) - targets
    held = (slopes.square() * tensors["train_features"][:, :d].double().square().sum(dim=1)).mean()
    whole = tensors["square"][: len(anchor["scale"])].double() @ anchor["scale"].double().square()
    return float(held / whole) if whole > 0 else 1.0


def _fitted_head(model: nn.Module, suite: Suite, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Weight (C, width) and bias (C,) with the least validation loss over the penalties."""
    number, losses = len(suite.tasks) - 1, TaskLosses(suite.tasks[-1:])

    def of(split: int) -> tuple[Tensor, Tensor]:
        rows = np.flatnonzero((suite.split == split) & suite.observed[:, number])
        seen = _representation(model, torch.from_numpy(suite.inputs[rows]).to(device), number)
        return seen, torch.from_numpy(suite.labels[rows, number:]).to(device)

    train, validation = of(TRAIN), of(VALIDATION)

    def loss(head: Sequence[Tensor], part: tuple[Tensor, Tensor]) -> Tensor:
        return losses(nn.functional.linear(part[0], head[0], head[1]), part[1]).mean()

    best, least = None, np.inf
    outputs, width = suite.tasks[-1].outputs, train[0].shape[1]
    head = [torch.zeros(outputs, width, device=device), torch.zeros(outputs, device=device)]
    for penalty in _PENALTIES:
        head = [part.detach().clone().requires_grad_() for part in head]
        optimizer = torch.optim.LBFGS(head, max_iter=_STEPS, line_search_fn="strong_wolfe")

        def closure(head: list[Tensor] = head, penalty: float = penalty) -> Tensor:
            for part in head:
                part.grad = None
            value = loss(head, train) + penalty / 2 * head[0].square().sum()
            value.backward()
            return value

        optimizer.step(closure)
        with torch.no_grad():
            value = float(loss(head, validation))
        if value < least:
            best, least = [part.detach().clone() for part in head], value
    if best is None:
        raise UserError(f"task `{suite.tasks[-1].name}`: no head fits what the base model makes of its examples")
    return best[0], best[1]


@torch.no_grad()
def _representation(model: nn.Module, inputs: Tensor, task: int) -> Tensor:
    """(n, width) what the heads read."""
    seen: list[Tensor] = []
    heads = model.get_submodule(_heads_name(model))
    handle = heads.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    try:
        model.eval()(inputs, [task])
    finally:
        handle.remove()
    return seen[0]


def _heads_name(model: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if isinstance(module, TaskHeads))


def _width(model: nn.Module) -> int:
    heads = model.get_submodule(_heads_name(model))
    weight: Tensor = heads.head(0)[0]  # type: ignore[operator]
    return weight.shape[1]
