"""Margins of tokens, and the attention that is chosen by length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from affinity_service.models.attention import LONGEST, NAME, choose_attention
from affinity_service.models.causal_lm import token_margins
from tests.language_models import tiny_llama

pytest.importorskip("transformers")


def obvious_margins(logits: Tensor, label: Tensor) -> Tensor:
    others = logits.scatter(1, label[:, None], -torch.inf)
    return logits.gather(1, label[:, None])[:, 0] - others.logsumexp(dim=1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 300.0])
def test_token_margins_and_their_gradients_are_the_obvious_ones(scale) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(7, 50, generator=generator, dtype=torch.float64)
    label, weight = torch.randint(50, (7,), generator=generator), torch.randn(7, generator=generator).double()
    logits[0, label[0]] += 50 * scale
    own = logits.clone().requires_grad_()
    found = token_margins(own, label)
    gradient = torch.autograd.grad((found * weight).sum(), own)[0]
    expected = obvious_margins(own, label)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * weight).sum(), own)[0])
    torch.testing.assert_close(F.softplus(-found), F.cross_entropy(logits, label, reduction="none"))


def test_half_logits_have_margins_in_single_precision_and_gradients_of_their_own() -> None:
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    margins = token_margins(logits, torch.tensor([1, 2, 3]))
    assert margins.dtype == torch.float32
    torch.testing.assert_close(margins, obvious_margins(logits.float(), torch.tensor([1, 2, 3])))
    (gradient,) = torch.autograd.grad(margins.sum(), logits)
    assert gradient.dtype == torch.bfloat16
    assert float(gradient[0, 1]) == 1


def llama() -> torch.nn.Module:
    return tiny_llama(max_position_embeddings=2 * LONGEST).eval()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [9, LONGEST + 8])
def test_attention_by_length_computes_what_the_fused_kernel_does(precision, tokens, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    network = llama()
    ids = torch.randint(60, (3, tokens), generator=torch.Generator().manual_seed(0))
    # Padding on the left of one of them.
    mask = torch.ones_like(ids)
    mask[1, :4] = 0

    def passed() -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = network(input_ids=ids, attention_mask=mask).logits[:, -3:].float()
        return logits.detach(), torch.autograd.grad(logits.square().sum(), network.model.embed_tokens.weight)[0]

    fused = passed()
    choose_attention(network)
    assert network.config._attn_implementation == NAME
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if precision == torch.float32 else {"rtol": 0.1, "atol": 0.02}
    for one, other in zip(passed(), fused, strict=True):
        scale = other.abs().max()
        torch.testing.assert_close(one / scale, other / scale, **tolerance)


def test_what_a_model_of_its_own_attention_chooses_is_left_alone() -> None:
    network = llama()
    network.set_attn_implementation("eager")
    choose_attention(network)
    assert network.config._attn_implementation == "eager"
