import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from affinity_service.config_text_suites import TextSource
from affinity_service.errors import UserError
from affinity_service.text.rows import TextRow, Turn
from affinity_service.text.tokenise import shortened, tokenise
from affinity_service.text.tokenizer import load_tokenizer, tokenizer_identity
from tests.texts import CHAT, write_tokenizer

PAIR = TextRow("capital", (Turn("user", "France"), Turn("assistant", "Paris")), None, "f: line 1")
CHATTING = TextRow(
    "talk",
    (
        Turn("user", "up?"),
        Turn("assistant", "down"),
        Turn("user", "and hot?"),
        Turn("assistant", "cold"),
    ),
    None,
    "f: line 2",
)


def said(path, rows, **settings):
    """Per row the text, with what is learned in brackets."""
    tokenizer, found = load_tokenizer(path), made(path, rows, **settings).rows
    texts = []
    for ids, goal in (found[[row]][0] for row in range(len(found))):
        read = goal < 0
        edges = [0, *(np.flatnonzero(np.diff(read)) + 1), len(ids)]
        parts = [tokenizer.decode(ids[start:end]) for start, end in pairwise(edges)]
        texts.append("".join(f"[{part}]" if number % 2 else part for number, part in enumerate(parts)))
    return texts


def made(path, rows, **settings):
    return tokenise(rows, TextSource(path="p", tokenizer=path, **settings), load_tokenizer(path))


def test_the_answer_and_its_end_are_learned(plain):
    assert said(plain, [PAIR]) == ["France\n[Paris<|end|>]"]
    assert said(plain, [PAIR], prompt="{task} of {input}: ") == ["capital of France: [Paris<|end|>]"]
    assert said(plain, [PAIR], prompt="{{{input}}}") == ["{France}[Paris<|end|>]"]


def test_a_chat_is_written_by_the_template_of_the_tokenizer(chatty):
    asked = "<|start|>user\nFrance<|end|>\n<|start|>assistant\n"
    assert said(chatty, [PAIR]) == said(chatty, [PAIR], prompt="chat") == [f"{asked}[Paris<|end|>]"]
    assert said(chatty, [PAIR], system="Be brief.") == [f"<|start|>system\nBe brief.<|end|>\n{asked}[Paris<|end|>]"]
    assert said(chatty, [PAIR], prompt="{input}: ") == ["France: [Paris<|end|>]"]


def test_every_answer_of_a_conversation_is_learned(chatty):
    (found,) = said(chatty, [CHATTING])
    assert found == (
        "<|start|>user\nup?<|end|>\n<|start|>assistant\n[down<|end|>]\n"
        "<|start|>user\nand hot?<|end|>\n<|start|>assistant\n[cold<|end|>]"
    )


def test_an_end_that_the_template_does_not_write_is_added(tmp_path):
    path = write_tokenizer(tmp_path, CHAT.replace("<|end|>", "</turn>"))
    assert said(path, [PAIR])[0].endswith("<|start|>assistant\n[Paris</turn>\n<|end|>]")


def test_a_beginning_stands_where_the_tokenizer_puts_one(tmp_path, plain):
    path = write_tokenizer(tmp_path, bos="<|begin|>")
    assert said(path, [PAIR]) == ["<|begin|>France\n[Paris<|end|>]"]
    empty = TextRow("t", (Turn("user", ""), Turn("assistant", "Paris")), None, "f")
    assert said(path, [empty], prompt="{input}") == ["<|begin|>[Paris<|end|>]"]
    assert said(plain, [empty], prompt="{input}") == ["<|end|>[Paris<|end|>]"], "an answer follows something"


def test_many_rows_come_in_their_order(plain, monkeypatch):
    monkeypatch.setattr("affinity_service.text.tokenise.TOGETHER", 3)
    rows = [TextRow("t", (Turn("user", str(n)), Turn("assistant", "a" * (n + 1))), None, "f") for n in range(8)]
    assert said(plain, rows) == [f"{n}\n[{'a' * (n + 1)}<|end|>]" for n in range(8)]


