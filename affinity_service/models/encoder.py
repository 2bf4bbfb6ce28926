"""A pretrained text encoder as the shared body of many classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from affinity_service.config_models import EncoderConfig
from affinity_service.models.heads import TaskHeads
from affinity_service.models.language import load_network
from affinity_service.tasks.suite import Task
from affinity_service.tasks.tokens import PAD


class Encoder(nn.Module):
    """A network of transformers that gives hidden states, pooled, under a linear head per task."""

    def __init__(self, network: nn.Module, width: int, pad: int, tasks: Sequence[Task], config: EncoderConfig) -> None:
        super().__init__()
        self.network, self.pad, self.pooling = network, pad, config.pooling
        self.heads = TaskHeads(width, tasks)

    def forward(self, inputs: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """(B, 2, L) as ``TokenRows`` gives them, of which the ids are read → (B, columns)."""
        ids = inputs[:, 0]
        real = ids != PAD
        # Encoders count places from the left: padding goes behind the text.
        order = real.long().argsort(dim=1, descending=True, stable=True)
        ids, real = ids.gather(1, order), real.gather(1, order)
        answer = self.network(input_ids=ids.masked_fill(~real, self.pad), attention_mask=real.long(), return_dict=True)
        states = answer.last_hidden_state
        if self.pooling == "cls":
            return self.heads(states[:, 0], tasks)
        weight = real.to(states.dtype)[:, :, None]
        return self.heads((states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1), tasks)


def build_encoder(input_shape: Sequence[int], tasks: Sequence[Task], config: EncoderConfig) -> Encoder:
    """In float32; the heads' and the adapters' initial weights depend on the random state, nothing else.

    Raises
    ------
    UserError
        There is no such model, or the adapters' or parameters' names match nothing in it.
    """
    from transformers import AutoModel

    network = load_network(AutoModel, config, "FEATURE_EXTRACTION")
    settings: Any = network.config
    pad = getattr(settings, "pad_token_id", None)
    return Encoder(network, settings.hidden_size, 0 if pad is None else pad, tasks, config)
