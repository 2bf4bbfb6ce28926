"""What the features stand on: base weights, metric, basis, per-task gradient statistics; one safetensors file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from affinity_service.artifacts import StudyFolder
from affinity_service.config import GradientConfig
from affinity_service.gradients.basis import stored_basis
from affinity_service.gradients.batches import Gradients
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.landmarks import LandmarkGradients, Pairs, landmark_pairs
from affinity_service.gradients.layer_factors import Landmarks, LayerCoordinates, StoredLandmarks, find_factors
from affinity_service.gradients.outside_means import outside_means
from affinity_service.gradients.own_parameters import OwnParameters, heads_prefix, shared_space
from affinity_service.gradients.statistics import GradientSums, combine
from affinity_service.gradients.streamed import StreamedGradients
from affinity_service.gradients.subspace_size import sized_basis
from affinity_service.gradients.weight_space import WeightSpace, optimizer_metric, rank_one
from affinity_service.models.state import trained_parameters
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite

ANCHOR = "gradients/anchor.safetensors"
# Training pairs that layers' factors are found from.
FACTOR_LANDMARKS = 256


def build_anchor(
    settings: GradientConfig,
    gradients: Gradients,
    space: WeightSpace,
    suite: Suite,
    moments: Mapping[str, Tensor] | None,
    pieces: Callable[[int], Iterable[GradientSums]],
    apart: bool = False,
) -> dict[str, Tensor]:
    """Tensors by name, on the CPU: weights, scale (p,); mean, validation_mean, square (T, p); of the
    `subspace` reduction basis (p, d) and how many landmarks it is from; own (T, h), a basis (p_s, d) of the other
    weights and outside (T, p_s) where heads lie apart, see ``gradients/own_parameters.py``, ``outside_means.py``; of
    language models the factors of layers and a basis (D, d), see ``gradients/layer_factors.py``.

    Parameters
    ----------
    gradients : of the base model.
    moments : the optimizer's second moments by parameter name, for the metric `optimizer`.
    pieces : gives sums of a split's loss gradients, one piece of the rows after the other, so that they need not lie in
        memory together.
    """
    statistics = combine(pieces(TRAIN), pieces(VALIDATION), len(suite.tasks))
    scale = torch.ones(space.size)
    if settings.metric == "optimizer":
        assert moments is not None, "the optimizer's metric needs its moments"
        scale = optimizer_metric(space, moments)
    # A model with heads has one basis for them and the rest.
    layered = (
        settings.layer_rank is not None
        and isinstance(gradients, StreamedGradients)
        and heads_prefix(gradients.model) is None
    )
    if layered:
        scale = rank_one(space, scale)
    weights = space.flatten(trained_parameters(gradients.model))
    tensors = {"weights": weights, "scale": scale, **statistics.to_tensors()}
    if settings.reduction == "subspace":
        if apart:
            prefix = heads_prefix(gradients.model)
            columns = OwnParameters.of(space, prefix, len(suite.tasks))
            tensors["own"] = columns.own
            space, scale = shared_space(space, prefix), scale[columns.shared]
        scale = scale.to(weights.device)

        def gradients_of(pairs: Pairs) -> LandmarkGradients:
            return LandmarkGradients(gradients, space, scale, suite, *pairs, settings.batch_rows)

        landmarks_of: Callable[[Pairs], Landmarks] = gradients_of
        if layered:
            assert settings.layer_rank is not None, "layered bases have a rank"
            means = torch.cat([statistics.mean, statistics.validation_mean]).to(scale.device)
            some = gradients_of(landmark_pairs(suite, FACTOR_LANDMARKS, settings.seed))
            factors = find_factors(some, means, settings.layer_rank, settings.seed)
            tensors |= factors.to_tensors()

            def coordinates_of(pairs: Pairs) -> StoredLandmarks:
                first = LayerCoordinates(factors, scale)
                found = compute_features(gradients, first, suite, *pairs, settings.batch_rows)
                return StoredLandmarks(torch.from_numpy(found.features).to(scale.device), pairs)

            landmarks_of = coordinates_of
        tensors["basis"], landmarks = sized_basis(None if apart else statistics, landmarks_of, suite, settings)
        if apart:
            basis = stored_basis(tensors, scale.device)
            assert basis is not None, "just made"
            tensors["outside"] = outside_means(statistics.mean[:, columns.shared].to(scale.device), scale, basis)
        tensors["landmarks"] = torch.tensor([landmarks])
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def write_anchor(folder: StudyFolder, tensors: Mapping[str, Tensor], flops: float) -> None:
    """Tensors as ``build_anchor`` makes them, and what they cost."""
    content = {**tensors, "flops": torch.tensor([flops], dtype=torch.float64)}
    folder.write_bytes(ANCHOR, save_safetensors(content))


def read_anchor(folder: StudyFolder) -> dict[str, Tensor]:
    """The same tensors, and their cost as `flops`."""
    return load_safetensors(folder.read_bytes(ANCHOR))
