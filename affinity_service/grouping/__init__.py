"""Which tasks to train together: partitions with a certified bound, and budgeted overlapping networks."""

from affinity_service.grouping.clustering import METHODS, Grouping, cluster
from affinity_service.grouping.matrix import centre_rows
from affinity_service.grouping.selection import Selection, select_networks

__all__ = ["METHODS", "Grouping", "Selection", "centre_rows", "cluster", "select_networks"]
