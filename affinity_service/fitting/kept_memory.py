"""Memory that stays with the process while large arrays are made and dropped again and again.

glibc takes every array above 32 MiB from the kernel and gives it back when it is dropped; the kernel clears each of its
pages anew. On paths of many subsets of a language model's adapters half of the time went there.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# What glibc itself comes to once arrays of that size have been dropped; `mallopt` ends its adapting.
_LARGEST_THRESHOLD, _MOST_MAPPED = 32 << 20, 65536


class _Kept:
    lock = threading.Lock()
    depth = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Blocks may overlap, in any threads; with the last of them unused memory goes back. Nothing where the C library is
    not glibc."""
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        yield
        return
    with _Kept.lock:
        _Kept.depth += 1
        if _Kept.depth == 1:
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        with _Kept.lock:
            _Kept.depth -= 1
            if _Kept.depth == 0:
                library.mallopt(_MMAP_MAX, _MOST_MAPPED)
                library.mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
                library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)
                library.malloc_trim(0)
