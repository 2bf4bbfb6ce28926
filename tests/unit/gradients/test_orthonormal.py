"""Orthonormal columns, also of columns that depend on each other."""

from __future__ import annotations

import pytest
import torch

from affinity_service.gradients.orthonormal import orthonormalised


@pytest.mark.parametrize("repeated", [0, 1, 3])
def test_columns_become_orthonormal_and_the_first_ones_keep_their_span(repeated) -> None:
    columns = torch.randn(40, 9, generator=torch.Generator().manual_seed(0))
    if repeated:
        # The same direction again, or none at all.
        columns[:, -repeated:] = columns[:, :repeated]
        columns[:, -1] = 0
    found = orthonormalised(columns)
    assert found.shape == columns.shape
    torch.testing.assert_close(found.T @ found, torch.eye(9), atol=1e-5, rtol=0)
    for count in range(1, 10 - repeated):
        own = columns[:, :count]
        torch.testing.assert_close(found[:, :count] @ (found[:, :count].T @ own), own, atol=1e-4, rtol=1e-4)
