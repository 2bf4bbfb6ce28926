"""From turns to the text that a model reads and the text that it learns, alternating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from affinity_service.config_text_suites import LanguageSource
from affinity_service.errors import UserError
from affinity_service.text.rows import ASSISTANT, SYSTEM, TextRow, Turn

PLAIN = "{input}\n"


@dataclass(frozen=True)
class Piece:
    """A stretch of text that is read, or one that is learned."""

    text: str
    learned: bool


class PlainPrompt:
    """By a format string: the input and the task in it are read, the target is learned."""

    def __init__(self, form: str) -> None:
        self.form = form

    def pieces(self, row: TextRow) -> list[Piece]:
        """Raise ``UserError`` for a row that is more than an input and its target."""
        if not row.is_pair:
            raise UserError(
                f"{row.place}: is a conversation of {len(row.turns)} turns, which a format of one input cannot hold: "
                "use data.prompt chat and a tokenizer that has a chat template"
            )
        return [Piece(self.form.format(input=row.input, task=row.task), False), Piece(row.target, True)]


class ChatPrompt:
    """By the chat template of a tokenizer. What it writes before an assistant's turn when asked for one is read; what
    it writes for the turn itself is learned."""

    def __init__(self, tokenizer: Any, system: str | None) -> None:
        self.tokenizer, self.system = tokenizer, system

    def pieces(self, row: TextRow) -> list[Piece]:
        """Raise ``UserError`` where the template refuses the turns, or writes no such text."""
        turns = row.turns
        if self.system is not None and turns[0].role != SYSTEM:
            turns = (Turn(SYSTEM, self.system), *turns)
        found: list[Piece] = []
        before = ""
        for number, turn in enumerate(turns):
            if turn.role != ASSISTANT:
                continue
            asked = self._rendered(turns[:number], row, asking=True)
            told = self._rendered(turns[: number + 1], row, asking=False)
            if not asked.startswith(before) or not told.startswith(asked):
                raise UserError(
                    f"{row.place}: the tokenizer's chat template does not write the turns one after the other, so "
                    f"that what is learned cannot be told apart at turn {number + 1}: use data.prompt with a format, "
                    "or rows of one answer"
                )
            found += [Piece(asked.removeprefix(before), False), Piece(told.removeprefix(asked), True)]
            before = told
        return found

    def _rendered(self, turns: Sequence[Turn], row: TextRow, asking: bool) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asking)
        except Exception as error:
            # A template is a program of its own, which raises what it likes.
            raise UserError(f"{row.place}: the tokenizer's chat template refuses it: {error}") from error
        return str(text)


def prompt_of(source: LanguageSource, tokenizer: Any) -> PlainPrompt | ChatPrompt:
    """The prompt that a source asks for.

    Raises
    ------
    UserError
        A chat is asked for, and the tokenizer has no template for it.
    """
    has_template = bool(tokenizer.chat_template)
    if source.prompt == "chat" or (source.prompt == "auto" and has_template):
        if not has_template:
            raise UserError(
                f"data.prompt is chat, but the tokenizer {source.tokenizer} has no chat template: use a format such as "
                f"{PLAIN!r}, or the tokenizer of a model for chats"
            )
        return ChatPrompt(tokenizer, source.system)
    if source.system is not None:
        raise UserError(
            f"data.system is said in a chat, but the tokenizer {source.tokenizer} has no chat template: give "
            "data.prompt a format with it"
        )
    return PlainPrompt(PLAIN if source.prompt == "auto" else source.prompt)
