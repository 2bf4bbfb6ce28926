"""Texts with labels: from rows to an encoder's suite, and from that to estimates."""

from __future__ import annotations

import numpy as np
import pytest

from affinity_service.affinity import LinearizedEstimator
from affinity_service.config import Config
from affinity_service.config_models import EncoderConfig
from affinity_service.errors import UserError
from affinity_service.evaluation.fine_tuning import FineTuner
from affinity_service.gradients.batches import per_example_gradients
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models.state import trained_parameters, trained_shapes
from affinity_service.planning.workload import Workload
from affinity_service.tasks.source import planned_suite
from affinity_service.tasks.suite import TRAIN
from tests.estimating import features_of, model_of
from tests.language_models import write_tiny_bert
from tests.texts import topic_rows, write_jsonl


def words(number: int) -> str:
    return " ".join(f"w{(7 * number + step) % 190}" for step in range(2 + number % 5))


def rows(count: int = 40) -> list[dict[str, str]]:
    """Of two tasks, one of three classes."""
    of_kind = [{"task": "kind", "input": words(n), "target": ("a", "b", "c")[n % 3]} for n in range(count)]
    return of_kind + [{"task": "good", "input": words(n), "target": ("no", "yes")[n % 2]} for n in range(count)]


@pytest.fixture
def config(tmp_path) -> Config:
    return Config.parse(
        {
            "name": "labels",
            "data": {"source": "text", "path": write_jsonl(tmp_path / "rows.jsonl", rows())},
            "model": {"kind": "encoder", "path": write_tiny_bert(tmp_path / "bert")},
            "base": {"batch_size": 8, "learning_rate": 0.01},
            "gradients": {"dimension": 12, "landmarks": 20, "batch_tokens": 40},
            "fits": {"epochs": 2},
        }
    )


def test_targets_are_classes_and_inputs_are_read_only(config) -> None:
    assert config.data.targets == "labels"
    assert Config.from_yaml(config.to_yaml()) == config
    suite = planned_suite(config.data)
    assert [(task.name, task.kind, task.outputs) for task in suite.tasks] == [
        ("kind", "multiclass", 3),
        ("good", "binary", 1),
    ]
    assert not suite.inputs.learned.any()
    assert suite.facts["class.kind.c"] == 2
    assert suite.facts["class.good.yes"] == 1
    for row in (0, 40):
        codes = {0: [0, np.nan], 40: [np.nan, 0]}[row]
        np.testing.assert_array_equal(suite.labels[row], np.float32(codes))
    assert suite.inputs[[0]][0, 0].tolist() == [3 + number for number in (0, 1)]


def test_texts_that_are_too_long_lose_their_end_or_are_refused(config) -> None:
    short = config.data.model_copy(update={"max_length": 3})
    suite = planned_suite(short)
    assert suite.inputs.lengths.max() == 3
    assert suite.facts["truncated.kind"] == sum(2 + n % 5 > 3 for n in range(40))
    with pytest.raises(UserError, match=r"rows.jsonl: line 3: 4 tokens, more than the 3 of data.max_length"):
        planned_suite(short.model_copy(update={"too_long": "refuse"}))


def test_what_cannot_be_labels_is_named(tmp_path, config) -> None:
    same = [{**row, "target": "yes"} for row in topic_rows()]
    source = config.data.model_copy(update={"path": write_jsonl(tmp_path / "same.jsonl", same)})
    with pytest.raises(UserError, match="task `capital`: all 20 rows have the target `yes`; a label needs two"):
        planned_suite(source)
    content = config.model_dump(mode="json")
    for section, message in {
        "targets": "model.kind encoder learns labels, found data.targets answers",
        "prompt": "targets are labels, whose inputs are no chats",
    }.items():
        wrong = {"targets": "answers", "prompt": "chat"}[section]
        with pytest.raises(UserError, match=message):
            Config.parse({**content, "data": {**content["data"], section: wrong}})
    with pytest.raises(UserError, match=r"data.targets labels needs model.kind encoder, found causal_lm"):
        Config.parse({**content, "model": {"kind": "causal_lm", "path": config.model.path}})


@pytest.mark.parametrize("trains", [{}, {"adapter": None}])
def test_estimates_come_from_an_encoders_features_and_truths_from_its_fine_tuning(config, trains) -> None:
    config = config.model_copy(update={"model": EncoderConfig(path=config.model.path, **trains)})
    suite = planned_suite(config.data)
    model = model_of(config, suite)
    work = Workload.of(config, suite)
    assert work.parameters == sum(p.numel() for p in trained_parameters(model).values())
    if trains:
        # The embeddings are as wide as all else.
        config = config.model_copy(update={"gradients": config.gradients.model_copy(update={"layers": ["heads*"]})})
    space = WeightSpace(trained_shapes(model), config.gradients.layers)
    gradients = per_example_gradients(model, suite, config.gradients)
    found, anchor = features_of(config, suite, model, space=space, gradients=gradients)
    assert anchor["basis"].shape == (space.size, 12)
    estimate = LinearizedEstimator(*found, suite.tasks, config, anchor).estimate([(0,), (0, 1)])
    (truth,) = FineTuner(suite, config, {n: p.detach().clone() for n, p in trained_parameters(model).items()}).run(
        [(0,), (0, 1)], [1]
    )
    losses = truth.at("best")[0]
    assert np.isfinite(losses[1]).all()
    for number, subset in enumerate([(0,), (0, 1)]):
        np.testing.assert_allclose(estimate.losses[number], losses[number, list(subset)], atol=0.3)
    assert len(suite.pairs(TRAIN)[0]) == 48
