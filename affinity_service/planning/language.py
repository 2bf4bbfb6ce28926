"""The counts of a pretrained network: what its frozen and its trained layers cost per example."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from affinity_service.config import Config
from affinity_service.config_models import CausalLMConfig, EncoderConfig, PretrainedConfig
from affinity_service.models.adapters import make_trainable
from affinity_service.models.pretrained import pretrained_folder
from affinity_service.models.state import trained_parameters
from affinity_service.planning.workload import SharedLayer, Workload
from affinity_service.tasks.suite import Suite
from affinity_service.tasks.tokens import TokenRows

# Numbers that a pass keeps per token: of each layer as many as its inputs, three times (before and after norms and
# activations), and of a token whose logits are made so many of each.
KEPT, LOGITS_KEPT = 3, 4
# Numbers of the widest layer that a pass without gradients holds at a time.
FORWARD_KEPT = 6


@dataclass(frozen=True)
class NetworkSize:
    """Of a pretrained network, by its linear layers.

    Attributes
    ----------
    layers : (inputs, outputs, trained) of each but the one that makes logits.
    logits : (inputs, outputs) of that one; (0, 0) where there is none.
    trained, parameters : numbers of trained weights, and of all.
    sides : (rows, columns) of every trained parameter.
    width : of the last hidden states.
    """

    layers: tuple[tuple[int, int, bool], ...]
    logits: tuple[int, int]
    trained: int
    parameters: int
    sides: tuple[tuple[int, int], ...]
    width: int = 0


@dataclass(frozen=True)
class PretrainedWorkload(Workload):
    """Of examples that are texts.

    Attributes
    ----------
    size : of the network. tokens, answers : per example, on average, of all tokens and of those learned.
    longest : tokens of the longest example. config : of the study.
    """

    size: NetworkSize = NetworkSize((), (0, 0), 0, 0, ())
    tokens: float = 1.0
    answers: float = 1.0
    longest: int = 1

    @property
    def has_heads(self) -> bool:
        return isinstance(self.model, EncoderConfig)

    @property
    def width(self) -> int:
        return self.size.width if self.has_heads else 0

    @property
    def body(self) -> tuple[SharedLayer, ...]:
        """Each as often as an example has tokens."""
        return tuple(SharedLayer(m, n, round(self.tokens)) for m, n, _ in self.size.layers)

    @property
    def body_products(self) -> int:
        whole = sum(m * n for m, n, _ in self.size.layers) * self.tokens
        return round(whole + self.size.logits[0] * self.size.logits[1] * (self.answers + 1))

    @property
    def frozen_products(self) -> int:
        return self.body_products - round(sum(m * n for m, n, trained in self.size.layers if trained) * self.tokens)

    @property
    def stackable(self) -> bool:
        return False

    @property
    def body_parameters(self) -> int:
        return self.size.trained

    @property
    def head_parameters(self) -> float:
        return super().head_parameters if self.has_heads else 0.0

    @property
    def pretrained_bytes(self) -> float:
        return 4.0 * self.size.parameters

    def parameters_with(self, columns: float) -> float:
        return super().parameters_with(columns) if self.has_heads else float(self.size.trained)

    def activations_with(self, columns: float) -> float:
        per_token = KEPT * sum(m for m, *_ in self.size.layers)
        return self.tokens * per_token + LOGITS_KEPT * (self.answers + 1) * self.size.logits[1]

    @property
    def suite_bytes(self) -> int:
        return round(self.examples * (5 * self.tokens + 4 * self.tasks))

    def training_bytes(self, batch: int, evaluated: int, tokens: int) -> float:
        logits = LOGITS_KEPT * (self.answers + 1) * self.size.logits[1]
        widest = max((max(m, n) for m, n, _ in self.size.layers), default=0)
        forward = self.examples_in(evaluated, tokens) * (logits + FORWARD_KEPT * self.tokens * widest)
        return 4.0 * max(self.examples_in(batch, tokens) * self.activations, forward)

    def examples_in(self, examples: int, tokens: int) -> float:
        return max(1.0, min(examples, tokens / self.tokens))

    def heads_apart(self, config: Config) -> bool:
        return super().heads_apart(config) if self.has_heads else config.gradients.reduction == "subspace"

    def own_coordinates(self, config: Config) -> int:
        return super().own_coordinates(config) if self.has_heads else 0

    def basis_rows(self, config: Config) -> int:
        if self.has_heads:
            return super().basis_rows(config)
        rank = config.gradients.layer_rank
        if rank is None:
            return self.size.trained
        return sum(min(rank, m) * min(rank, n) for m, n in self.size.sides)

    def factor_products(self, config: Config) -> float:
        rank = None if self.has_heads else config.gradients.layer_rank
        if rank is None:
            return 0.0
        return float(sum(m * n * min(rank, m) + min(rank, m) * n * min(rank, n) for m, n in self.size.sides))


def pretrained_workload(config: Config, suite: Suite) -> PretrainedWorkload:
    """Of a study whose model is pretrained.

    Raises
    ------
    UserError
        There is no such model, or nothing in it that the config's names match.
    """
    assert isinstance(config.model, PretrainedConfig)
    assert isinstance(suite.inputs, TokenRows)
    plain = vars(Workload.counted(config, suite))
    lengths = suite.inputs.lengths
    learned = np.add.reduceat(suite.inputs.learned, suite.inputs.starts[:-1]) if len(suite) else np.zeros(1)
    return PretrainedWorkload(
        **plain,
        size=network_size(config.model),
        tokens=float(lengths.mean()),
        answers=float(learned.mean()),
        longest=int(lengths.max()),
    )


def network_size(config: PretrainedConfig) -> NetworkSize:
    """Counted on a network without numbers."""
    return _network_size(type(config), config.model_dump_json())


@lru_cache(maxsize=4)
def _network_size(kind: type[PretrainedConfig], content: str) -> NetworkSize:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config = kind.model_validate_json(content)
    found = AutoConfig.from_pretrained(pretrained_folder(config.path))
    causal = isinstance(config, CausalLMConfig)
    with torch.device("meta"):
        network = (AutoModelForCausalLM if causal else AutoModel).from_config(found)
        network = make_trainable(network, config, "CAUSAL_LM" if causal else "FEATURE_EXTRACTION")
    head = getattr(network, "get_output_embeddings", lambda: None)() if causal else None
    linear = [m for m in network.modules() if isinstance(m, nn.Linear) and m is not head]
    layers = tuple((m.in_features, m.out_features, m.weight.requires_grad) for m in linear)
    trained = trained_parameters(network)
    logits = (0, 0) if head is None else (int(head.in_features), int(head.out_features))
    sides = tuple((p.shape[0], max(1, p[0].numel())) for p in trained.values())
    every = sum(p.numel() for p in network.parameters())
    width = int(getattr(found, "hidden_size", 0))
    return NetworkSize(layers, logits, sum(p.numel() for p in trained.values()), every, sides, width)
