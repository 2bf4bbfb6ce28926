import pytest

from affinity_service.config_text_suites import ColumnNames
from affinity_service.errors import UserError
from affinity_service.text.rows import RawRow, Turn, text_row

PLACE = "f.jsonl: line 3"
ASKED = {"role": "user", "content": "q"}
TOLD = {"role": "assistant", "content": "a"}


def row(split_column=None, **content):
    return text_row(RawRow(PLACE, content), ColumnNames(), split_column)


def test_an_input_and_its_target_are_two_turns():
    found = row(task="t", input="", target=" a ")
    assert found.turns == (Turn("user", ""), Turn("assistant", " a "))
    assert (found.input, found.target, found.is_pair) == ("", " a ", True)
    assert found == row(task="t", messages=[{"role": "user", "content": ""}, {"role": "assistant", "content": " a "}])


def test_a_chat_ends_with_its_last_answer():
    system = {"role": "system", "content": "s"}
    found = row(task="t", messages=[system, ASKED, TOLD, ASKED, TOLD, ASKED], input=None)
    assert (found.input, found.target) == ("system: s\nuser: q\nassistant: a\nuser: q", "a")
    assert not found.is_pair


def test_columns_have_other_names():
    names = ColumnNames(task="kind", input="question", target="answer")
    found = text_row(RawRow(PLACE, {"kind": "t", "question": "q", "answer": "a", "part": "test"}), names, "part")
    assert (found.task, found.input, found.target, found.split) == ("t", "q", "a", "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": "t", "input": "q", "target": " "}, "`target` is empty"),
        ({"task": "", "input": "q", "target": "a"}, "`task` is empty"),
        ({"task": "t", "input": "q"}, "has no `target`, only `task`, `input`; data.columns.target can name"),
        ({"input": "q", "target": "a"}, "has no `task`"),
        ({"task": "t", "text": "q"}, "has no `input` and `target`, or `messages`, only `task`, `text`"),
        ({}, "has no `task`, only nothing"),
        ({"task": "t", "input": 5, "target": "a"}, "`input` must be text, found int"),
        ({"task": "t", "input": None, "target": "a"}, "`input` must be text, found nothing"),
        ({"task": "t", "messages": "hello"}, "`messages` must be a list of {role, content}, found str"),
        ({"task": "t", "messages": ["hello"]}, "message 0 of `messages` must have a role and a content"),
        ({"task": "t", "messages": [{"role": "user"}]}, "message 0 of `messages` must have a role and a content"),
        (
            {"task": "t", "messages": [ASKED, {"role": "bot", "content": "a"}]},
            "message 1 of `messages` has the unknown role `bot`; expected system, user, assistant",
        ),
        ({"task": "t", "messages": [ASKED]}, "has no turn of the assistant"),
        ({"task": "t", "messages": [TOLD, ASKED]}, "begins with the assistant"),
        ({"task": "t", "messages": [ASKED, {"role": "assistant", "content": ""}]}, "message 1 .* is an empty answer"),
    ],
)
def test_what_cannot_be_learned_is_named_with_its_place(content, message):
    with pytest.raises(UserError, match=message) as caught:
        row(**content)
    assert str(caught.value).startswith(PLACE)


@pytest.mark.parametrize(("value", "found"), [("dev", "'dev'"), (None, "nothing")])
def test_a_split_is_one_of_three(value, found):
    with pytest.raises(UserError, match=f"`part` must be one of train, validation, test, found {found}"):
        row("part", task="t", input="q", target="a", part=value)
