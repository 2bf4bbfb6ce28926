"""One real local Ray for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    # Unit tests need no Ray and should not wait for its import.
    from affinity_service.engine.session import connected

    with connected():
        yield


@pytest.fixture(autouse=True)
def _same_random_numbers_every_time():
    """A test that draws without a seed of its own must not fail one time in a hundred."""
    torch.manual_seed(0)
