"""Numbers as people read them: a sign where the sign matters, a unit, and no more digits than the table needs."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable

UNKNOWN = "–"
_MINUS = "−"


def decimals_for(values: Iterable[float], significant: int = 3) -> int:
    """Decimals that show the largest value with so many digits; one choice per table keeps columns aligned."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0.0:
        return significant
    return min(10, max(0, significant - math.floor(math.log10(largest)) - 1))


def number(value: float, decimals: int) -> str:
    if not math.isfinite(value):
        return UNKNOWN
    text = f"{abs(value):,.{decimals}f}"
    return f"{_MINUS}{text}" if value < 0 and float(text.replace(",", "")) else text


def signed(value: float, decimals: int) -> str:
    """With + or −; a value that rounds to zero has neither."""
    text = number(value, decimals)
    return f"+{text}" if value > 0 and float(text.replace(",", "")) else text


def count(value: int, thing: str = "") -> str:
    """`1 task`, `2,417 tasks`."""
    return f"{value:,} {thing}{'' if value == 1 else 's'}" if thing else f"{value:,}"


def percent(share: float) -> str:
    """Two digits, but never 100 % or 0 % for what only comes near."""
    value = 100 * share
    if 0 < value < 0.01:
        return "less than 0.01 %"
    if 99.9 < value < 100:
        return "more than 99.9 %"
    return f"{value:.{decimals_for([value], 2 if value < 10 else 3)}f} %"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 10 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


def flops(value: float) -> str:
    """`3.2 TFLOP`: a number of operations, not a rate."""
    return _scaled(value, 1000.0, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"])


def memory(value: float) -> str:
    return _scaled(value, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"])


def _scaled(value: float, base: float, units: list[str]) -> str:
    if not value or not math.isfinite(value):
        return UNKNOWN
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    return f"{value:.{decimals_for([value]) if power else 0}f} {units[power]}"


def short(name: str, limit: int) -> str:
    """A task's name on one line of at most `limit` characters; the middle goes, as names often differ at the end."""
    line = " ".join("".join(" " if unicodedata.category(c).startswith("C") else c for c in name).split()) or "?"
    if len(line) <= limit:
        return line
    tail = (limit - 1) // 3
    return f"{line[: limit - 1 - tail]}…{line[len(line) - tail :]}"
