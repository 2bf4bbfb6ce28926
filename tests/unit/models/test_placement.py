"""A model spread over main memory and disk takes the same gradients."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from affinity_service.config_models import CausalLMConfig
from affinity_service.errors import UserError
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.reductions import Exact
from affinity_service.gradients.streamed import StreamedGradients
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models.causal_lm import CausalLM
from affinity_service.models.placement import spread
from affinity_service.models.state import trained_parameters, trained_shapes
from affinity_service.tasks.suite import TRAIN
from tests.unit.gradients.test_streamed import TASKS, adapted, llama, suite

pytest.importorskip("accelerate")

# Of 74 KB: the embedding and the first layer fit, the second layer does not.
SPLIT = {"cpu": "45KB"}


def config(**fields: object) -> CausalLMConfig:
    return CausalLMConfig.model_validate({"path": "unused", "max_memory": SPLIT, "checkpointing": True, **fields})


def spread_quietly(plain: nn.Module, folder: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spread(copy.deepcopy(plain), config(), str(folder))


def test_gradients_through_weights_on_the_disk_are_the_same(tmp_path) -> None:
    plain, data = adapted(checkpointing=True), suite()
    space = WeightSpace(trained_shapes(plain))
    example, task = data.pairs(TRAIN)
    expected = compute_features(StreamedGradients(plain, TASKS, 30), Exact(space), data, example, task, 100)
    model = spread_quietly(plain, tmp_path)
    places = {p.device.type for p in model.parameters()}
    assert places == {"cpu", "meta"}, "some weights lie on the disk"
    assert any(tmp_path.iterdir())
    assert {p.device.type for p in trained_parameters(model).values()} == {"cpu"}
    found = compute_features(StreamedGradients(model, TASKS, 30), Exact(space), data, example, task, 100)
    torch.testing.assert_close(torch.from_numpy(found.margins), torch.from_numpy(expected.margins))
    torch.testing.assert_close(torch.from_numpy(found.features), torch.from_numpy(expected.features))
    assert {p.device.type for p in model.parameters()} == {"cpu", "meta"}, "they were given back"


def test_a_weight_that_the_head_shares_may_be_away(tmp_path) -> None:
    plain, data = adapted(checkpointing=True), suite()
    network = plain.network.get_base_model()
    network.lm_head.weight = network.model.embed_tokens.weight
    space = WeightSpace(trained_shapes(plain))
    example, task = data.pairs(TRAIN)
    expected = compute_features(StreamedGradients(plain, TASKS, 30), Exact(space), data, example, task, 100)
    model = spread_quietly(plain, tmp_path)
    found = compute_features(StreamedGradients(model, TASKS, 30), Exact(space), data, example, task, 100)
    torch.testing.assert_close(torch.from_numpy(found.features), torch.from_numpy(expected.features))


def test_a_device_has_room_for_a_layer(tmp_path) -> None:
    with pytest.raises(UserError, match=r"max_memory {'cpu': '25KB'}: no device has room for a layer; raise"):
        spread(adapted(checkpointing=True), config(max_memory={"cpu": "25KB"}), str(tmp_path))


def test_a_layer_cannot_lie_in_two_places(tmp_path) -> None:
    model = llama(checkpointing=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("0.mlp.down_proj.weight"))
    layer = model.model.layers[0].mlp.down_proj
    layer.bias = torch.nn.Parameter(torch.zeros(32), requires_grad=False)
    with pytest.raises(UserError, match=r"down_proj.weight` trains and .*down_proj.bias` does not.* whole layers"):
        spread(CausalLM(model), config(), str(tmp_path))


def test_weights_away_need_checkpointing(tmp_path) -> None:
    with pytest.raises(UserError, match=r"max_memory leaves weights on disk.*checkpointing"):
        spread(adapted(), config(checkpointing=False), str(tmp_path))
