"""What a language model answers, and how often that is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from affinity_service.models.causal_lm import CausalLM


@torch.no_grad()
def generate_answers(
    model: CausalLM, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch: int = 16
) -> list[list[int]]:
    """Greedy answers' ids, without the token that ends them. The tokenizer need not know a token for padding."""
    from transformers import GenerationConfig

    network: Any = model.eval().network
    ends = end_tokens(model, tokenizer)
    # Sampling and penalties that the model came with are not meant here.
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    device = next(model.parameters()).device
    # Neighbours in length go together.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, list[int]] = {}
    for start in range(0, len(order), batch):
        own = order[start : start + batch]
        ids, mask = _left_padded([prompts[i] for i in own], device)
        made = network.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        for i, row in zip(own, made[:, ids.shape[1] :].tolist(), strict=True):
            stop = next((place for place, token in enumerate(row) if token in ends), len(row))
            answers[i] = row[:stop]
    return [answers[i] for i in range(len(prompts))]


def end_tokens(model: CausalLM, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's, and those that the model came with."""
    network: Any = model.network
    of_model = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    named = of_model if isinstance(of_model, list) else [of_model]
    return list(dict.fromkeys(token for token in (tokenizer.eos_token_id, *named) if token is not None))


def exact_match(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Share of the answers that equal their targets but for white space."""
    pairs = zip(answers, targets, strict=True)
    return sum(_normalised(answer) == _normalised(target) for answer, target in pairs) / len(targets)


def _normalised(text: str) -> str:
    return " ".join(text.split())


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, L) ids, and where they are real; padding is masked, so that any id does."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
