"""A tiny language model in transformers' form, and suites of answers for it, made for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from affinity_service.tasks.suite import Suite, Task, seeded_split
from affinity_service.tasks.tokens import TokenRows

WORDS = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(197))]
START, END, FIRST_WORD = 1, 2, 3


def tiny_llama(words: int = 60, seed: int = 0, **options: Any) -> Any:
    """Two random layers of width 32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=words,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **options,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def write_tiny_llama(folder: Path, seed: int = 0, tied: bool = True, pad_token: bool = False) -> str:
    """One that knows 200 words, and their tokenizer; returns the folder as a config names it."""
    options = {"tie_word_embeddings": tied, "bos_token_id": START, "eos_token_id": END}
    tiny_llama(len(WORDS), seed, max_position_embeddings=128, **options).save_pretrained(folder)
    _tokenizer(pad_token).save_pretrained(folder)
    return str(folder)


def write_tiny_bert(folder: Path, seed: int = 0) -> str:
    """Two random layers of an encoder over the same words."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    _tokenizer(pad_token=True).save_pretrained(folder)
    return str(folder)


def _tokenizer(pad_token: bool):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<unk>"} if pad_token else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", **special
    )


def answers_suite(rows: int = 120, tasks: int = 3, longest: int = 12, seed: int = 0) -> Suite:
    """Task t's answer is the prompt's last word moved t places on, then the end; prompts are of 2 to `longest` words,
    and every example is of one task."""
    rng = np.random.default_rng(seed)
    sequences, task = [], rng.integers(tasks, size=rows)
    for own in task:
        # Few different last words, so that a small model learns something.
        prompt = [START, int(10 + own), *rng.integers(40, 190, size=rng.integers(1, longest - 1)), rng.integers(20, 25)]
        answer = [int(prompt[-1]) + int(own) + 100, END]
        sequences.append(([*prompt, *answer], [False] * len(prompt) + [True] * len(answer)))
    labels = np.where(np.arange(tasks) == task[:, None], np.float32(1), np.float32(np.nan))
    kinds = tuple(Task(f"plus_{i}", "sequence") for i in range(tasks))
    return Suite(TokenRows.of(sequences), labels, seeded_split(rows, 0.2, 0.2, seed), kinds)
