"""Gradients of sequence models against one autograd call per example."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from affinity_service.config import GradientConfig
from affinity_service.config_models import EncoderConfig
from affinity_service.errors import UserError
from affinity_service.gradients.batches import pair_batches
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.margins import pair_margins
from affinity_service.gradients.reductions import Exact, build_reduction
from affinity_service.gradients.statistics import gradient_sums
from affinity_service.gradients.streamed import StreamedGradients
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models import build_model
from affinity_service.models.causal_lm import CausalLM
from affinity_service.models.state import trained_parameters, trained_shapes
from affinity_service.tasks.suite import TRAIN, Suite, Task
from affinity_service.tasks.tokens import TokenRows
from tests.language_models import tiny_llama, write_tiny_bert

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

TASKS = (Task("one", "sequence"), Task("two", "sequence"))


def suite(examples: int = 12) -> Suite:
    rng = np.random.default_rng(0)
    sequences = []
    for _ in range(examples):
        prompt, answer = int(rng.integers(2, 9)), int(rng.integers(1, 4))
        sequences.append((rng.integers(1, 60, prompt + answer).tolist(), [False] * prompt + [True] * answer))
    labels = np.full((examples, 2), np.nan, np.float32)
    labels[np.arange(examples), np.arange(examples) % 2] = 1
    return Suite(TokenRows.of(sequences), labels, np.zeros(examples, np.int8), TASKS)


def llama(checkpointing: bool = False) -> nn.Module:
    network = tiny_llama()
    if checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    return network


def adapted(checkpointing: bool = False) -> CausalLM:
    network = peft.get_peft_model(llama(checkpointing), peft.LoraConfig(r=3, target_modules=["q_proj", "v_proj"]))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return CausalLM(network)


def norms_and_linear() -> CausalLM:
    model = CausalLM(llama())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name or "down_proj" in name)
    return model


def by_autograd(model: nn.Module, suite: Suite, example: int, task: int) -> tuple[float, Tensor]:
    """Margin and (p,) gradient of one pair: slow and obvious."""
    outputs = model.eval()(torch.as_tensor(suite.inputs[[example]]), [task])
    margin = pair_margins(outputs, [task], torch.tensor([task]), torch.ones(1), suite.tasks)[0]
    gradients = torch.autograd.grad(margin, list(trained_parameters(model).values()))
    return float(margin.detach()), torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("make", [adapted, lambda: adapted(checkpointing=True), norms_and_linear])
def test_streamed_gradients_are_those_of_one_example_at_a_time(make) -> None:
    model, data = make(), suite()
    space = WeightSpace(trained_shapes(model))
    gradients = StreamedGradients(model, TASKS, tokens=30)
    example, task = data.pairs(TRAIN)
    found = compute_features(gradients, Exact(space), data, example, task, 100)
    for place, (row, of) in enumerate(zip(example.tolist(), task.tolist(), strict=True)):
        margin, gradient = by_autograd(model, data, row, of)
        assert found.margins[place] == pytest.approx(margin, rel=1e-5)
        torch.testing.assert_close(torch.from_numpy(found.features[place]), gradient, rtol=1e-3, atol=1e-6)
    assert trained_shapes(model) == space.shapes


@pytest.mark.parametrize("make", [adapted, lambda: adapted(checkpointing=True), norms_and_linear])
def test_mixed_precision_is_near_single_precision(make) -> None:
    model, data = make(), suite()
    space = WeightSpace(trained_shapes(model))
    example, task = data.pairs(TRAIN)
    single, mixed = (
        compute_features(StreamedGradients(model, TASKS, 30, (), each), Exact(space), data, example, task, 100)
        for each in ("fp32", "bf16")
    )
    error = np.linalg.norm(mixed.features - single.features, axis=1) / np.linalg.norm(single.features, axis=1)
    # Eight bits of a mantissa: not equal, and not far.
    assert 1e-5 < np.median(error) < 0.03
    assert mixed.features.dtype == np.float32
    np.testing.assert_allclose(mixed.margins, single.margins, atol=0.03)


def test_sums_are_those_of_the_gradients() -> None:
    model, data = adapted(), suite()
    space = WeightSpace(trained_shapes(model))
    gradients = StreamedGradients(model, TASKS, tokens=30)
    example, task = data.pairs(TRAIN)
    sums = gradient_sums(gradients, space, data, example, task, 100)
    exact = compute_features(gradients, Exact(space), data, example, task, 100)
    slopes = 1 / (1 + np.exp(-exact.margins)) - 1
    of_loss = exact.features * slopes[:, None]
    for number in range(2):
        own = of_loss[task == number].astype(np.float64)
        np.testing.assert_allclose(sums.first[number], own.sum(axis=0), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(sums.second[number], np.square(own).sum(axis=0), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("reduction", ["rademacher", "factorised"])
def test_reductions_are_of_the_whole_gradient_whatever_the_batches(reduction: str) -> None:
    model, data = adapted(), suite()
    space = WeightSpace(trained_shapes(model))
    reduce = build_reduction(GradientConfig(reduction=reduction, dimension=36), space)
    example, task = data.pairs(TRAIN)
    large, small = (
        compute_features(StreamedGradients(model, TASKS, tokens), reduce, data, example, task, 100).features
        for tokens in (1000, 12)
    )
    np.testing.assert_allclose(large, small, rtol=1e-3, atol=1e-6)


def test_batches_keep_to_the_tokens() -> None:
    data = suite()
    example, task = data.pairs(TRAIN)
    gradients = StreamedGradients(adapted(), TASKS, tokens=24)
    seen = []
    for batch in pair_batches(gradients, data, example, task, 100):
        rows = example[batch.places.numpy()]
        assert len(rows) == 1 or len(rows) * data.inputs.lengths[rows].max() <= 24
        seen += rows.tolist()
    assert sorted(seen) == sorted(example.tolist())


def test_a_tied_embedding_is_refused() -> None:
    model = CausalLM(llama())
    network = model.network
    network.lm_head.weight = network.model.embed_tokens.weight
    with pytest.raises(UserError, match=r"embed_tokens.*same weight|same weight"):
        StreamedGradients(model, TASKS, tokens=30)


def test_of_all_weights_some_layers_can_be_asked_for() -> None:
    """The embedding, which is the head's too, would be refused."""
    model, data = CausalLM(llama()), suite()
    model.network.lm_head.weight = model.network.model.embed_tokens.weight
    wanted = ["*layers.1.mlp*"]
    space = WeightSpace(trained_shapes(model), wanted)
    example, task = data.pairs(TRAIN)
    found = compute_features(StreamedGradients(model, TASKS, 30, wanted), Exact(space), data, example, task, 100)
    outputs = model(torch.as_tensor(data.inputs[[0]]), [0])
    own = [model.get_parameter(name) for name in space.shapes]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(outputs.sum(), own)])
    place = int(np.flatnonzero(example == 0)[0])
    torch.testing.assert_close(torch.from_numpy(found.features[place]), gradient, rtol=1e-3, atol=1e-6)


