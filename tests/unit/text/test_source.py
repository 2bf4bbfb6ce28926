import json
import shutil
import sys

import numpy as np
import pytest

from affinity_service.config_text_suites import TextSource
from affinity_service.errors import UserError
from affinity_service.tasks.source import files_of, planned_suite, source_identity
from affinity_service.text.source import warn_of
from tests.texts import topic_rows, write_jsonl


def source_of(path, tokenizer, **settings):
    return TextSource(path=str(path), tokenizer=tokenizer, **settings)


def test_the_suite_has_a_label_for_the_task_of_each_example(topics, plain):
    suite = planned_suite(source_of(topics, plain))
    assert [(task.name, task.kind) for task in suite.tasks] == [("capital", "sequence"), ("opposite", "sequence")]
    np.testing.assert_array_equal(suite.observed.sum(axis=1), 1)
    assert np.nansum(suite.labels) == len(suite) == 40
    np.testing.assert_array_equal(suite.label_counts(0), [12, 12])
    assert suite.facts["tokens"] == suite.inputs.lengths.sum()
    assert suite.facts["learned_tokens"] == suite.inputs.learned.sum()
    assert suite.summary()["facts"]["truncated"] == 0
    warn_of(suite, source_of(topics, plain), pytest.fail)


def test_what_was_cut_is_counted_by_task_and_warned_of(tmp_path, plain):
    rows = topic_rows(10)
    for row in rows[::2]:
        row["input"] += " and so on" * 20
    rows[1]["target"] *= 40
    source = source_of(write_jsonl(tmp_path / "long.jsonl", rows), plain, max_length=40)
    suite, told = planned_suite(source), []
    facts = {name: count for name, count in suite.facts.items() if name.startswith("truncated")}
    assert facts == {"truncated": 11, "truncated_answers": 1, "truncated.capital": 10, "truncated.opposite": 1}
    warn_of(suite, source, told.append)
    assert told == [
        "11 of 20 examples are longer than 40 tokens (data.max_length) and were cut, 1 of them within the answer: "
        "`capital` (10 of 10), `opposite` (1 of 10)"
    ]


def test_errors_name_the_file(topics, plain):
    with pytest.raises(UserError, match=r"topics\.jsonl: no row is of the task `x`"):
        planned_suite(source_of(topics, plain, tasks=["x"]))
    with pytest.raises(UserError, match=r"^[^:]*topics\.jsonl: line 1: has no `question`"):
        planned_suite(source_of(topics, plain, columns={"input": "question", "target": "answer", "task": "question"}))
    with pytest.raises(UserError, match=r"data\.tokenizer is missing"):
        planned_suite(TextSource(path=topics))


def test_rows_of_a_function(tmp_path, plain, monkeypatch):
    (tmp_path / "my_texts.py").write_text(
        "def rows(n, add=''):\n    from tests.texts import topic_rows\n"
        "    return [{**row, 'input': row['input'] + add} for row in topic_rows(n)]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_texts", raising=False)
    source = TextSource(function="my_texts:rows", arguments={"n": 20}, tokenizer=plain)
    assert len(planned_suite(source)) == 40
    other = source.model_copy(update={"arguments": {"n": 20, "add": "!"}})
    assert source_identity(source) == source_identity(source) != source_identity(other)
    assert files_of(source) == [plain]
    with pytest.raises(UserError, match=r"`arguments` \['m'\] do not fit"):
        planned_suite(source.model_copy(update={"arguments": {"m": 1}}))


def test_the_identity_is_of_contents_and_not_of_places(tmp_path, topics, plain, chatty):
    own = source_identity(source_of(topics, plain))
    shutil.copy(topics, tmp_path / "moved.jsonl")
    assert source_identity(source_of(tmp_path / "moved.jsonl", plain)) == own
    assert source_identity(source_of(topics, chatty)) != own
    (tmp_path / "moved.jsonl").write_text("{}")
    assert source_identity(source_of(tmp_path / "moved.jsonl", plain)) != own
    with pytest.raises(UserError, match="no such file"):
        source_identity(source_of(tmp_path / "gone.jsonl", plain))
    assert files_of(source_of(topics, plain)) == [topics, plain]


def test_a_model_that_reads_less_is_another_source(tmp_path, topics, plain):
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    own = source_identity(source_of(topics, plain))
    for context, same in ((1000, True), (4, False)):
        (folder / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
        assert (source_identity(source_of(topics, str(folder))) == own) is same
    suite, told = planned_suite(source_of(topics, str(folder))), []
    assert suite.inputs.lengths.max() == 4
    warn_of(suite, source_of(topics, str(folder)), told.append)
    assert "are longer than 4 tokens (the model's context) and were cut" in told[0]
