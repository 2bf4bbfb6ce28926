"""Which subsets `validate` trains, where only some tasks count."""

from __future__ import annotations

from affinity_service.config import Config
from affinity_service.engine.validation import anchor_tasks, moments_of, validation_subsets


def config(**validation) -> Config:
    return Config.parse({"name": "v", "data": {"source": "yeast"}, "validation": {"seed": 3, **validation}})


def test_subsets_are_built_around_anchors_in_turn():
    settings = config(anchors=4, subsets=20, sizes=(3, 5))
    anchors, subsets = anchor_tasks(settings, 30), validation_subsets(settings, 30)
    assert len(anchors) == 4
    assert len(set(subsets)) == 20
    assert all(3 <= len(subset) <= 5 and set(subset) & set(anchors) for subset in subsets)
    assert all(sum(anchor in subset for subset in subsets) >= 5 for anchor in anchors)


def test_without_anchors_or_with_as_many_as_tasks_all_count():
    assert anchor_tasks(config(), 7) == anchor_tasks(config(anchors=9), 7) == list(range(7))
    assert validation_subsets(config(anchors=7), 7) == validation_subsets(config(), 7)


def test_the_stated_moment_is_measured_too():
    """What is corrected and has intervals is what `predict` answers."""
    last = Config.parse({"name": "v", "data": {"source": "yeast"}, "fits": {"stop": "last", "epochs": 15}})
    assert moments_of(last, 15) == ["best", 2, 5, 15]
    assert moments_of(config(), 15) == ["best", 2, 5]
    assert moments_of(config(), 3) == ["best", 2]
    assert moments_of(config(start="initial"), 15) == ["best"]
