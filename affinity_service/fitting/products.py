"""Matrix products of the sizes that the fits need.

On processors for which torch's BLAS has no tuned kernel (AMD with AVX-512: MKL falls back to AVX2) oneDNN's
linear operator is about twice as fast as `torch.mm`; where it is missing or unsuitable, `torch.addmm` does the
same work.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

# Below this many multiplications the dispatch of oneDNN costs more than its kernel saves.
_ONEDNN_MIN_WORK = 1 << 20


@cache
def _onednn_linear() -> Callable[..., Tensor] | None:
    """oneDNN's linear operator if this torch has it and it computes what we think it computes."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        linear: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
        x = torch.arange(12.0).reshape(3, 4) / 7
        a = torch.arange(8.0).reshape(4, 2).t() / 5
        b = torch.tensor([0.5, -2.0])
        found = linear(x, a, b, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return None
    return linear if torch.allclose(found, x @ a.t() + b, rtol=1e-5, atol=1e-6) else None


def affine(x: Tensor, a: Tensor, b: Tensor | None = None) -> Tensor:
    """x @ aᵀ + b for matrices, or for stacks of them: x (…, m, k), a (…, n, k), b (…, n) → (…, m, n)."""
    if x.dim() == 3:
        if b is None:
            return torch.bmm(x, a.transpose(1, 2))
        return torch.baddbmm(b[:, None, :], x, a.transpose(1, 2))
    big = x.shape[0] * x.shape[1] * a.shape[0] >= _ONEDNN_MIN_WORK
    if big and x.device.type == "cpu" and x.dtype == torch.float32:
        linear = _onednn_linear()
        if linear is not None:
            return linear(x, a, b, "none", [], "")
    if b is None:
        return x @ a.t()
    return torch.addmm(b, x, a.t())


def multiply(x: Tensor, y: Tensor, out: Tensor) -> None:
    """Writes x @ y for stacks (B, m, k) and (B, k, n). A stack of one would run on a single core in `torch.bmm`."""
    if len(x) == 1:
        torch.mm(x[0], y[0], out=out[0])
    else:
        torch.bmm(x, y, out=out)


class _FullPrecision:
    """How many blocks of any thread need it, and what was set before the first: torch has one setting for all."""

    lock = threading.Lock()
    depth = 0
    before = "highest"


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 or bfloat16 inside float32 products: their rounding would hide the end of a fit. Blocks may overlap."""
    state = _FullPrecision
    with state.lock:
        if state.depth == 0:
            state.before = torch.get_float32_matmul_precision()
            if state.before != "highest":
                torch.set_float32_matmul_precision("highest")
        state.depth += 1
    try:
        yield
    finally:
        with state.lock:
            state.depth -= 1
            if state.depth == 0 and state.before != "highest":
                torch.set_float32_matmul_precision(state.before)


_THREADS = threading.Lock()
_TURN = threading.Lock()


@contextmanager
def little_work() -> Iterator[None]:
    """On one thread, and of several Python threads one after the other: between operations of a few microseconds they
    would only take the interpreter from each other, and all be done later. Blocks must not stand in each other."""
    with _TURN, one_thread():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Products of a few thousand rows end before a second thread has begun. Other Python threads keep theirs.

    OpenMP has a number for each Python thread, but torch gives a new one what any other set last: a thread begun inside
    the block would go on with one for ever. So the old number is set again from elsewhere, which leaves it here at one.
    """
    with _THREADS:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        if before != 1:
            elsewhere = threading.Thread(target=torch.set_num_threads, args=(before,))
            elsewhere.start()
            elsewhere.join()
    try:
        yield
    finally:
        with _THREADS:
            torch.set_num_threads(before)
