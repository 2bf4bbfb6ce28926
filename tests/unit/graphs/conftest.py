"""A small graph of two communities that can be looked through by eye."""

from __future__ import annotations

import numpy as np
import pytest

from affinity_service.graphs.raw import RawGraph


@pytest.fixture
def small() -> RawGraph:
    """Two triangles joined by an edge, a pair that repeats, a self-loop and an isolated node."""
    edges = np.array([[0, 1], [1, 2], [2, 0], [2, 3], [3, 4], [4, 5], [5, 3], [1, 0], [0, 1], [4, 4]])
    return RawGraph(
        "made",
        np.array([10, 11, 12, 13, 14, 15, 16]),
        edges,
        {"left": np.array([0, 1, 2]), "right": np.array([3, 4, 5])},
        {"right": np.array([0, 6])},
        np.arange(14, dtype=np.float32).reshape(7, 2),
        np.array([0, 1, 2, 0, 1, 2, 0], np.int8),
    )
