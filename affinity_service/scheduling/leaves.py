"""Which parameters a loss is a function of."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def leaves_of(loss: Tensor) -> list[Tensor]:
    """The leaves of the loss's graph that a backward pass writes gradients to."""
    found: dict[int, Tensor] = {}
    waiting: list[Any] = [loss.grad_fn]
    seen = set()
    if loss.is_leaf and loss.requires_grad:
        return [loss]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # Only the nodes that accumulate gradients have a variable.
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found[id(leaf)] = leaf
        waiting.extend(following for following, _ in node.next_functions)
    return list(found.values())
