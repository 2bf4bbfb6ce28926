"""What is trained: multitask models, their losses, and how they are built from the config."""

from affinity_service.models.build import build_model
from affinity_service.models.heads import TaskHeads
from affinity_service.models.losses import TaskLosses
from affinity_service.models.mlp import MLP

__all__ = ["MLP", "TaskHeads", "TaskLosses", "build_model"]
