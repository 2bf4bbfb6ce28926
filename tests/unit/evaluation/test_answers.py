"""How often a language model answers right, and what its passes cost."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from affinity_service.config_models import CausalLMConfig
from affinity_service.evaluation.answers import exact_matches
from affinity_service.evaluation.flops import RunFlops, example_flops, examples_worth
from affinity_service.evaluation.stacked import split_losses
from affinity_service.models import TaskLosses, build_model
from affinity_service.models.generation import generate_answers
from affinity_service.tasks.suite import TEST, TRAIN, VALIDATION
from affinity_service.tasks.tokens import TokenRows
from affinity_service.text.tokenizer import load_tokenizer
from tests.language_models import answers_suite

SUITE = answers_suite(rows=60)


def build(path):
    return build_model(CausalLMConfig(path=path), SUITE.inputs.shape[1:], SUITE.tasks, 0)


def test_the_models_own_answers_are_exact_and_others_are_not(tiny_llama):
    model, tokenizer = build(tiny_llama), load_tokenizer(tiny_llama)
    rows = SUITE.rows(TEST, [0])
    parts = []
    for row in range(len(SUITE)):
        own = slice(SUITE.inputs.starts[row], SUITE.inputs.starts[row + 1])
        parts.append(SUITE.inputs.tokens[own][~SUITE.inputs.learned[own]].tolist())
    answers = generate_answers(model, tokenizer, parts, 3)
    right = [answer if row not in rows[::2] else [5, 5, 5] for row, answer in enumerate(answers)]
    sequences = [(p + a, [False] * len(p) + [True] * len(a)) for p, a in zip(parts, right, strict=True)]
    found = exact_matches(model, tokenizer, replace(SUITE, inputs=TokenRows.of(sequences)), [0, 1])
    assert found[0] == pytest.approx(1 - len(rows[::2]) / len(rows))
    assert found[1] == 1
    assert math.isnan(found[2])


def test_of_a_conversation_the_last_answer_is_asked_for_after_the_earlier_ones(tiny_llama):
    model, tokenizer = build(tiny_llama), load_tokenizer(tiny_llama)
    # Two turns: what is learned first is no part of the answer that is compared.
    before = [1, 50, 60, 70, 2, 80, 90]
    (answer,) = generate_answers(model, tokenizer, [before], 3)
    learned = [False, False, False, True, True, False, False]
    sequences = [([*before, *answer], [*learned, *([True] * len(answer))])] * len(SUITE)
    found = exact_matches(model, tokenizer, replace(SUITE, inputs=TokenRows.of(sequences)), [0])
    assert found[0] == 1


def test_losses_in_batches_are_those_of_single_examples(tiny_llama, monkeypatch):
    model = build(tiny_llama).eval()
    monkeypatch.setattr("affinity_service.evaluation.stacked.EVALUATED_TOKENS", 40)
    rows, losses = SUITE.rows(VALIDATION), TaskLosses(SUITE.tasks)
    with torch.no_grad():
        each = torch.cat(
            [
                losses.of_known(model(torch.tensor(SUITE.inputs[[row]]), range(3)), torch.tensor(SUITE.labels[[row]]))
                for row in rows
            ]
        )
    expected = each.sum(dim=0).double().numpy() / SUITE.label_counts(VALIDATION)
    np.testing.assert_allclose(split_losses(model, SUITE, VALIDATION), expected, rtol=1e-5)
    expected[1] = np.nan
    np.testing.assert_allclose(split_losses(model, SUITE, VALIDATION, [0, 2]), expected, rtol=1e-5)


def test_flops_are_counted_at_median_length_and_scaled_by_tokens(tiny_llama):
    model = build(tiny_llama)
    passes = example_flops(model, SUITE)
    # Two per weight of the frozen layers and of the adapters, and token; attention and the head's columns come on top.
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features != 200]
    median = int(np.sort(SUITE.inputs.lengths)[len(SUITE) // 2])
    products = 2 * median * sum(m.weight.numel() for m in linear)
    assert products < passes.forward < 1.5 * products
    # Frozen weights need no gradient of their own: the backward pass costs little more than the forward one.
    assert 0.5 * passes.forward < passes.backward < 1.5 * passes.forward
    lengths = SUITE.inputs.lengths
    rows = SUITE.rows(TRAIN, [1])
    assert examples_worth(SUITE, rows) == pytest.approx(lengths[rows].sum() / median)
    run = RunFlops(model, SUITE)
    validation = examples_worth(SUITE, SUITE.rows(VALIDATION, [1]))
    expected = 3 * (passes.training * examples_worth(SUITE, rows) + passes.forward * validation)
    assert run([1], 3) == pytest.approx(expected)
