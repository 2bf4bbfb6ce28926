"""Adding tasks to a study and removing them, without the stages that come before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import save

from affinity_service import Study, UserError
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.gradients.anchor import write_anchor
from affinity_service.lock import driver_lock
from affinity_service.models import build_model
from tests.estimating import features_of
from tests.suites import mixed_suite

SUITE = mixed_suite(rows=120, missing=0.0)
LABELS = SUITE.labels[:, 0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What ``add_task`` reads of a finished study."""
    config = Config.parse(
        {
            "name": "small",
            "data": {"source": "yeast"},
            "model": {"hidden": [6]},
            "gradients": {"dimension": 12, "landmarks": 60},
            "fits": {"evaluate": "linearized"},
            "affinity": {"estimator": "auto"},
        }
    )
    folder = StudyFolder.at(tmp_path)
    model = build_model(config.model, SUITE.inputs.shape[1:], SUITE.tasks, config.base.seed)
    folder.write_bytes("config.yaml", config.to_yaml().encode())
    folder.write_json("suite.json", SUITE.summary())
    folder.write_bytes("base_model/model.safetensors", save(dict(model.state_dict())))
    write_anchor(folder, features_of(config, SUITE, model)[1], 0.0)
    folder.write_json("stages/gradients.json", {"identity": "first"})
    folder.write_json("fits/estimator.json", {"estimator": "linearized"})
    monkeypatch.setattr(Study, "require", lambda *_: None)
    monkeypatch.setattr(Study, "_suite", lambda _: SUITE)
    return folder


def test_a_name_that_another_process_added_meanwhile_is_refused(folder):
    one, other = Study(folder), Study(folder)
    assert one.known_tasks == other.known_tasks == SUITE.names
    one.add_task("new", LABELS)
    with pytest.raises(UserError, match="task `new`: the study has it already"):
        other.add_task("new", LABELS)
    assert other.known_tasks == [*SUITE.names, "new"]
    with pytest.raises(UserError, match="task `up`: the study has it already"):
        one.add_task("up", LABELS)


def test_nothing_is_added_or_removed_while_a_driver_is_at_work(folder):
    study = Study(folder)
    with driver_lock(folder):
        for change in (lambda: study.add_task("new", LABELS), lambda: study.remove_task("new")):
            with pytest.raises(UserError, match="is being run by process"):
                change()
    study.add_task("new", LABELS)


def test_removed_tasks_are_known_no_more(folder):
    study = Study(folder)
    study.add_task("a", LABELS)
    study.add_task("b", 1 - LABELS)
    study.remove_task("a")
    assert study.known_tasks == [*SUITE.names, "b"]
    study.add_task("a", LABELS)
    assert Study(folder).known_tasks == [*SUITE.names, "b", "a"]
    with pytest.raises(UserError, match="`c`: add_task brought no such task"):
        study.remove_task("c")
    with pytest.raises(UserError, match="`up`: it is one of the study's own"):
        study.remove_task("up")


def test_a_study_that_has_come_to_train_its_subsets_knows_none(folder):
    Study(folder).add_task("new", LABELS)
    folder.write_json("fits/estimator.json", {"estimator": "trained"})
    study = Study(folder)
    assert study.added == []
    assert study.known_tasks == SUITE.names
    with pytest.raises(UserError, match="fine-tunes every subset"):
        study.add_task("other", LABELS)


def test_features_that_are_computed_again_meanwhile_refuse_the_task(folder, monkeypatch):
    from affinity_service import study as module

    def meanwhile(*arguments):
        folder.write_json("stages/gradients.json", {"identity": "second"})
        return replace(made(*arguments), energy=np.nan)

    made = module.new_task
    monkeypatch.setattr(module, "new_task", meanwhile)
    with pytest.raises(UserError, match="were computed again while it was being added"):
        Study(folder).add_task("new", LABELS)
    assert folder.list("added/") == []


def test_a_language_model_gets_no_task_beside_its_own(tmp_path):
    data = {"source": "text", "path": "rows.jsonl"}
    config = Config.parse({"name": "x", "data": data, "model": {"kind": "causal_lm", "path": "small"}})
    folder = StudyFolder.at(tmp_path)
    folder.write_bytes("config.yaml", config.to_yaml().encode())
    with pytest.raises(UserError, match=r"task `new`: add_task .* not beside models of kind causal_lm; put"):
        Study(folder).add_task("new", LABELS)
