"""In what unit the losses of tasks are."""

from __future__ import annotations

from collections.abc import Iterable


def loss_unit(kinds: Iterable[str]) -> str:
    """The unit of a loss averaged over tasks of these kinds; the report's glossary says what a mixed one is."""
    kinds = set(kinds)
    if kinds == {"sequence"}:
        return "nats per answer token"
    regression = {kind == "regression" for kind in kinds}
    if regression == {True}:
        return "half squared standard deviations"
    if regression == {True, False}:
        return "loss units"
    return "nats"
