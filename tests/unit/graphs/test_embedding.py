import numpy as np
import pytest
import torch

from affinity_service.graphs.embedding import (
    gram,
    in_large_component,
    orthonormalising,
    random_rows,
    unit_rows,
)


def test_random_rows_are_a_blocks_own():
    assert torch.equal(random_rows(4, 3, 7, 2), random_rows(4, 3, 7, 2))
    assert not torch.equal(random_rows(4, 3, 7, 2), random_rows(4, 3, 7, 1))
    assert not torch.equal(random_rows(4, 3, 7, 2), random_rows(4, 3, 8, 2))


def test_columns_become_orthonormal_from_the_gram_matrices_of_blocks():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20_000, 6, generator=generator) @ (
        torch.eye(6) + 0.1 * torch.randn(6, 6, generator=generator)
    )
    total = sum(gram(part) for part in features.split(7000))
    made = features @ orthonormalising(total)
    torch.testing.assert_close(made.T @ made, torch.eye(6), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_columns_that_coincide_do_no_harm(rows):
    generator = torch.Generator().manual_seed(rows)
    noise = torch.randn(rows, 64, generator=generator)
    features = torch.randn(rows, 1, generator=generator) @ torch.ones(1, 64) + 1e-6 * noise
    made = features @ orthonormalising(gram(features))
    assert torch.isfinite(made).all()
    assert float(made.norm()) < 10


def test_rows_have_unit_length_and_zeros_stay():
    found = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_small_components_are_left_out(small):
    def kept(edges, nodes, dimension):
        return in_large_component(np.array(edges), nodes, dimension).flatten().int().tolist()

    assert kept(small.edges, 7, 4) == [1] * 6 + [0], "the isolated node"
    path, pair = [[0, 1], [1, 2], [2, 3]], [[4, 5]]
    assert kept(path + pair, 7, 1) == [1] * 6 + [0]
    assert kept(path + pair, 7, 2) == [1] * 4 + [0] * 3
    assert kept(path + pair, 7, 100) == [1] * 4 + [0] * 3, "never the largest"
    assert kept([[0, 1], [2, 3]], 4, 100) == [1] * 4, "nor several of them"
    assert kept([[0, 0]], 3, 8) == [1] * 3
