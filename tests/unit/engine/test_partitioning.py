"""A model that is trained in parts lies on no device whole, before its training either."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from affinity_service.config import TrainConfig
from affinity_service.engine import deepspeed_engine


class Whole(nn.Module):
    """Counts how often it is moved or cast as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.moved = nn.Linear(4, 3), 0
        self.register_buffer("computed", torch.tensor([1.001]), persistent=False)

    def _apply(self, *args, **kwargs):
        self.moved += 1
        return super()._apply(*args, **kwargs)

    def forward(self, x):
        return self.layer(x) * self.computed


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    # DeepSpeed remembers the group it first met, so there is one for all tests.
    meet = tmp_path_factory.mktemp("ranks") / "meet"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stage_3_takes_a_model_weight_by_weight(precision, monkeypatch):
    # DeepSpeed replaces torch's linear function for good, with one that has no forward-mode gradient.
    monkeypatch.setattr(nn.functional, "linear", nn.functional.linear)
    model = Whole()
    before = model.layer.weight.detach().clone()
    train = TrainConfig(zero_stage=3, precision=precision, batch_size=2)
    engine = deepspeed_engine.start(model, train, 0, 1, {})
    assert model.moved == 0
    assert model.layer.weight.numel() == 0, "it is in parts"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    held = deepspeed_engine.current_weights(engine)["layer.weight"]
    torch.testing.assert_close(held, before.to(dtype).float())
    assert model.computed.dtype == torch.float32
    assert engine(torch.ones(2, 4, dtype=dtype)).shape == (2, 3)
