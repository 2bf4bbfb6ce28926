"""The estimator that a study's config names, from what lies in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from affinity_service.affinity.calibration import Calibration, read_calibration
from affinity_service.affinity.estimates import Estimator
from affinity_service.affinity.linearized import LinearizedEstimator
from affinity_service.affinity.network import ValidationNetworks
from affinity_service.affinity.trained import TrainedEstimator
from affinity_service.artifacts import StudyFolder
from affinity_service.config import MANY_TASKS, Config
from affinity_service.config_models import PretrainedConfig
from affinity_service.gradients.store import FeatureRows
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models import build_model
from affinity_service.models.state import load_trained, trained_shapes
from affinity_service.tasks.suite import VALIDATION, Suite, Task

# What the fits stage leaves for those who ask later: which estimator `auto` chose, and the examples that networks see.
CHOSEN, EXAMPLES = "fits/estimator.json", "fits/validation.safetensors"
# Networks up to this size are run themselves at the weights found: that is cheaper than thinking about it.
SMALL_NETWORK = 2_000_000

Rows = tuple[FeatureRows, FeatureRows]


def device_here() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def base_model(config: Config, folder: StudyFolder, input_shape: Sequence[int], tasks: Sequence[Task]) -> nn.Module:
    """The trained base model of a study, on the CPU."""
    model = build_model(config.model, input_shape, tasks, config.base.seed)
    load_trained(model, base_weights(folder))
    return model


def base_weights(folder: StudyFolder) -> dict[str, Tensor]:
    return load_safetensors(folder.read_bytes("base_model/model.safetensors"))


def resolved(config: Config, folder: StudyFolder) -> Config:
    """The config with the estimator that `auto` chose for these fits, once they have begun."""
    if config.affinity.estimator != "auto":
        return config
    chosen = folder.read_json(CHOSEN)["estimator"]
    return config.model_copy(update={"affinity": config.affinity.model_copy(update={"estimator": chosen})})


def runs_network(config: Config, weights: Mapping[str, Tensor], tasks: int) -> bool:
    """Whether losses are those of the network at the weights found, not of its linearisation. With many tasks a pass
    per subset would be much of what a fit costs."""
    wish = config.fits.evaluate
    if wish == "auto":
        small = sum(w.numel() for w in weights.values()) <= SMALL_NETWORK
        own_heads = not isinstance(config.model, PretrainedConfig)
        return config.path_can_go and own_heads and small and tasks <= MANY_TASKS
    return wish == "network"


def keep_examples(folder: StudyFolder, suite: Suite) -> None:
    """Keep the validation examples beside the fits, so that questions asked later need the study folder only."""
    rows = suite.rows(VALIDATION)
    tensors = {"inputs": torch.tensor(suite.inputs[rows]), "labels": torch.tensor(suite.labels[rows])}
    folder.write_bytes(EXAMPLES, save_safetensors(tensors))


def linearized_estimator(
    config: Config,
    folder: StudyFolder,
    rows: Rows,
    anchor: Mapping[str, Tensor],
    tasks: Sequence[Task],
    calibration: Calibration,
    device: str = "cpu",
) -> LinearizedEstimator:
    network = None
    if runs_network(config, base_weights(folder), len(tasks)):
        examples = load_safetensors(folder.read_bytes(EXAMPLES))
        model = base_model(config, folder, examples["inputs"].shape[1:], tasks)
        space = WeightSpace(trained_shapes(model), config.gradients.layers)
        network = ValidationNetworks(model, space, tasks, examples["inputs"], examples["labels"], device)
    return LinearizedEstimator(*rows, tasks, config, anchor, network, calibration, device)


def study_estimator(
    config: Config,
    folder: StudyFolder,
    rows: Callable[[], tuple[Rows, Mapping[str, Tensor]]],
    tasks: Sequence[Task],
    suite: Callable[[], Suite],
    device: str = "cpu",
) -> Estimator:
    """The estimator of the study's fits. `rows` (with the anchor) and `suite` are asked for only where they are needed:
    the first by estimates from gradients, the second by true trainings."""
    config = resolved(config, folder)
    if config.affinity.estimator == "trained":
        return TrainedEstimator(suite(), config, base_weights(folder), device)
    stored, anchor = rows()
    return linearized_estimator(config, folder, stored, anchor, tasks, read_calibration(folder), device)
