"""One real local Ray for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    # Unit tests need no Ray and should not wait for its import.
    from affinity_service.engine.session import connected

    with connected():
        yield
