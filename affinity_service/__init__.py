"""Which tasks to train together, told from gradients at one base model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from affinity_service.errors import UserError
    from affinity_service.study import Study

__all__ = ["Study", "UserError"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: a Ray worker that imports one small module does not pay for pandas and torch.
    if name == "Study":
        from affinity_service.study import Study

        return Study
    if name == "UserError":
        from affinity_service.errors import UserError

        return UserError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
