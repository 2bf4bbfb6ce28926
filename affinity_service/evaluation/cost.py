"""What an estimate costs beside truly training 2,000 subsets (Grad-TAG, arXiv 2409.06091, §4, counts so)."""

from __future__ import annotations

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.evaluation.fine_tuning import FineTuner
from affinity_service.gradients.store import LAYOUT, pair_rows
from affinity_service.planning.flops import PROBE_SEEDS, forward_flops, landmark_rounds, runs_network, training_flops
from affinity_service.planning.workload import Subsets, Workload
from affinity_service.tasks.suite import VALIDATION, Suite

TRAININGS = 2000


def cost_ratios(config: Config, folder: StudyFolder, suite: Suite, seconds_per_training: float) -> dict[str, float]:
    """flops_ratio_model: passes through the model that the estimate needs (features, probes, evaluation) over
    those that 2,000 trainings need. flops_ratio_total adds base training and all linear algebra, seconds_ratio is the
    same in wall time, with the trainings batched as `validate` batches them.

    Parameters
    ----------
    seconds_per_training : measured in a worker, beside others.
    """
    work = Workload.of(config, suite)
    subsets = Subsets.of(config, work.tasks)
    mean_size = round(subsets.memberships / subsets.count)
    tuner = FineTuner(suite, config, None)
    one = tuner.flops(tuple(range(min(len(suite.tasks), max(1, mean_size)))))
    layout = folder.read_json(LAYOUT)
    # A gradient is of one task's margin: its pass has no other head.
    rows = 2 * len(pair_rows(suite)[0]) + landmark_rounds(config) * (layout["landmarks"] or 0)
    # Every subset's losses are those of the network itself, where it is small: all its heads on all examples.
    evaluated = TRAININGS * forward_flops(work) * work.rows[VALIDATION] if runs_network(config, work) else 0
    timings = {stage["name"]: stage for stage in folder.read_json("timings.json")["stages"]}
    scale = TRAININGS / subsets.count
    total = timings["base_model"]["flops"] + timings["gradients"]["flops"] + scale * timings["fits"]["flops"]
    seconds = timings["base_model"]["seconds"] + timings["gradients"]["seconds"] + scale * timings["fits"]["seconds"]
    workers = max(1, timings["fits"]["workers"])
    return {
        "flops_ratio_model": (training_flops(work, 1) * rows + PROBE_SEEDS * config.fits.probes * one + evaluated)
        / (TRAININGS * one),
        "flops_ratio_total": total / (TRAININGS * one),
        "seconds_ratio": seconds / (TRAININGS * seconds_per_training / workers),
    }
