"""TAG's measurements and SON-GOKU's turns in the DeepSpeed loop."""

from __future__ import annotations

import io
import json
import uuid

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from safetensors.torch import load

from affinity_service import Study
from affinity_service.affinity.lookahead import MEASURES, measure_step
from affinity_service.affinity.measured import average_history, history_of, inside_window
from affinity_service.config import MLPConfig, ResourceConfig, TrainConfig
from affinity_service.config_training import MeasuringPart, ScheduleConfig
from affinity_service.engine.measuring import PlainModel
from affinity_service.engine.train import train_model
from affinity_service.engine.train_job import TrainJob
from affinity_service.errors import UserError
from affinity_service.models import build_model
from affinity_service.tasks.sampling import epoch_batches
from affinity_service.tasks.suite import TRAIN
from tests.suites import mixed_suite

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_session")]

SUITE = mixed_suite(rows=200)
MODEL = MLPConfig(hidden=[8])
BASE = TrainConfig(epochs=2, patience=2, batch_size=32, learning_rate=0.01)
MEASURING = MeasuringPart(every=2, step="optimizer", batch="held_out", shared=[], sketch="auto", lookahead=True)
TURNS = ScheduleConfig(tau=0.0, refresh=2, beta=0.5)


def train(tmp_path, measuring=MEASURING, schedule=None, **changes):
    base = TrainConfig(**{**BASE.model_dump(), **changes})
    job = TrainJob(ray.put(SUITE), MODEL, base, (0, 1, 2, 3), measuring=measuring, schedule=schedule)
    return train_model(job, ResourceConfig(), str(tmp_path), f"measured-{uuid.uuid4().hex[:8]}")


def table_of(trained, name):
    return pq.read_table(io.BytesIO(trained.beside[name]))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One worker, nothing measured, all tasks in every step."""
    return train(tmp_path_factory.mktemp("plain"), None)


def same_measurements(one, two, count):
    tables = [table_of(each, "measurements.parquet") for each in (one, two)]
    assert tables[0]["step"].to_pylist() == tables[1]["step"].to_pylist()
    for name in MEASURES:
        # The weights part slowly: the first measurements are at nearly the same ones.
        first, second = (history_of(table, name, 4)[:count] for table in tables)
        np.testing.assert_allclose(first, second, rtol=1e-2, atol=2e-5)


def test_measuring_changes_no_weight_by_a_bit(plain, tmp_path):
    part = MEASURING.model_copy(update={"step": "sgd", "batch": "training"})
    measured = train(tmp_path, part)
    assert plain.weights == measured.weights
    assert plain.moments == measured.moments
    assert plain.beside == {}
    table = table_of(measured, "measurements.parquet")
    assert table["step"].to_pylist() == list(range(0, len(table) * 2, 2))
    # The first measurement, again from its definition: initial weights, first batch, plain model.
    alone = PlainModel(build_model(MODEL, SUITE.inputs.shape[1:], SUITE.tasks, 0), SUITE, [], "cpu")
    batch = next(iter(epoch_batches(SUITE.rows(TRAIN), 32, 0, 0)))
    first = measure_step(alone.instrument, alone.batch(batch), 0.01)
    for name in MEASURES:
        np.testing.assert_allclose(history_of(table, name, 4)[0], getattr(first, name).numpy(), rtol=1e-3, atol=1e-6)


def test_ranks_that_share_everything_measure_what_one_measures(tmp_path):
    same_measurements(train(tmp_path), train(tmp_path, workers=2, zero_stage=3), 3)


def test_ranks_come_to_the_same_turns_which_train_only_some_tasks(tmp_path):
    one, two = (train(tmp_path, schedule=TURNS, **changes) for changes in ({}, {"workers": 2, "accumulation": 2}))
    same_measurements(one, two, 2)
    turns = [table_of(each, "schedule.parquet").to_pylist() for each in (one, two)]
    assert turns[0][0]["active"] == turns[1][0]["active"]
    np.testing.assert_allclose(turns[0][0]["interference"], turns[1][0]["interference"], atol=1e-4)
    rows = turns[0]
    assert [row["step"] for row in rows] == [1, *range(3, rows[-1]["step"] + 1, 2)]
    assert any(len(row["active"]) > 1 for row in rows), "nothing conflicted"
    assert all(visits > 0 for visits in rows[-1]["visits"])
    assert min(rows[-1]["visits"]) < rows[-1]["step"]


def test_all_together_is_the_plain_training_and_an_aggregator_another(plain, tmp_path):
    joint = train(tmp_path, None, ScheduleConfig(warmup=10**6))
    upgrad = train(tmp_path, None, ScheduleConfig(warmup=10**6, aggregator="UPGrad"))
    weights = [load(each.weights) for each in (plain, joint, upgrad)]
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, atol=1e-5)
    assert max(float((weights[0][name] - weights[2][name]).abs().max()) for name in weights[0]) > 1e-3


def test_a_study_by_lookahead_from_data_to_report(small_config, tmp_path):
    config = small_config(
        mixed_suite(rows=300),
        affinity={"estimator": "lookahead"},
        measure={"every": 2},
        schedule={"quantile": 0.5, "refresh": 3},
        groups={"k": 2},
        validation={"subsets": 6, "seeds": 1, "workers": 2},
    )
    study = Study.run(config, tmp_path / "study")
    folder = study.folder
    assert not folder.exists("fits/calibration.json")
    matrix = study.affinity
    names = study.tasks
    table = pq.read_table(io.BytesIO(folder.read_bytes("base_model/measurements.parquet")))
    best = folder.read_json("base_model/history.json")["best_epoch"] - 1
    inside = inside_window(table, best, (0.0, 1.0))
    again = average_history(names, history_of(table, "lookahead", len(names))[inside])
    np.testing.assert_allclose(matrix.affinity, again.affinity)
    assert np.isfinite(matrix.standard_error).all()
    assert study.group(k=2).k == 2
    networks = study.networks(2, "pairs")
    assert set(networks.served_by) == set(names)
    assert networks.loss is None
    for ask in (lambda: study.predict(names[:2]), lambda: study.best_partners(names[0]), lambda: study.networks(2)):
        with pytest.raises(UserError, match="they rank partners, but predict no losses"):
            ask()
    text = folder.read_bytes("report/index.html").decode()
    for words in ("Affinity over training time", "Which tasks took turns", "ppm of the loss per step"):
        assert words in text
    timings = [stage["name"] for stage in folder.read_json("timings.json")["stages"]]
    assert timings == ["base_model", "affinity", "groups", "group_models", "report"]
    # Other measures of the same kind need another training; averaging over another window does not.
    other = config.model_copy(update={"measure": config.measure.model_copy(update={"window": (0.5, 1.0)})})
    manifest = folder.manifest("base_model")
    late = Study.run(other, tmp_path / "study", until="affinity")
    assert folder.manifest("base_model") == manifest
    assert not np.allclose(late.affinity.affinity, matrix.affinity)
    Study.run(config, tmp_path / "study", until="validation")
    fidelity = folder.read_json("fidelity.json")
    assert {"estimate", "tag_lookahead", "tag_first_order", "tag_cosine", "base", "ceiling"} <= set(
        fidelity["best_validation"]
    )
    assert fidelity["best_validation"]["estimate"] == fidelity["best_validation"]["tag_lookahead"]
    json.dumps(fidelity, allow_nan=False)
