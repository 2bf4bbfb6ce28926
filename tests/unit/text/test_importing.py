import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from affinity_service.cli_import import importing
from affinity_service.errors import UserError
from affinity_service.text.files import read_rows
from affinity_service.text.importing import import_function_vectors, import_jsonl
from tests.texts import topic_rows, write_jsonl

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def test_lines_become_the_native_form(tmp_path, topics):
    out = str(tmp_path / "t.parquet")
    done = import_jsonl(topics, out)
    assert pq.read_table(out).to_pylist() == topic_rows()
    assert done.tasks == {"capital": 20, "opposite": 20}
    assert str(done).endswith(f"in a config: data: {{source: text, path: {out}}}")
    with pytest.raises(UserError, match="exists already"):
        import_jsonl(topics, out)


def test_conversations_keep_their_turns(tmp_path):
    rows = [
        {"task": "t", "messages": CHAT, "part": "train"},
        {"task": "t", "messages": [*CHAT, *CHAT], "part": "test"},
        {"task": "t", "messages": [*CHAT, CHAT[0]], "part": "test"},
    ]
    out = str(tmp_path / "t.parquet")
    assert "split_column: split" in str(import_jsonl(write_jsonl(tmp_path / "c.jsonl", rows), out, split_column="part"))
    found = [raw.content for raw in read_rows(out)]
    assert [row["messages"] for row in found] == [None, CHAT * 2, None]
    assert (found[0]["input"], found[1]["input"], found[2]["target"]) == ("q", None, "a")
    assert [row["split"] for row in found] == ["train", "test", "test"]


def test_every_file_of_function_vectors_is_a_task(tmp_path):
    for folder, name in (("a", "antonym"), ("b", "capital")):
        (tmp_path / "fv" / folder).mkdir(parents=True)
        content = [{"input": f"{name} {number}", "output": "x"} for number in range(3)]
        (tmp_path / "fv" / folder / f"{name}.json").write_text(json.dumps(content))
    out = str(tmp_path / "t.parquet")
    assert import_function_vectors(str(tmp_path / "fv"), out).tasks == {"antonym": 3, "capital": 3}
    assert pq.read_table(out).to_pylist()[3] == {"task": "capital", "input": "capital 0", "target": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "antonym.json: not valid JSON"),
        ("{}", "antonym.json: is dict, expected a list"),
        ("[3]", "antonym.json: entry 0 is int"),
        ('[{"input": "a", "output": ""}]', "antonym.json: entry 0: `output` is empty"),
    ],
)
def test_a_broken_file_of_function_vectors_is_named(tmp_path, content, message):
    (tmp_path / "antonym.json").write_text(content)
    with pytest.raises(UserError, match=message):
        import_function_vectors(str(tmp_path), str(tmp_path / "t.parquet"))
    assert not (tmp_path / "t.parquet").exists()


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text("[]")
    with pytest.raises(UserError, match="the task `x` has 2 files"):
        import_function_vectors(str(tmp_path), str(tmp_path / "t.parquet"))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"holds no \.json file"):
        import_function_vectors(str(tmp_path / "none"), str(tmp_path / "t.parquet"))


def test_on_the_command_line(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"kind": "t", "question": "q", "answer": "a"}])
    out = tmp_path / "t.parquet"
    names = ["--task", "kind", "--input", "question", "--target", "answer"]
    done = CliRunner().invoke(importing, ["jsonl", path, str(out), *names])
    assert (done.exit_code, pq.read_table(out).num_rows) == (0, 1)
    done = CliRunner().invoke(importing, ["function-vectors", str(tmp_path), str(out)])
    assert isinstance(done.exception, UserError)
