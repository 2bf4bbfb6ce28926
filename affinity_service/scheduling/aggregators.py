"""Ways to combine the active tasks' gradients, from torchjd."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from affinity_service.errors import UserError

# (m, p) gradients of m tasks → (p,) what the optimizer gets in their place.
Aggregator = Callable[[Tensor], Tensor]
_BY_COUNT = ("NashMTL",)


def named_aggregator(name: str) -> Aggregator | None:
    """The torchjd aggregator of that name, such as PCGrad, MGDA, CAGrad, NashMTL or UPGrad; None for ``sum``.

    It takes any number of rows: classes differ in size. One that remembers (NashMTL) starts anew at every call, so that
    a resumed run is the same as one that was never stopped.

    Raises
    ------
    UserError
        torchjd has no such aggregator, or lacks the solver that it needs.
    """
    if name.lower() == "sum":
        return None
    from torchjd import aggregation

    known = {each.lower().replace("_", ""): each for each in aggregation.__all__ if not each.endswith("Weighting")}
    found = known.get(name.lower().replace("-", "").replace("_", ""))
    if found is None or found in ("Aggregator", "GramianWeightedAggregator", "WeightedAggregator"):
        choices = ", ".join(sorted(each for each in known.values() if "Aggregator" not in each))
        raise UserError(f"aggregator {name!r} is unknown; expected sum or one of torchjd's: {choices}")
    make = getattr(aggregation, found)

    def built(rows: int) -> Aggregator:
        options = {"n_tasks": rows} if found in _BY_COUNT else {"c": 0.5} if found == "CAGrad" else {}
        try:
            return make(**options)
        except ImportError as error:
            raise UserError(f"aggregator {name}: {error}") from error
        except TypeError as error:
            raise UserError(f"aggregator {name} has settings without a default ({error}): pass an instance") from error

    built(2)
    if found in _BY_COUNT:
        return lambda matrix: built(len(matrix))(matrix)
    whole = built(2)
    return lambda matrix: whole(matrix)
