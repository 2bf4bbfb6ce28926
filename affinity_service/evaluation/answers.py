"""How often a language model answers the test examples right, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from affinity_service.evaluation.outcomes import ANSWERED, LONGEST_ANSWER
from affinity_service.models.causal_lm import CausalLM
from affinity_service.models.generation import end_tokens, exact_match, generate_answers
from affinity_service.tasks.suite import TEST, Suite
from affinity_service.tasks.tokens import TokenRows


def exact_matches(model: CausalLM, tokenizer: Any, suite: Suite, tasks: Sequence[int]) -> list[float]:
    """(T,) shares of the test examples answered exactly; NaN outside the tasks, and where answers are long."""
    found = [float("nan")] * len(suite.tasks)
    for task in tasks:
        rows = suite.rows(TEST, [task])
        # Spread over the split, the same ones always.
        rows = (
            rows[np.unique(np.linspace(0, len(rows) - 1, min(ANSWERED, len(rows))).astype(int))] if len(rows) else rows
        )
        parts = [_prompt_and_answer(suite.inputs, row) for row in rows]
        longest = max((len(answer) for _, answer in parts), default=LONGEST_ANSWER + 1)
        if longest > LONGEST_ANSWER:
            continue
        ends = set(end_tokens(model, tokenizer))
        answers = generate_answers(model, tokenizer, [prompt for prompt, _ in parts], longest)
        targets = [[token for token in answer if token not in ends] for _, answer in parts]
        found[task] = exact_match(tokenizer.batch_decode(answers), tokenizer.batch_decode(targets))
    return found


def _prompt_and_answer(inputs: Any, row: int) -> tuple[list[int], list[int]]:
    """The last answer, and what stands before it: of a conversation the earlier answers too."""
    assert isinstance(inputs, TokenRows)
    own = slice(inputs.starts[row], inputs.starts[row + 1])
    tokens, learned = inputs.tokens[own], inputs.learned[own]
    stop = int(np.flatnonzero(learned)[-1]) + 1
    # The first token of a sequence is never learned.
    start = int(np.flatnonzero(~learned[:stop])[-1]) + 1
    return tokens[:start].tolist(), tokens[start:stop].tolist()
