"""Features of nodes that have none: leading eigenvectors of the propagation itself, each node's brought to unit length.

Subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4): random numbers are propagated, and now and then
made orthonormal again by the Cholesky factor of their d×d Gram matrix, the only thing that blocks have to tell each
other. Seeded, streaming, as fast as hops. A node's place among the leading eigenvectors is where walks that begin at it
stay longest, which is what tells communities apart.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import normalize

# Hops between two orthonormalisations: the columns stay apart in float32.
HOPS_APART = 2
# Of the mean squared length, added to the Gram matrix where columns coincide, as in graphs of few nodes.
RIDGE = 1e-7
GRAM_ROWS = 8192


def random_rows(rows: int, dimension: int, seed: int, block: int) -> Tensor:
    """(rows, d) standard normal, the same for a block whoever asks."""
    generator = np.random.default_rng([seed, block])
    return torch.from_numpy(generator.standard_normal((rows, dimension), dtype=np.float32))


def in_large_component(edges: NDArray[np.int64], nodes: int, dimension: int) -> Tensor:
    """(n, 1) 1 for nodes that the iteration is about, else 0: their features stay zeros.

    Every connected component has an eigenvector of the largest eigenvalue for itself. A few hundred isolated nodes and
    pairs would be all that is found, so components of no more nodes than the embedding has columns are left out; the
    largest never is.

    Parameters
    ----------
    edges : (E, 2) taken both ways.
    """
    entries = (np.ones(len(edges), bool), (edges[:, 0].astype(np.int32), edges[:, 1].astype(np.int32)))
    _, component = connected_components(sp.coo_matrix(entries, (nodes, nodes)), directed=False)
    sizes = np.bincount(component)
    large = sizes > min(dimension, sizes.max() - 1)
    return torch.from_numpy(large[component].astype(np.float32)[:, None])


def gram(features: Tensor) -> Tensor:
    """(d, d) XᵀX of a block's rows, in double precision."""
    total = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    # In pieces: doubles of a block would be larger than the block. In float32 the ridge would drown in rounding.
    for part in features.split(GRAM_ROWS):
        total += part.double().T @ part.double()
    return total


def orthonormalising(total: Tensor) -> Tensor:
    """(d, d) float32 R with (XR)ᵀ(XR) = I for the Gram matrix of all rows (d, d)."""
    size = total.diagonal().mean()
    lower = torch.linalg.cholesky(total + RIDGE * size * torch.eye(len(total), dtype=total.dtype))
    return torch.linalg.solve_triangular(lower, torch.eye(len(total), dtype=total.dtype), upper=False).T.float()


def unit_rows(features: Tensor) -> Tensor:
    """(rows, d), each of length 1; a row of zeros stays one."""
    return normalize(features.float(), dim=1)
