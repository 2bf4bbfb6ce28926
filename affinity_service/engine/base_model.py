"""The base model stage: one model on all tasks; weights, second moments and history leave it."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import ray
from safetensors.torch import load as load_safetensors

from affinity_service.artifacts import fingerprint
from affinity_service.config_models import PretrainedConfig
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.train import progress_board, train_model
from affinity_service.engine.train_job import TURNS, TrainJob
from affinity_service.models.adapter_files import adapter_files
from affinity_service.scheduling.warnings import warnings_of


def train_base_model(context: StageContext) -> StageOutcome:
    config, suite, folder = context.config, context.suite, context.folder
    with progress_board(context.progress) as board:
        every = tuple(range(len(suite.tasks)))
        job = TrainJob(
            ray.put(suite), config.model, config.base, every, board,
            measuring=config.measuring, schedule=config.schedule,
        )  # fmt: skip
        trained = train_model(job, config.resources, context.scratch, "base")
    folder.write_bytes("base_model/model.safetensors", trained.weights)
    if isinstance(config.model, PretrainedConfig):
        for name, content in adapter_files(load_safetensors(trained.weights), config.model).items():
            folder.write_bytes(f"base_model/adapter/{name}", content)
    folder.write_bytes("base_model/second_moments.safetensors", trained.moments)
    for name, content in trained.beside.items():
        folder.write_bytes(f"base_model/{name}", content)
    if TURNS in trained.beside:
        for warning in warnings_of(pq.read_table(io.BytesIO(trained.beside[TURNS])).to_pylist(), suite.names):
            context.warn(warning)
    history = {"best_epoch": trained.state.best_epoch + 1, "epochs": trained.state.history}
    folder.write_json("base_model/history.json", history)
    return StageOutcome(trained.state.flops, trained.state.world_size, identity=fingerprint(trained.weights.hex()))
