"""The honest baseline: every subset is truly fine-tuned. For small models it can be the cheapest estimate of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from affinity_service.affinity.estimates import Moment, SubsetEstimates, stated_moment
from affinity_service.config import Config
from affinity_service.evaluation.fine_tuning import FineTuner, seeds_of
from affinity_service.tasks.suite import Suite

# Two seeds tell how much a training's own randomness matters.
SEEDS = 2


class TrainedEstimator:
    """Fine-tunes subsets from the base model, two seeds each; errors are over seeds, pooled per task."""

    def __init__(self, suite: Suite, config: Config, weights: Mapping[str, Tensor], device: str = "cpu") -> None:
        self.config = config
        self._tuner = FineTuner(suite, config, weights, device)
        self.flops = 0.0

    def estimate(self, subsets: Sequence[Sequence[int]]) -> SubsetEstimates:
        return self.estimates(subsets, [stated_moment(self.config)])[0]

    def estimates(self, subsets: Sequence[Sequence[int]], moments: Sequence[Moment]) -> list[SubsetEstimates]:
        chosen = [tuple(int(task) for task in subset) for subset in subsets]
        results = self._tuner.run(chosen, seeds_of("estimate", self.config.fits.seed, SEEDS))
        self.flops += sum(result.flops for result in results)
        found = []
        for moment in moments:
            losses, epochs = zip(*(result.at(moment) for result in results), strict=True)
            stacked = np.stack(losses)
            variance = np.nanmean(stacked.var(axis=0, ddof=1), axis=0) / SEEDS
            error = np.broadcast_to(np.sqrt(variance), stacked.shape[1:])
            typical = np.stack(epochs).mean(axis=0).round().astype(np.int64)
            found.append(SubsetEstimates.from_table_of_tasks(chosen, typical, stacked.mean(axis=0), error))
        return found
