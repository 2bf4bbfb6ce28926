"""What an operator is told after a scheduled training."""

from __future__ import annotations

from affinity_service.scheduling.warnings import warnings_of

ROW = {"tau": 0.25, "density": 0.5, "visits": [3, 3, 3], "shortfall": [None] * 3, "skipped": [0, 0, 0]}


def test_nothing_to_say_of_a_schedule_as_it_should_be():
    assert warnings_of([], "abc") == []
    assert warnings_of([{**ROW, "tau": 1.0, "density": 0.0}, ROW], "abc") == []


def test_each_trouble_is_named():
    def said(**changes) -> str:
        return " ".join(warnings_of([{**ROW, **changes}], "abc"))

    assert "no pair ever conflicted" in said(density=0.0)
    assert "every pair conflicted" in said(density=1.0)
    assert "never trained, as no batch of its turns had examples: b" in said(visits=[3, 0, 3])
    assert "less coverage than asked for, as others conflict: c 33%" in said(shortfall=[None, None, 1 / 3])
    assert "not finite were left out of the averages: a 2" in said(skipped=[2, 0, 0])
