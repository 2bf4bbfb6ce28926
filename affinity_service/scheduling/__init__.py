"""Which tasks train together in which step: SON-GOKU's interference graph, colouring and schedule."""

from affinity_service.scheduling.schedule import Plan, Refresh
from affinity_service.scheduling.scheduler import InterferenceScheduler

__all__ = ["InterferenceScheduler", "Plan", "Refresh"]
