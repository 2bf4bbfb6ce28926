"""Which of a model's parameters several tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from affinity_service.errors import UserError
from affinity_service.models.heads import TaskHeads


def shared_parameters(model: nn.Module, patterns: Sequence[str] = ()) -> list[str]:
    """Names of the parameters outside the tasks' heads that train, or of those that a pattern such as ``body.*`` names.

    Tied parameters are named once, frozen ones not at all.

    Raises
    ------
    UserError
        A pattern that names nothing or a task's own head, or no shared parameter at all.
    """
    trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    heads = [f"{name}." if name else "" for name, module in model.named_modules() if isinstance(module, TaskHeads)]
    outside = [name for name in trains if not any(name.startswith(head) for head in heads)]
    for pattern in patterns:
        named = [name for name in trains if fnmatchcase(name, pattern)]
        if not named:
            raise UserError(f"shared: {pattern!r} names no parameter that trains; there are {', '.join(trains[:8])} …")
        own = sorted(set(named) - set(outside))
        if own:
            raise UserError(f"shared: {pattern!r} names {own[0]}, which belongs to one task alone")
    found = [name for name in outside if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not found:
        raise UserError("the model has no shared parameters: tasks without any cannot help or harm each other")
    return found
