"""What a model that Ray Train has trained achieves, by a task with the cores and the GPU of one of its workers: the
trial that waited for the training holds none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import ray
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors

from affinity_service.affinity.build import device_here
from affinity_service.config import Config
from affinity_service.config_models import CausalLMConfig, PretrainedConfig
from affinity_service.engine.threads import take_assigned_threads
from affinity_service.evaluation.answers import exact_matches
from affinity_service.evaluation.run import Run
from affinity_service.evaluation.stacked import split_losses
from affinity_service.models import build_model
from affinity_service.models.causal_lm import CausalLM
from affinity_service.models.state import load_trained
from affinity_service.tasks.suite import TEST, VALIDATION, Suite
from affinity_service.text.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Judged:
    """Of each task (T,), NaN outside the run's.

    validation, test : mean losses. exact_match : share of the test examples answered exactly; None where not asked.
    """

    validation: NDArray[np.float64]
    test: NDArray[np.float64]
    exact_match: list[float] | None


@ray.remote
def judge(weights: bytes, run: Run, asked: bool, suite: Suite, config: Config) -> Judged:
    """weights : a safetensors file of what was trained. asked : also for answers, of a language model."""
    take_assigned_threads()
    model = build_model(config.model, suite.inputs.shape[1:], suite.tasks, 0)
    load_trained(model, load_safetensors(weights))
    # What no device has room for stays in main memory.
    spread = isinstance(config.model, PretrainedConfig) and config.model.max_memory is not None
    model = model.to("cpu" if spread else device_here())
    validation, test = (split_losses(model, suite, split, run.tasks) for split in (VALIDATION, TEST))
    matches = None
    if asked and isinstance(config.model, CausalLMConfig) and isinstance(model, CausalLM):
        # The one that made the suite's tokens.
        tokenizer = load_tokenizer(getattr(config.data, "tokenizer", None) or config.model.path)
        matches = exact_matches(model, tokenizer, suite, run.tasks)
    return Judged(validation, test, matches)