def opt(**settings) -> CausalLM:
    """Whose layers drop out by themselves, by the mode that checkpoints are made in."""
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=60, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, dropout=0.5,
        word_embed_proj_dim=32, max_position_embeddings=64,
    )  # fmt: skip
    network = transformers.OPTForCausalLM(config)
    network.gradient_checkpointing_enable({"use_reentrant": False})
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("layers" in name and "fc" in name)
    return CausalLM(network)


def test_nothing_drops_out_where_activations_are_computed_again() -> None:
    model, data = opt(), suite()
    space = WeightSpace(trained_shapes(model))
    example, task = data.pairs(TRAIN)
    expected = [by_autograd(model, data, row, of) for row, of in zip(example.tolist(), task.tolist(), strict=True)]
    calls = []
    layer = model.network.model.decoder.layers[0]
    layer.fc1.register_forward_hook(lambda *_: calls.append(layer.training))
    found = compute_features(StreamedGradients(model, TASKS, 30), Exact(space), data, example, task, 100)
    assert calls
    assert not any(calls)
    for place, (margin, gradient) in enumerate(expected):
        assert found.margins[place] == pytest.approx(margin, rel=1e-5)
        torch.testing.assert_close(torch.from_numpy(found.features[place]), gradient, rtol=1e-3, atol=1e-6)
    # Each batch goes forward twice: the activations were not kept.
    batches = len(list(pair_batches(StreamedGradients(model, TASKS, 30), data, example, task, 100)))
    assert len(calls) == 3 * batches


