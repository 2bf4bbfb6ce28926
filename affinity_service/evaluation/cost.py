"""What an estimate costs beside truly training 2,000 subsets (Grad-TAG, arXiv 2409.06091, §4, counts so)."""

from __future__ import annotations

from dataclasses import dataclass

from affinity_service.affinity.calibration import probes_of
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.evaluation.flops import RunFlops
from affinity_service.gradients.store import LAYOUT, pair_rows
from affinity_service.models import build_model
from affinity_service.planning.flops import forward_flops, landmark_rounds, runs_network, training_flops
from affinity_service.planning.workload import Subsets, Workload
from affinity_service.tasks.suite import VALIDATION, Suite

TRAININGS = 2000


@dataclass(frozen=True)
class TrainingCost:
    """Of one true training such as `validate` made, on average: FLOPs, and seconds in a worker beside others."""

    flops: float
    seconds: float


def cost_ratios(config: Config, folder: StudyFolder, suite: Suite, training: TrainingCost) -> dict[str, float]:
    """flops_ratio_model: passes through the model that the estimate of 2,000 subsets needs (features, probes,
    evaluation) over those of 2,000 trainings. flops_ratio_total adds base training and all linear algebra,
    seconds_ratio is the same in wall time, with the trainings batched as `validate` batches them.

    The subsets are the study's larger ones; what its singles and pairs cost comes on top.
    """
    work = Workload.of(config, suite)
    size = Subsets.larger_size(config, work.tasks)
    layout = folder.read_json(LAYOUT)
    # A gradient is of one task's margin: its pass has no other head.
    rows = 2 * len(pair_rows(suite)[0]) + landmark_rounds(config, work) * (layout["landmarks"] or 0)
    passes = training_flops(work, 1) * rows + config.fits.probe_seeds * _one_seed_of_probes(config, suite)
    if runs_network(config, work):
        # Every subset's losses are those of the network itself, with its own heads on its own examples.
        passes += TRAININGS * forward_flops(work, size) * work.rows_of(round(size), VALIDATION)
    timings = {stage["name"]: stage for stage in folder.read_json("timings.json")["stages"]}
    scale = TRAININGS / max(1, Subsets.larger_count(config, work.tasks))
    total, seconds = (
        timings["base_model"][of] + timings["gradients"][of] + scale * timings["fits"][of]
        for of in ("flops", "seconds")
    )
    workers = max(1, timings["fits"]["workers"])
    return {
        "flops_ratio_model": passes / (TRAININGS * training.flops),
        "flops_ratio_total": total / (TRAININGS * training.flops),
        "seconds_ratio": seconds / (TRAININGS * training.seconds / workers),
    }


def _one_seed_of_probes(config: Config, suite: Suite) -> float:
    of_run = RunFlops(build_model(config.model, suite.inputs.shape[1:], suite.tasks, 0), suite)
    return float(sum(of_run(subset, config.fits.epochs) for subset in probes_of(config.fits, len(suite.tasks))))
