"""A causal language model as a model of many tasks: its one output is the margin of the answer.

The logistic loss of a sequence's margin is the mean loss of its answer's tokens, exactly (value and gradient), so that
trainings, features and fits work on answers as on binary labels that are all 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from affinity_service.tasks.tokens import PAD


def token_margins(logits: Tensor, label: Tensor) -> Tensor:
    """(n, V) logits, (n,) ids → (n,) z_y − log Σ_{k≠y} exp(z_k), whose logistic loss is −log p_y; in float32 at
    least."""
    return _TokenMargins.apply(logits, label)


class _TokenMargins(torch.autograd.Function):
    """The vocabulary is long: autograd would go over it a dozen times and keep three copies of the logits, not one."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor) -> Tensor:
        chosen = label[:, None]
        odds = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        own = odds.gather(1, chosen)[:, 0]
        odds.scatter_(1, chosen, -torch.inf)
        top = odds.max(dim=1).values
        total = odds.sub_(top[:, None]).exp_().sum(dim=1)
        ctx.save_for_backward(odds, total, chosen)
        ctx.dtype = logits.dtype
        return own - top - total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *errors: Tensor) -> Any:
        odds, total, chosen = ctx.saved_tensors
        back = odds * (-errors[0] / total)[:, None]
        return back.scatter_(1, chosen, errors[0][:, None]).to(ctx.dtype), None


def sequence_margins(margins: Tensor, row: Tensor, rows: int) -> Tensor:
    """(n,) token margins of sequence `row` each → (rows,) float64 margins h = −log(exp(L) − 1) of the sequences, L the
    mean of log(1 + exp(−margin)) over a sequence's tokens; 0 for a sequence without any."""
    losses = F.softplus(-margins.double())
    total = losses.new_zeros(rows).index_add(0, row, losses)
    count = torch.bincount(row, minlength=rows)
    mean = torch.where(count > 0, total / count.clamp(min=1), 1.0)
    # Neither form of −log(exp(L) − 1) overflows or cancels, however small or large L is.
    return torch.where(count > 0, -mean - torch.log(-torch.expm1(-mean)), 0.0)


class CausalLM(nn.Module):
    """Wraps a causal language model of transformers, with or without adapters.

    Parameters
    ----------
    network : called with input_ids, attention_mask and position_ids; its parameters that require a gradient train.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        accepted = inspect.signature(_inner(network).forward).parameters
        self._keeps = "logits_to_keep" in accepted
        self._placed = "position_ids" in accepted

    def forward(self, inputs: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """(B, 2, L) ids and learned ids, as ``TokenRows`` gives them → (B, columns) margins, the same in the column of
        every task asked for; one column when None."""
        ids, goal = inputs[:, 0], inputs[:, 1]
        real = ids != PAD
        learned = goal != PAD
        # Padding is on the left: what is learned lies in the last columns, and only their logits are made.
        length = ids.shape[1]
        first = max(1, int(learned.any(dim=0).nonzero()[0])) if learned.any() else length
        further: dict[str, Any] = {"logits_to_keep": length - first + 1} if self._keeps else {}
        if self._placed:
            further["position_ids"] = (real.long().cumsum(dim=1) - 1).clamp(min=0)
        answer = self.network(
            input_ids=ids.clamp(min=0), attention_mask=real.long(), use_cache=False, return_dict=True, **further
        )
        # The logits of a place are of the token that follows.
        logits, goal, learned = answer.logits[:, first - length - 1 : -1], goal[:, first:], learned[:, first:]
        margins = token_margins(logits[learned], goal[learned])
        row = learned.nonzero()[:, 0]
        columns = 1 if tasks is None else len(tasks)
        return sequence_margins(margins, row, len(ids))[:, None].expand(-1, columns)


def _inner(network: nn.Module) -> nn.Module:
    """The model within peft's wrappers."""
    unwrap: Callable[[], nn.Module] | None = getattr(network, "get_base_model", None)
    return network if unwrap is None else unwrap()
