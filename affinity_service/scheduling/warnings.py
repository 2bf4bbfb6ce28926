"""What an operator must know of a schedule after the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def warnings_of(refreshes: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Sentences on the rows of a study's `schedule.parquet`; none where all is as it should be."""
    if not refreshes:
        return []
    last, found = refreshes[-1], []
    drawn = [row["density"] for row in refreshes if row["tau"] < 1]
    if len(names) > 2 and drawn and max(drawn) == 0:
        found.append("schedule: no pair ever conflicted, this was joint training; lower tau, or give a quantile")
    if len(names) > 2 and drawn and min(drawn) == 1:
        found.append("schedule: every pair conflicted, tasks trained one by one; raise tau, or give a quantile")
    never = [name for name, visits in zip(names, last["visits"], strict=True) if not visits]
    if never:
        found.append(f"schedule: never trained, as no batch of its turns had examples: {', '.join(never)}")
    short = [f"{name} {share:.0%}" for name, share in zip(names, last["shortfall"], strict=True) if share is not None]
    if short:
        found.append(f"schedule: less coverage than asked for, as others conflict: {', '.join(short)}")
    skipped = [f"{name} {count}" for name, count in zip(names, last["skipped"], strict=True) if count]
    if skipped:
        found.append(f"schedule: gradients that were not finite were left out of the averages: {', '.join(skipped)}")
    return found
