"""The estimator that a config names, from what lies in the study folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from affinity_service.affinity.linearized import LinearizedEstimator
from affinity_service.affinity.network import ValidationNetworks
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.gradients.store import FeatureRows
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models import build_model
from affinity_service.tasks.suite import Suite, Task

# Networks up to this size are run themselves at the weights found: that is cheaper than thinking about it.
SMALL_NETWORK = 2_000_000


def base_model(config: Config, folder: StudyFolder, input_shape: Sequence[int], tasks: Sequence[Task]) -> nn.Module:
    """The trained base model of a study."""
    model = build_model(config.model, input_shape, tasks, config.base.seed)
    model.load_state_dict(load_safetensors(folder.read_bytes("base_model/model.safetensors")))
    return model


def runs_network(config: Config, anchor: Mapping[str, Tensor]) -> bool:
    """Whether losses are those of the network at the weights found, not of its linearisation."""
    wish = config.fits.evaluate
    if wish == "auto":
        return config.path_can_go and len(anchor["weights"]) <= SMALL_NETWORK
    return wish == "network"


def linearized_estimator(
    config: Config,
    folder: StudyFolder,
    rows: tuple[FeatureRows, FeatureRows],
    anchor: Mapping[str, Tensor],
    tasks: Sequence[Task],
    suite: Suite | None,
    penalty_factor: float,
    device: str = "cpu",
) -> LinearizedEstimator:
    """`suite` is read only where the network itself is run."""
    network = None
    if runs_network(config, anchor):
        assert suite is not None, "the network needs the validation examples"
        model = base_model(config, folder, suite.inputs.shape[1:], tasks)
        space = WeightSpace({name: tuple(p.shape) for name, p in model.named_parameters()}, config.gradients.layers)
        network = ValidationNetworks(model, space, suite, device)
    return LinearizedEstimator(*rows, tasks, config, anchor, network, penalty_factor, device)


def device_here() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
