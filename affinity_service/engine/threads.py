"""As many threads for torch as the task has cores."""

from __future__ import annotations

import os

import torch


def take_assigned_threads() -> None:
    """Ray tells every task by OMP_NUM_THREADS how many cores it was given, unless the operator has set that; but torch
    reads it once, when the first task of the process imports torch, and that may have had fewer."""
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