def test_prompts_lose_their_beginning_and_are_counted(plain):
    long = TextRow("t", (Turn("user", "abc " * 50), Turn("assistant", "xyz")), None, "f")
    found = made(plain, [PAIR, long], max_length=20)
    assert found.rows.lengths[1] == 20
    assert (found.cut.tolist(), found.cut_answers) == ([False, True], 0)
    assert said(plain, [long], max_length=20)[0].endswith("abc \n[xyz<|end|>]")


def test_answers_that_are_too_long_alone_lose_their_end(plain):
    long = TextRow("t", (Turn("user", "q"), Turn("assistant", "0123456789")), None, "f")
    found = made(plain, [long], max_length=6)
    assert (found.cut.tolist(), found.cut_answers) == ([True], 1)
    assert said(plain, [long], max_length=6) == ["\n[01234]"], "the answer follows one token of its prompt"


def test_what_is_too_long_can_be_refused(plain):
    with pytest.raises(
        UserError, match=r"f: line 1: \d+ tokens, more than the 3 of data.max_length: shorten it, raise it, or set"
    ):
        made(plain, [PAIR], max_length=3, too_long="refuse")


def test_no_example_is_longer_than_the_models_context(tmp_path, plain):
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_positions": 6}')
    long = TextRow("t", (Turn("user", "0123456789"), Turn("assistant", "xyz")), None, "f: line 1")
    found = made(str(folder), [long], max_length=100)
    assert (found.rows.lengths.tolist(), found.cut.tolist()) == ([6], [True])
    assert found.limit == (6, "the model's context")
    with pytest.raises(
        UserError, match=r"f: line 1: \d+ tokens, more than the 6 of the model's context: shorten it, or"
    ):
        made(str(folder), [long], max_length=100, too_long="refuse")
    assert made(str(folder), [long], max_length=5).limit == (5, "data.max_length")
    assert made(plain, [long], max_length=100).cut.tolist() == [False], "a tokenizer alone knows no bound"


def test_an_earlier_answer_may_be_cut():
    tokens, learned = list(range(9)), [False, True, True, True, False, False, True, True, True]
    assert shortened(tokens, learned, 6) == ([3, 4, 5, 6, 7, 8], [False, False, False, True, True, True], False)
    assert shortened(tokens, learned, 4) == ([5, 6, 7, 8], [False, True, True, True], False)
    assert shortened(tokens, learned, 3) == ([5, 6, 7], [False, True, True], True)


def test_prompts_that_the_tokenizer_cannot_write_are_named(tmp_path, plain):
    with pytest.raises(UserError, match=r"data.prompt is chat, but the tokenizer .* has no chat template"):
        made(plain, [PAIR], prompt="chat")
    with pytest.raises(UserError, match=r"data.system is said in a chat, but the tokenizer .* has no chat template"):
        made(plain, [PAIR], system="s")
    with pytest.raises(UserError, match="f: line 2: is a conversation of 4 turns, which a format of one input cannot"):
        made(plain, [CHATTING])
    refusing = write_tokenizer(tmp_path / "a", "{{ raise_exception('no system role') }}")
    with pytest.raises(UserError, match="f: line 1: the tokenizer's chat template refuses it: no system role"):
        made(refusing, [PAIR])
    last = CHAT.replace("{{ message['content'] }}", "{{ message['content'] if loop.last else '…' }}")
    forgetful = write_tokenizer(tmp_path / "b", last)
    with pytest.raises(UserError, match=r"f: line 2: .* does not write the turns one after the other"):
        made(forgetful, [CHATTING])


def test_a_tokenizer_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(UserError, match="has no end-of-sequence token"):
        load_tokenizer(write_tokenizer(tmp_path / "endless", eos=None))
    with pytest.raises(UserError, match="gone"):
        load_tokenizer(str(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has none; expected a file such as tokenizer\.json"):
        load_tokenizer(str(tmp_path / "empty"))
    (tmp_path / "empty" / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded from"):
        load_tokenizer(str(tmp_path / "empty"))


def test_its_identity_is_what_its_files_hold(tmp_path, plain):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in Path(plain).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "model.safetensors").write_bytes(b"weights")
    assert tokenizer_identity(str(copy)) == tokenizer_identity(plain)
    content = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**content, "chat_template": CHAT}))
    assert tokenizer_identity(str(copy)) != tokenizer_identity(plain)
