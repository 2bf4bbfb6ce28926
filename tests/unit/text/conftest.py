import pytest

from tests.texts import CHAT, topic_rows, write_jsonl, write_tokenizer

pytest.importorskip("transformers", reason="tokenizers are those of transformers")


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """Without a chat template."""
    return write_tokenizer(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def chatty(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("chatty"), CHAT)


@pytest.fixture
def topics(tmp_path):
    return write_jsonl(tmp_path / "topics.jsonl", topic_rows())
