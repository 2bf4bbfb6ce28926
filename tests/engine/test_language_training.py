"""Language models through DeepSpeed: stages, workers and passes must not change what is learned."""

from __future__ import annotations

import io
import json
import uuid
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from safetensors.torch import load

from affinity_service.affinity.lookahead import MEASURES
from affinity_service.affinity.measured import history_of
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config, ResourceConfig, TrainConfig
from affinity_service.config_models import CausalLMConfig, EncoderConfig, LoRAConfig
from affinity_service.config_training import MeasuringPart, ScheduleConfig
from affinity_service.engine.base_model import train_base_model
from affinity_service.engine.context import StageContext
from affinity_service.engine.deepspeed_settings import READY_MADE
from affinity_service.engine.group_models import train_group_models
from affinity_service.engine.train import train_model
from affinity_service.engine.train_job import TrainJob
from affinity_service.evaluation.stacked import split_losses
from affinity_service.models import build_model
from affinity_service.models.adapter_files import load_adapter, save_adapter
from affinity_service.models.state import load_trained, trained_shapes
from affinity_service.reporter import LogReporter
from affinity_service.tables import read_table
from affinity_service.tasks import VALIDATION
from affinity_service.tasks.suite import TEST, Task
from tests.language_models import answers_suite, write_tiny_bert

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_session")]

SUITE = answers_suite(rows=90)
TRAIN = TrainConfig(epochs=2, batch_size=12, learning_rate=0.02, mixing_temperature=2)
LORA = LoRAConfig(rank=4, targets="all-linear")


def train(path, storage, model=None, name=None, measuring=None, schedule=None, **changes):
    config = CausalLMConfig(path=path, **(model or {"adapter": LORA}))
    settings = TrainConfig(**{**TRAIN.model_dump(), **changes})
    job = TrainJob(ray.put(SUITE), config, settings, (0, 1, 2), measuring=measuring, schedule=schedule)
    return train_model(job, ResourceConfig(), str(storage), name or f"language-{uuid.uuid4().hex[:8]}")


def sharded_whatever_the_size(name, folder):
    """Ready-made settings under which even the weights of a tiny model are in parts and gathered when used."""
    content = json.loads((READY_MADE / f"{name}.json").read_text())
    content["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder / f"{name}.json")


def losses(trained):
    return [[epoch["train_loss"], epoch["validation_loss"]] for epoch in trained.state.history]


@pytest.fixture(scope="module")
def one(tiny_llama, tmp_path_factory):
    """One worker, no sharding, one pass per step."""
    return train(tiny_llama, tmp_path_factory.mktemp("one"))


def test_only_adapters_leave_the_training_with_the_losses_that_were_reported(one, tiny_llama):
    model = build_model(CausalLMConfig(path=tiny_llama, adapter=LORA), SUITE.inputs.shape[1:], SUITE.tasks, 5)
    weights, moments = load(one.weights), load(one.moments)
    assert {name: tuple(value.shape) for name, value in weights.items()} == trained_shapes(model)
    assert all((moment >= 0).all() and (moment > 0).any() for moment in moments.values())
    load_trained(model, weights)
    best = one.state.history[one.state.best_epoch]
    np.testing.assert_allclose(split_losses(model, SUITE, VALIDATION), best["validation_per_task"], rtol=1e-5)
    assert best["validation_loss"] < 5
    assert one.state.flops > 0


@pytest.mark.parametrize(
    "changes",
    [
        # 12 examples per step on two ranks; 20 tokens hold one of the longest rows each.
        {"zero_stage": 0, "tokens": 20},
        {"zero_stage": 1},
        {"zero_stage": 2, "tokens": 60},
        {"zero_stage": 3},
    ],
    ids=lambda changes: f"zero{changes['zero_stage']}",
)
def test_two_workers_in_every_stage_and_number_of_passes_learn_the_same(one, tiny_llama, tmp_path, changes):
    stage = changes["zero_stage"]
    file = sharded_whatever_the_size("zero3", tmp_path) if stage == 3 else f"zero{stage}"
    two = train(tiny_llama, tmp_path, workers=2, deepspeed=file, **changes)
    same(one, two)


def same(one, two):
    """In float32: losses to 1e-5 of themselves, adapters to the rounding of their sums."""
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    a, b = load(one.weights), load(two.weights)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=2e-5, err_msg=name)


def test_a_training_continues_from_its_adapters_and_their_moments(one, tiny_llama, tmp_path):
    # The moments lie in main memory and are continued from there.
    changes = {"workers": 2, "zero_stage": 2, "deepspeed": "zero2_offload", "name": f"language-{uuid.uuid4().hex[:8]}"}
    half = train(tiny_llama, tmp_path, epochs=1, **changes)
    assert len(half.state.history) == 1
    # Frozen weights lie in no checkpoint: these are a few of the adapters' own size.
    written = sum(file.stat().st_size for file in tmp_path.rglob("*.pt"))
    assert 0 < written < 4 * 40_000
    whole = train(tiny_llama, tmp_path, **changes)
    same(one, whole)
    assert losses(whole)[0] == losses(half)[0]


