"""Large arrays that are made and dropped again and again."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource
from affinity_service.fitting.kept_memory import kept_memory

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        b"x" * (1 << 26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

faults(2)
plain, before = faults(10), resident()
with kept_memory():
    with kept_memory():
        faults(2)
    kept = faults(10)
after, again = resident(), faults(10)
print(plain, kept, again, after - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_pages_are_taken_once_and_given_back_at_the_end():
    # A process of its own: what other tests did to this one's memory does not count.
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    plain, kept, again, grown = map(int, done.stdout.split())
    pages = (1 << 26) // resource.getpagesize()
    if plain < pages:
        pytest.skip("this kernel gives pages that count as fewer")
    # Once or twice, of ten times.
    assert kept < plain / 4
    assert again > plain / 2
    assert grown < pages / 4
