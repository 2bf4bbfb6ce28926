"""Tokenizers and rows made for tests."""

from __future__ import annotations

import json
from pathlib import Path

CHAT = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TOPICS = {
    "capital": [("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Chile", "Santiago")],
    "opposite": [("hot", "cold"), ("up", "down"), ("wet", "dry"), ("old", "new")],
}


def write_tokenizer(folder: Path, chat: str | None = None, eos: str | None = "<|end|>", bos: str | None = None) -> str:
    """A byte-level tokenizer of a few dozen words, as transformers saves one; with `bos` every text begins with it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|start|>", "<|end|>", "<|begin|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([f"{a} {b}" for pairs in TOPICS.values() for a, b in pairs], trainer)
    if bos is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=eos, bos_token=bos)
    fast.chat_template = chat
    fast.save_pretrained(folder)
    return str(folder)


def topic_rows(each: int = 20) -> list[dict[str, str]]:
    """So many different rows of two tasks, in turn."""
    rows = []
    for number in range(each):
        for task, pairs in TOPICS.items():
            question, answer = pairs[number % len(pairs)]
            rows.append({"task": task, "input": f"{question} {number}", "target": answer})
    return rows


def write_jsonl(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)
