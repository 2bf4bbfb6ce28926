"""A row as it was given, and as every later step takes it: turns of a conversation whose answers are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from affinity_service.config_text_suites import ColumnNames
from affinity_service.errors import UserError
from affinity_service.tasks.suite import SPLITS

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)


@dataclass(frozen=True)
class RawRow:
    """A row as a file or function has it, and where: a file and its line, what an error message begins with."""

    place: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Turn:
    role: str
    content: str


@dataclass(frozen=True)
class TextRow:
    """One example of one task. The last turn is the assistant's; an input and its target are two turns.

    Attributes
    ----------
    split : of ``SPLITS``, where the source has one.
    """

    task: str
    turns: tuple[Turn, ...]
    split: str | None
    place: str

    @property
    def input(self) -> str:
        """What comes before the answer that counts, without templates: of a chat a line per turn."""
        before = self.turns[:-1]
        if self.is_pair:
            return before[0].content
        return "\n".join(f"{turn.role}: {turn.content}" for turn in before)

    @property
    def target(self) -> str:
        return self.turns[-1].content

    @property
    def is_pair(self) -> bool:
        """Whether it is an input and its target, and no longer conversation."""
        return len(self.turns) == 2 and self.turns[0].role == USER

    @property
    def key(self) -> tuple[str, tuple[Turn, ...]]:
        """Two rows of one key are the same example."""
        return self.task, self.turns


def text_row(raw: RawRow, columns: ColumnNames, split_column: str | None = None) -> TextRow:
    """Check one row.

    Raises
    ------
    UserError
        A column is missing, something is no text, the answer is empty; the place is named.
    """
    task = _text(raw, columns.task, "task")
    if not task:
        raise UserError(f"{raw.place}: `{columns.task}` is empty; every row needs the name of its task")
    if raw.content.get(columns.messages) is not None:
        turns = _chat(raw, columns.messages)
    else:
        if columns.input not in raw.content and columns.target not in raw.content:
            raise _missing(raw, f"`{columns.input}` and `{columns.target}`, or `{columns.messages}`", "input")
        turns = (
            Turn(USER, _text(raw, columns.input, "input")),
            Turn(ASSISTANT, _text(raw, columns.target, "target")),
        )
        if not turns[-1].content.strip():
            raise UserError(f"{raw.place}: `{columns.target}` is empty; there must be something to learn")
    return TextRow(task, turns, None if split_column is None else _split(raw, split_column), raw.place)


def _text(raw: RawRow, column: str, role: str) -> str:
    if column not in raw.content:
        raise _missing(raw, f"`{column}`", role)
    value = raw.content[column]
    if not isinstance(value, str):
        found = "nothing" if value is None else type(value).__name__
        raise UserError(f"{raw.place}: `{column}` must be text, found {found}")
    return value


def _missing(raw: RawRow, what: str, role: str) -> UserError:
    there = ", ".join(f"`{name}`" for name in list(raw.content)[:20]) or "nothing"
    return UserError(f"{raw.place}: has no {what}, only {there}; data.columns.{role} can name another column")


def _chat(raw: RawRow, column: str) -> tuple[Turn, ...]:
    messages = raw.content[column]
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise UserError(f"{raw.place}: `{column}` must be a list of {{role, content}}, found {type(messages).__name__}")
    turns = [_turn(raw.place, column, number, message) for number, message in enumerate(messages)]
    learned = [number for number, turn in enumerate(turns) if turn.role == ASSISTANT]
    if not learned:
        raise UserError(f"{raw.place}: `{column}` has no turn of the {ASSISTANT}; there must be something to learn")
    if learned[0] == 0:
        raise UserError(f"{raw.place}: `{column}` begins with the {ASSISTANT}; expected a turn of the {USER} before it")
    # What follows the last answer leads to nothing that is learned.
    return tuple(turns[: learned[-1] + 1])


def _turn(place: str, column: str, number: int, message: Any) -> Turn:
    where = f"{place}: message {number} of `{column}`"
    if not isinstance(message, Mapping) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
        raise UserError(f"{where} must have a role and a content that are text, found {str(message)[:80]}")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise UserError(f"{where} has the unknown role `{role}`; expected {', '.join(ROLES)}")
    if role == ASSISTANT and not content.strip():
        raise UserError(f"{where} is an empty answer; there must be something to learn")
    return Turn(role, content)


def _split(raw: RawRow, column: str) -> str:
    value = raw.content.get(column)
    if value not in SPLITS:
        found = "nothing" if value is None else f"'{value}'"
        raise UserError(f"{raw.place}: `{column}` must be one of {', '.join(SPLITS)}, found {found}")
    return str(value)
