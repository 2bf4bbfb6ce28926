"""What is learned: the suite of tasks and the sources it comes from."""

from affinity_service.tasks.source import load_suite
from affinity_service.tasks.suite import SPLITS, TEST, TRAIN, VALIDATION, Suite, Task

__all__ = ["SPLITS", "TEST", "TRAIN", "VALIDATION", "Suite", "Task", "load_suite"]
