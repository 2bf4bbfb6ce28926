"""Which tasks to train together: partitions with a certified bound, and budgeted overlapping networks."""

from affinity_service.grouping.clustering import METHODS, Grouping, cluster
from affinity_service.grouping.constraints import Constraints
from affinity_service.grouping.matrix import centre_rows
from affinity_service.grouping.networks import Networks, choose_networks
from affinity_service.grouping.selection import Selection, select_networks

__all__ = [
    "METHODS",
    "Constraints",
    "Grouping",
    "Networks",
    "Selection",
    "centre_rows",
    "choose_networks",
    "cluster",
    "select_networks",
]
