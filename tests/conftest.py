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


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a tiny random language model."""
    from tests.language_models import write_tiny_llama

    return write_tiny_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(autouse=True)
def _same_random_numbers_every_time():
    """A test that draws without a seed of its own must not fail one time in a hundred."""
    torch.manual_seed(0)
