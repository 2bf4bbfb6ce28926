"""Attention of short sequences in half precision on a CPU.

torch's fused kernel is slow there on the way back, where plain products are several times as fast; from a thousand
tokens on it is the faster one, and in single precision it matters little.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# Tokens up to which plain products are faster.
LONGEST = 512
NAME = "affinity_sdpa"


def choose_attention(network: nn.Module) -> None:
    """Let a model of transformers choose by length, where it would always take the fused kernel on a CPU."""
    own: Any = network
    if torch.cuda.is_available() or own.config._attn_implementation != "sdpa":
        return
    if not getattr(own, "_supports_attention_backend", False):
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    own.set_attn_implementation(NAME)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What transformers' "sdpa" computes; query (B, heads, L, width)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    plain = query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= LONGEST
    # Chosen here and not around the model: layers that are checkpointed come by again on the way back.
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
