"""Texts with labels, for encoders: the input is read, the target is one of its task's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affinity_service.config_text_suites import LanguageSource
from affinity_service.errors import UserError
from affinity_service.tasks.suite import Task
from affinity_service.tasks.tokens import TokenRows
from affinity_service.text.prompts import PlainPrompt
from affinity_service.text.rows import TextRow
from affinity_service.text.select import Selection
from affinity_service.text.tokenise import TOGETHER, Tokenised, limit_of, too_long

INPUT = "{input}"


def tokenise_inputs(rows: Sequence[TextRow], source: LanguageSource, tokenizer: Any) -> Tokenised:
    """Inputs as the tokenizer prepares a text, with the tokens that it puts around one; of a text that is too long the
    end goes. Nothing of them is learned.

    Raises
    ------
    UserError
        A row is a conversation, or too long where that is refused.
    """
    prompt = PlainPrompt(INPUT if source.prompt == "auto" else source.prompt)
    most, why = limit_of(source)
    sequences: list[tuple[list[int], list[bool]]] = []
    cut = np.zeros(len(rows), bool)
    for begin in range(0, len(rows), TOGETHER):
        own = rows[begin : begin + TOGETHER]
        texts = [prompt.pieces(row)[0].text for row in own]
        encoded = tokenizer(texts, return_attention_mask=False).input_ids
        for number, (row, text, ids) in enumerate(zip(own, texts, encoded, strict=True), begin):
            if len(ids) > most:
                if source.too_long == "refuse":
                    raise too_long(row, len(ids), most, why)
                cut[number] = True
                ids = tokenizer(text, truncation=True, max_length=most, return_attention_mask=False).input_ids
            sequences.append((ids, [False] * len(ids)))
    return Tokenised(TokenRows.of(sequences), (most, why), cut, 0)


def labelled(selection: Selection) -> tuple[tuple[Task, ...], NDArray[np.float32], dict[str, int]]:
    """Tasks, labels (N, T) and the number of every class by `class.TASK.NAME`. The classes of a task are its different
    targets in the order of the alphabet; two make it binary.

    Raises
    ------
    UserError
        A task has one class only.
    """
    labels = np.full((len(selection.rows), len(selection.tasks)), np.nan, np.float32)
    tasks: list[Task] = []
    named: dict[str, int] = {}
    for number, name in enumerate(selection.tasks):
        own = np.flatnonzero(selection.task == number)
        targets = [selection.rows[row].target for row in own]
        classes = sorted(set(targets))
        if len(classes) < 2:
            raise UserError(
                f"task `{name}`: all {len(own)} rows have the target `{classes[0]}`; a label needs two different ones: "
                "leave the task out of data.tasks, or give it rows of another class"
            )
        codes = {target: code for code, target in enumerate(classes)}
        labels[own, number] = [codes[target] for target in targets]
        named |= {f"class.{name}.{target}": code for target, code in codes.items()}
        tasks.append(Task(name, "binary") if len(classes) == 2 else Task(name, "multiclass", len(classes)))
    return tuple(tasks), labels, named
