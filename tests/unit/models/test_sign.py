import numpy as np
import pytest
import torch
from torch.func import functional_call, grad

from affinity_service.config import Config, MLPConfig, SIGNConfig
from affinity_service.errors import UserError
from affinity_service.models import build_model
from affinity_service.tasks import Task

TASKS = (Task("v", "regression"), Task("c", "multiclass", 4), Task("b", "binary"))
CONFIG = SIGNConfig(hop_width=5, hidden=[7, 6], activation="tanh")


def test_the_formula():
    model = build_model(CONFIG, (3, 4), TASKS, seed=0).eval()
    x = torch.randn(9, 3, 4)
    parts = [x[:, hop] @ layer.weight.T + layer.bias for hop, layer in enumerate(model.hops)]
    hidden = torch.cat(parts, dim=1).tanh()
    for layer in (model.body[0], model.body[2]):
        hidden = (hidden @ layer.weight.T + layer.bias).tanh()
    expected = torch.cat([hidden @ w.T + b for w, b in map(model.heads.head, range(3))], dim=1)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model(x, [2, 0]), expected[:, [5, 0]])
    assert model(x).shape == (9, 6)


def test_every_hop_matters_and_none_is_mixed_up():
    model = build_model(CONFIG, (3, 4), TASKS, seed=0).eval()
    x = torch.randn(2, 3, 4, requires_grad=True)
    model(x).sum().backward()
    assert (x.grad.abs().sum(dim=-1) > 0).all()
    assert not torch.allclose(model(x), model(x.flip(1)))


def test_the_seed_decides():
    first, second, other = (build_model(CONFIG, (3, 4), TASKS, seed) for seed in (1, 1, 2))
    x = torch.randn(2, 3, 4)
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), other(x))


def test_gradients_of_single_examples():
    model = build_model(CONFIG, (2, 3), TASKS, seed=0)
    x, weights = torch.randn(5, 2, 3), dict(model.named_parameters())

    def output(parameters, row):
        return functional_call(model, parameters, (row[None], [2])).sum()

    each = torch.func.vmap(grad(output), (None, 0))(weights, x)
    model(x, [2]).sum().backward()
    torch.testing.assert_close(each["hops.1.weight"].sum(dim=0), model.hops[1].weight.grad)


def test_dropout_is_of_training_only():
    model = build_model(CONFIG.model_copy(update={"dropout": 0.5}), (2, 3), TASKS, seed=0)
    x = torch.randn(4, 2, 3)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4)])
def test_inputs_without_hops_are_refused(shape):
    with pytest.raises(
        UserError, match=r"model\.kind sign reads examples of shape \(hops, features\), but this suite's"
    ):
        build_model(CONFIG, shape, TASKS, seed=0)


def test_plain_layers_read_all_hops_as_one_row():
    model = build_model(MLPConfig(hidden=[8]), (3, 4), TASKS, seed=0)
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(model(x), model(x.flatten(1)))
    assert np.prod(model.body[0].weight.shape) == 8 * 12


def test_the_kind_is_named_in_the_config_and_stays_the_old_one_without():
    def model(**settings):
        return Config.parse({"name": "x", "data": {"source": "yeast"}, "model": settings}).model

    assert model(hidden=[3]) == MLPConfig(hidden=[3])
    assert model(kind="sign", hop_width=9) == SIGNConfig(hop_width=9)
    for settings, message in (({"kind": "sgin"}, "model.kind"), ({"kind": "mlp", "hop_width": 3}, "hop_width")):
        with pytest.raises(UserError, match=message):
            model(**settings)