class Odd(nn.Module):
    """Margins from a layer that is used in an unusual way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.embed, self.layer, self.way = nn.Embedding(60, 5), nn.Linear(5, 5, bias=False), way
        self.embed.requires_grad_(False)

    def forward(self, inputs: Tensor, tasks: list[int]) -> Tensor:
        ids = inputs[:, 0].clamp(min=0)
        x = self.embed(ids) * (inputs[:, 0] >= 0)[:, :, None]
        if self.way == "flat":
            x = self.layer(x.flatten(0, 1)).view(x.shape)
        elif self.way == "twice":
            x = self.layer(self.layer(x))
        else:
            x = self.layer(x.flatten(0, 1)[1:]).sum() + x
        return x.tanh().sum(dim=(1, 2))[:, None].expand(-1, len(tasks))


def test_layers_that_see_all_tokens_end_to_end_are_told_apart_and_others_refused() -> None:
    data = suite()
    example, task = data.pairs(TRAIN)

    def features(model: nn.Module) -> np.ndarray:
        space = WeightSpace(trained_shapes(model))
        gradients = StreamedGradients(model, TASKS, tokens=30)
        return compute_features(gradients, Exact(space), data, example, task, 100).features

    flat = Odd("flat")
    found = features(flat)
    for place, (row, of) in enumerate(zip(example.tolist(), task.tolist(), strict=True)):
        torch.testing.assert_close(torch.from_numpy(found[place]), by_autograd(flat, data, row, of)[1])
    with pytest.raises(UserError, match=r"`layer` cannot be taken: a pass uses the layer several times; leave it out"):
        features(Odd("twice"))
    with pytest.raises(UserError, match=r"`layer` cannot be told apart by example: it sees .* train others"):
        features(Odd("mixed"))


def test_heads_of_an_encoders_tasks_have_the_gradients_of_their_own_rows(tmp_path) -> None:
    path = write_tiny_bert(tmp_path)
    tasks = (Task("kind", "multiclass", 3), Task("good", "binary"), Task("size", "regression"))
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(0, 3, 8), rng.integers(0, 2, 8), rng.normal(size=8)], axis=1).astype(np.float32)
    data = Suite(suite(8).inputs, labels, np.zeros(8, np.int8), tasks)
    model = build_model(EncoderConfig(path=path), data.inputs.shape[1:], tasks, 0).eval()
    space = WeightSpace(trained_shapes(model))
    example, task = data.pairs(TRAIN)
    found = compute_features(StreamedGradients(model, tasks, 30), Exact(space), data, example, task, 100)
    own = trained_parameters(model)
    for place, (row, of) in enumerate(zip(example.tolist(), task.tolist(), strict=True)):
        label = torch.tensor(labels[row, [of]])
        outputs = model(torch.as_tensor(data.inputs[[row]]), [of])
        margin = pair_margins(outputs, [of], torch.tensor([of]), label, tasks)[0]
        gradients = torch.autograd.grad(margin, list(own.values()), allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, own.values(), strict=True)]
        expected = torch.cat([gradient.flatten() for gradient in flat])
        torch.testing.assert_close(torch.from_numpy(found.features[place]), expected, rtol=1e-3, atol=1e-5)
