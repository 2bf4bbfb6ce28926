"""Losses of the network itself at displaced weights: `evaluate: network` (Grad-TAG, arXiv 2409.06091, §3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from affinity_service.deadline import check_deadline
from affinity_service.evaluation.head_slots import HeadSlots, gather
from affinity_service.evaluation.own_rows import Part, evaluation_parts
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models.heads import task_heads
from affinity_service.models.losses import TaskLosses
from affinity_service.tasks.label_bits import LabelBits
from affinity_service.tasks.suite import Task

# Numbers of one forward pass of many networks, and its rows, as many as stay in a core's cache.
_ENTRIES = 1 << 24
_ROWS = 512
# Numbers of weights of networks that are at work together.
_WEIGHTS = 1 << 26


class ValidationNetworks:
    """Runs many displaced copies of one model, each on the examples and with the heads of its own tasks.

    Parameters
    ----------
    model : the base model, with its weights.
    space : the parameters that displacements (M, p) speak of; others stay as they are.
    inputs, labels : (V, ...) and (V, T) of the validation examples.
    """

    def __init__(
        self,
        model: nn.Module,
        space: WeightSpace,
        tasks: Sequence[Task],
        inputs: Tensor,
        labels: Tensor,
        device: str = "cpu",
    ) -> None:
        self.model, self.space, self.tasks = model.to(device).eval(), space, tasks
        self.prefix = task_heads(self.model)[0]
        self.weights = {name: p.detach() for name, p in self.model.named_parameters()}
        self.shared = [name for name in self.weights if not name.startswith(self.prefix)]
        self.bits = LabelBits.from_mask((~labels.isnan()).cpu().numpy())
        # One example more, which pads: it has no label.
        self.inputs = torch.cat([inputs, torch.zeros_like(inputs[:1])]).to(device)
        self.labels = torch.cat([labels, torch.full_like(labels[:1], torch.nan)]).to(device)
        self.device = device
        # Every model gathers its own examples.
        widest = max(inputs[0].numel(), *(p.shape[0] for name, p in self.weights.items() if name in self.shared))
        self._together = max(1, min(_ENTRIES // (_ROWS * widest), _WEIGHTS // max(1, space.size)))

    @torch.no_grad()
    def __call__(self, w: Tensor, subsets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Mean losses (M, T) of the subsets' members at weights + w (M, p), and their standard errors over examples;
        NaN outside the subsets."""
        mean = torch.full((len(subsets), len(self.tasks)), torch.nan, device=w.device)
        error = torch.full_like(mean, torch.nan)
        # Neighbours have about equally many tasks, so that few slots and rows stay empty.
        order = sorted(range(len(subsets)), key=lambda i: (len(subsets[i]), tuple(subsets[i])))
        for start in range(0, len(order), self._together):
            check_deadline()
            part = order[start : start + self._together]
            mean[part], error[part] = self._some(w[part], [subsets[i] for i in part])
        return mean, error

    def _some(self, w: Tensor, subsets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        slots = HeadSlots.of(subsets, self.tasks)
        compact = slots.compact(self.model)
        weights = self._weights(w, slots, compact)
        losses = TaskLosses(slots.tasks)
        task_in = torch.as_tensor(slots.task_in, device=self.device)
        total, squares, count = (torch.zeros(task_in.shape, dtype=torch.float64, device=self.device) for _ in range(3))
        rows = [self.bits.rows(subset) for subset in subsets]

        def forward(own: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return torch.func.functional_call(compact, own, (inputs,))

        for part in evaluation_parts(rows, _ROWS, len(self.labels) - 1, self.device):
            chosen = weights if isinstance(part.models, slice) else {n: p[part.models] for n, p in weights.items()}
            call = torch.func.vmap(forward, in_dims=(0, None if part.rows.ndim == 1 else 0))
            labels = self._labels(part, task_in[part.models])
            found = losses(call(chosen, self.inputs[part.rows]), labels).double()
            total[part.models] += found.sum(dim=1)
            squares[part.models] += found.square().sum(dim=1)
            count[part.models] += (~labels.isnan()).sum(dim=1)
        mean = total / count
        variance = (squares / count - mean**2).clamp(min=0) * count / (count - 1)
        return self._by_task(mean, task_in), self._by_task((variance / count).sqrt(), task_in)

    def _weights(self, w: Tensor, slots: HeadSlots, compact: nn.Module) -> dict[str, Tensor]:
        """(M, ...) by the names of the compact model."""
        moved = {name: w[:, columns].view(-1, *self.space.shapes[name]) for name, columns in self.space.slices.items()}
        found = {}
        for name in self.shared:
            base = self.weights[name]
            found[name] = base + moved[name] if name in moved else base.expand(len(w), *base.shape)
        shapes = {n: tuple(p.shape) for n, p in compact.named_parameters() if n not in found}
        per_model = []
        for number in range(len(w)):
            names = slots.whole_names(self.prefix, number)
            whole = {
                own: self.weights[own] + moved[own][number] if own in moved else self.weights[own]
                for own in names.values()
                if own is not None
            }
            per_model.append(gather(whole, names, shapes))
        return found | {name: torch.stack([each[name].to(self.device) for each in per_model]) for name in shapes}

    def _labels(self, part: Part, task_in: Tensor) -> Tensor:
        """(M', B, S) of the slots' tasks, NaN in empty ones."""
        rows = part.rows.expand(len(task_in), -1)
        known = task_in < len(self.tasks)
        labels = self.labels[rows[:, :, None], task_in.clamp(max=len(self.tasks) - 1)[:, None, :]]
        return torch.where(known[:, None, :], labels, torch.nan)

    def _by_task(self, values: Tensor, task_in: Tensor) -> Tensor:
        """(M, S) by slot → (M, T)."""
        found = torch.full((len(values), len(self.tasks) + 1), torch.nan, device=values.device)
        return found.scatter_(1, task_in, values.float())[:, :-1]
