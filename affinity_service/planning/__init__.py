"""What a study will cost, told before anything starts; needs no cluster."""

from affinity_service.planning.limits import check_fits, feasible_plan, refuse_if_too_large
from affinity_service.planning.machine import Machine, calibrate, inspect_machine
from affinity_service.planning.plan import Plan, StagePlan, plan_study

__all__ = [
    "Machine",
    "Plan",
    "StagePlan",
    "calibrate",
    "check_fits",
    "feasible_plan",
    "inspect_machine",
    "plan_study",
    "refuse_if_too_large",
]
