"""From rows to token sequences of bounded length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affinity_service.config_text_suites import LanguageSource
from affinity_service.errors import UserError
from affinity_service.tasks.tokens import TokenRows
from affinity_service.text.prompts import ChatPrompt, Piece, prompt_of
from affinity_service.text.rows import TextRow
from affinity_service.text.tokenizer import beginning, context_of

# Rows whose texts go through the tokenizer in one call.
TOGETHER = 4096
MAX_LENGTH, MODEL = "data.max_length", "the model's context"


@dataclass(frozen=True)
class Tokenised:
    """N sequences.

    Attributes
    ----------
    limit : tokens of an example at most, and what says so.
    cut : (N,) bool, examples that were longer.
    cut_answers : of these, how many whose last answer alone was.
    """

    rows: TokenRows
    limit: tuple[int, str]
    cut: NDArray[np.bool_]
    cut_answers: int


def tokenise(rows: Sequence[TextRow], source: LanguageSource, tokenizer: Any) -> Tokenised:
    """Prompts and answers as tokens; answers end with the end-of-sequence token, which is learned as well.

    Prompts and answers are tokenised apart, as they are when a model is asked: no token reaches across.

    Raises
    ------
    UserError
        A row does not fit the prompt, or is too long where that is refused.
    """
    prompt, first = prompt_of(source, tokenizer), beginning(tokenizer)
    most, why = limit_of(source)
    eos = int(tokenizer.eos_token_id)
    # A chat template writes its own beginning; an empty prompt needs something that the answer follows.
    head = [] if isinstance(prompt, ChatPrompt) else first
    start = first or [eos if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)]
    sequences: list[tuple[NDArray[np.int32], NDArray[np.bool_]]] = []
    cut, cut_answers = np.zeros(len(rows), bool), 0
    for begin in range(0, len(rows), TOGETHER):
        own = rows[begin : begin + TOGETHER]
        pieces = [prompt.pieces(row) for row in own]
        ids = iter(_encoded([piece.text for each in pieces for piece in each], tokenizer))
        for number, (row, each) in enumerate(zip(own, pieces, strict=True), begin):
            tokens, learned = _joined(each, [next(ids) for _ in each], head, start, eos)
            if len(tokens) > most:
                if source.too_long == "refuse":
                    raise too_long(row, len(tokens), most, why)
                cut[number] = True
                tokens, learned, of_answer = shortened(tokens, learned, most)
                cut_answers += of_answer
            sequences.append((np.asarray(tokens, np.int32), np.asarray(learned, bool)))
    return Tokenised(TokenRows.of(sequences), (most, why), cut, cut_answers)  # type: ignore[arg-type]


def too_long(row: TextRow, tokens: int, most: int, why: str) -> UserError:
    """The error to raise where that is asked for."""
    raised = "raise it, " if why == MAX_LENGTH else ""
    return UserError(
        f"{row.place}: {tokens} tokens, more than the {most} of {why}: shorten it, {raised}or set data.too_long to "
        "truncate"
    )


def limit_of(source: LanguageSource) -> tuple[int, str]:
    """Tokens of an example at most, and what says so: the config, or what the model was made to read."""
    context = None if source.tokenizer is None else context_of(source.tokenizer)
    if context is None or source.max_length <= context:
        return source.max_length, MAX_LENGTH
    return context, MODEL


def _joined(
    pieces: Sequence[Piece], ids: Sequence[list[int]], head: list[int], start: list[int], eos: int
) -> tuple[list[int], list[bool]]:
    """Tokens of a row, and which of them are learned."""
    tokens = [*head, *ids[0]] or list(start)
    learned = [False] * len(tokens)
    for number, (piece, own) in enumerate(zip(pieces[1:], ids[1:], strict=True), 1):
        if not piece.learned:
            tokens += own
            learned += [False] * len(own)
            continue
        # What a template writes after the end of an answer leads on to the next turn.
        answer = len(own) - own[::-1].index(eos) if eos in own else len(own)
        after = own[answer:]
        own = own[:answer]
        last = number == len(pieces) - 1
        if last:
            own = own if own and own[-1] == eos else [*own, eos]
            after = []
        tokens += [*own, *after]
        learned += [True] * len(own) + [False] * len(after)
    return tokens, learned


def shortened(tokens: list[int], learned: list[bool], most: int) -> tuple[list[int], list[bool], bool]:
    """At most so many tokens, and whether the last answer had to be cut.

    What comes before the last answer loses its beginning, all but one token if need be; an answer that is longer alone
    loses its end.
    """
    answer = len(list(next(groupby(reversed(learned)))[1]))
    begin = len(tokens) - max(answer + 1, most)
    tokens, learned = tokens[begin:], learned[begin:]
    # The token that now comes first follows nothing that could predict it.
    learned[0] = False
    return tokens[:most], learned[:most], answer + 1 > most


def _encoded(texts: list[str], tokenizer: Any) -> list[list[int]]:
    return list(tokenizer(texts, add_special_tokens=False, return_attention_mask=False).input_ids) if texts else []
