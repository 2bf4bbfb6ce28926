"""As many threads for torch as the task has cores."""

from __future__ import annotations

import os

import torch


def take_assigned_threads() -> None:
    """Ray tells every task by OMP_NUM_THREADS how many cores it was given, unless the operator has set that; but torch
    reads it once, when the first task of the process imports torch, and that may have had fewer."""
    # OpenMP allows a list, a number for each level of nesting.
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if threads.isdigit() and int(threads) > 0:
        torch.set_num_threads(int(threads))
