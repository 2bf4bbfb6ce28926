"""What a schedule is told, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from affinity_service.errors import UserError


@dataclass(frozen=True)
class ScheduleSettings:
    """See ``InterferenceScheduler``.

    Raises
    ------
    UserError
        A value that is out of its range.
    """

    tau: float = 0.25
    refresh: int = 32
    beta: float = 0.9
    warmup: int = 0
    anneal: int = 0
    quantile: float | None = None
    coverage: float = 0.0
    probes: int = 1
    track: Literal["refresh", "active"] = "refresh"
    split: bool = False

    def __post_init__(self) -> None:
        self._between("tau", -1, 1)
        self._between("coverage", 0, 1)
        if self.quantile is not None:
            self._between("quantile", 0, 1)
        if not (_is_number(self.beta) and 0 <= self.beta < 1):
            raise UserError(f"beta is {self.beta!r}; expected at least 0 and below 1")
        for name, least in (("refresh", 1), ("warmup", 0), ("anneal", 0), ("probes", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"{name} is {value!r}; expected a whole number of steps, at least {least}")
        if self.probes > self.refresh:
            raise UserError(f"probes is {self.probes}, but a refresh comes every {self.refresh} steps")
        if self.track not in ("refresh", "active"):
            raise UserError(f"track is {self.track!r}; expected refresh or active")

    def _between(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not (_is_number(value) and low <= value <= high):
            raise UserError(f"{name} is {value!r}; expected a number from {low} to {high}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def names(cls) -> list[str]:
        return [field.name for field in fields(cls)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
