"""What a model that Ray Train has trained achieves, by a task with the cores and the GPU of one of its workers: the
trial that waited for the training holds none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors

from affinity_service.affinity.build import device_here
from affinity_service.config import Config
from affinity_service.config_models import CausalLMConfig, PretrainedConfig
from affinity_service.engine.pool import TASK_RETRIES
from affinity_service.engine.session import actor_options
from affinity_service.engine.threads import take_assigned_threads
from affinity_service.evaluation.answers import exact_matches
from affinity_service.evaluation.flops import RunFlops
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
    flops : of the training.
    """

    validation: NDArray[np.float64]
    test: NDArray[np.float64]
    exact_match: list[float] | None
    flops: float


def judging_options(config: Config) -> dict[str, Any]:
    options = actor_options(config.resources)
    # What no device has room for stays in main memory.
    if isinstance(config.model, PretrainedConfig) and config.model.max_memory is not None:
        options["num_gpus"] = 0
    # A trial's own tasks would else be placed within what the trial holds, which is nothing.
    return {**options, **TASK_RETRIES, "scheduling_strategy": "DEFAULT"}


@ray.remote
def judge(weights: NDArray[np.uint8], run: Run, epochs: int, asked: bool, suite: Suite, config: Config) -> Judged:
    """Losses and answers of the model that a run has trained.

    weights : a safetensors file of what was trained, as numbers: those are not copied on their way.
    epochs : trained. asked : also for answers, of a language model.
    """
    take_assigned_threads()
    model = build_model(config.model, suite.inputs.shape[1:], suite.tasks, 0)
    load_trained(model, load_safetensors(weights.tobytes()))
    model = model.to(device_here())
    validation, test = (split_losses(model, suite, split, run.tasks) for split in (VALIDATION, TEST))
    matches = None
    if asked and isinstance(config.model, CausalLMConfig) and isinstance(model, CausalLM):
        # The one that made the suite's tokens.
        tokenizer = load_tokenizer(getattr(config.data, "tokenizer", None) or config.model.path)
        matches = exact_matches(model, tokenizer, suite, run.tasks)
    return Judged(validation, test, matches, RunFlops(model, suite)(run.tasks, epochs))