def test_bf16_with_offloaded_weights_and_checkpointing_learns_nearly_the_same(one, tiny_llama, tmp_path):
    model = {"adapter": LORA, "checkpointing": True}
    file = sharded_whatever_the_size("zero3_offload", tmp_path)
    two = train(tiny_llama, tmp_path, model, zero_stage=3, deepspeed=file, precision="bf16", workers=2)
    np.testing.assert_allclose(losses(two), losses(one), rtol=2e-2)


def test_an_encoder_and_its_heads_train_by_the_same_path(tmp_path):
    from peft import PeftModel
    from transformers import AutoModel

    path = write_tiny_bert(tmp_path / "bert")
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(0, 3, len(SUITE)), rng.integers(0, 2, len(SUITE))], axis=1).astype(np.float32)
    tasks = (Task("kind", "multiclass", 3), Task("good", "binary"))
    suite = replace(SUITE, labels=labels, tasks=tasks)
    config = EncoderConfig(path=path, adapter=LORA)
    settings = TRAIN.model_copy(update={"epochs": 1, "workers": 2, "zero_stage": 2, "tokens": 60})
    job = TrainJob(ray.put(suite), config, settings, (0, 1))
    trained = train_model(job, ResourceConfig(), str(tmp_path), f"encoder-{uuid.uuid4().hex[:8]}")
    model = build_model(config, suite.inputs.shape[1:], tasks, 5).eval()
    load_trained(model, load(trained.weights))
    reported = trained.state.history[0]["validation_per_task"]
    np.testing.assert_allclose(split_losses(model, suite, VALIDATION), reported, rtol=1e-5)
    save_adapter(load(trained.weights), config, tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(path), tmp_path / "adapter").eval()
    ids = torch.tensor([[1, 50, 60, 20]])
    torch.testing.assert_close(theirs(ids).last_hidden_state, model.network(ids).last_hidden_state)


def test_base_and_group_models_leave_adapters_that_peft_reads(tiny_llama, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = Config.parse(
        {
            "name": "answers",
            "data": {"source": "text", "path": "rows.jsonl"},
            "model": {"kind": "causal_lm", "path": tiny_llama},
            "base": {"epochs": 1, "batch_size": 12, "learning_rate": 0.02},
            "group_models": {"seeds": 1, "start": "base", "random_groupings": 1, "single_tasks": 1},
        }
    )
    folder = StudyFolder.at(tmp_path / "study")
    context = StageContext("base_model", config, folder, SUITE, LogReporter(), str(tmp_path / "scratch"))
    train_base_model(context)
    folder.write_json("groups.json", {"groups": [SUITE.names]})
    train_group_models(replace(context, stage="group_models"))
    per_task = folder.read_json("group_models/group-00/tasks.json")
    assert list(per_task) == SUITE.names
    assert all(0 <= task["exact_match"] <= 1 and task["test_loss"] < 6 for task in per_task.values())
    results = read_table(folder, "group_models/results.parquet").to_pandas()
    asked = results.groupby("setting")["exact_match"].count().to_dict()
    # Random groups of one group are that group.
    assert asked == {"groups": 3, "joint": 3, "single": 1, "random": 3}
    model = build_model(config.model, SUITE.inputs.shape[1:], SUITE.tasks, 0).eval()
    ids = torch.tensor([[1, 50, 60, 20]])
    for place in ("base_model/adapter", "group_models/group-00"):
        adapter = tmp_path / "study" / place
        load_trained(model, load_adapter(adapter, config.model))
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), adapter).eval()
        torch.testing.assert_close(theirs(ids).logits, model.network(ids).logits)
    test = split_losses(model, SUITE, TEST)
    np.testing.assert_allclose([task["test_loss"] for task in per_task.values()], test, rtol=1e-5)


def test_affinities_are_measured_and_tasks_take_turns_beside_frozen_weights(one, tiny_llama, tmp_path):
    part = MeasuringPart(every=2, step="optimizer", batch="held_out", shared=[], sketch="auto", lookahead=True)
    measured = train(tiny_llama, tmp_path, measuring=part)
    assert (measured.weights, measured.moments) == (one.weights, one.moments)
    table = pq.read_table(io.BytesIO(measured.beside["measurements.parquet"]))
    for name in MEASURES:
        assert np.isfinite(history_of(table, name, 3)).any(axis=0).all()
    turns = train(tiny_llama, tmp_path, schedule=ScheduleConfig(tau=-1, refresh=2, beta=0.5))
    assert np.isfinite(losses(turns)).all()
    # With tau −1 every pair conflicts: a task at a time.
    refreshes = pq.read_table(io.BytesIO(turns.beside["schedule.parquet"])).to_pylist()
    assert max(len(row["active"]) for row in refreshes) == 3
