"""The suite stage of texts, without a cluster."""

import numpy as np
import pytest

pytest.importorskip("transformers", reason="tokenizers are those of transformers")

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine import driver
from affinity_service.engine.context import StageContext
from affinity_service.engine.suite import prepare_suite
from affinity_service.errors import UserError
from affinity_service.stages import SUITE
from affinity_service.tasks.prepared import read_suite
from affinity_service.tasks.source import planned_suite
from affinity_service.tasks.suite import SPLITS
from affinity_service.text import read_texts
from tests.texts import topic_rows, write_jsonl, write_tokenizer


class Told:
    def __init__(self):
        self.warnings, self.reused = [], []

    def started(self, stage): ...

    def progress(self, done, total, text): ...

    def warn(self, message):
        self.warnings.append(message)

    def finished(self, stage, seconds, reused):
        self.reused.append(reused)


@pytest.fixture
def config(tmp_path):
    return config_of(tmp_path, write_tokenizer(tmp_path / "tokenizer"))


def config_of(tmp_path, tokenizer, **settings):
    path = write_jsonl(tmp_path / "t.jsonl", [*topic_rows(), topic_rows()[0]])
    data = {"source": "text", "path": path, "most": {"train": 8}, **settings}
    return Config.parse({"name": "t", "data": data, "model": {"kind": "causal_lm", "path": tokenizer}})


def test_tokens_and_texts_lie_side_by_side(config, tmp_path):
    folder, told = StudyFolder.at(tmp_path / "study"), Told()
    planned = planned_suite(config.data)
    context = StageContext(SUITE, config, folder, planned, told, "")
    outcome = prepare_suite(context)
    suite, texts = read_suite(folder), read_texts(folder)
    assert outcome.identity == suite.content_hash == planned.content_hash
    assert suite.facts["duplicates"] == 1
    assert texts.num_rows == len(suite) == 32
    assert texts["task"].to_pylist() == [suite.names[column] for column in np.nanargmax(suite.labels, axis=1)]
    assert texts["split"].to_pylist() == [SPLITS[code] for code in suite.split]
    assert (
        texts.slice(0, 2).select(["input", "target"]).to_pylist()
        == [
            {key: row[key] for key in ("input", "target")}
            for row in topic_rows()
            if row["input"] in texts["input"].to_pylist()
        ][:2]
    )
    assert told.warnings == []
    write_jsonl(tmp_path / "t.jsonl", topic_rows(30))
    with pytest.raises(UserError, match="the texts changed while they were read"):
        prepare_suite(context)


def test_a_study_goes_on_with_its_suite_where_the_texts_are_gone(config, tmp_path, monkeypatch):
    # Neither Ray nor a plan is what this is about.
    monkeypatch.setattr(driver, "_connect", lambda *_: None)
    monkeypatch.setattr(driver, "refuse_if_too_large", lambda *_: None)
    folder = StudyFolder.at(tmp_path / "study")

    def run(config):
        told = Told()
        driver.run_study(config, folder, told, until=SUITE)
        return told.reused, told.warnings

    assert run(config) == ([False], [])
    assert folder.read_json("suite.json")["tasks"][0]["kind"] == "sequence"
    assert run(config) == ([True], [])
    moved = config_of(tmp_path, str((tmp_path / "tokenizer").rename(tmp_path / "moved")))
    assert run(moved) == ([True], []), "the same content elsewhere"
    assert run(config_of(tmp_path, str(tmp_path / "moved"), max_length=4))[1][0].startswith("32 of 32 examples")
    config = config_of(tmp_path, str(tmp_path / "moved"), max_length=4)
    (tmp_path / "t.jsonl").unlink()
    reused, (warning,) = run(config)
    assert reused == [True]
    assert warning.endswith("the suite that was made of it before is used")


def test_a_study_without_texts_says_so(tmp_path):
    with pytest.raises(UserError, match=r"texts.parquet` is missing"):
        read_texts(StudyFolder.at(tmp_path))
