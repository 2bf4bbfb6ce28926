"""The `model` section: what is trained, and which examples it can read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from affinity_service.config_base import Execution, StageConfig
from affinity_service.errors import UserError


class MLPConfig(StageConfig):
    kind: Literal["mlp"] = "mlp"
    hidden: list[Annotated[int, Field(ge=1)]] = Field([64, 64], min_length=1)
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)


class SIGNConfig(StageConfig):
    """A layer per hop of a graph's features, then shared layers (arXiv 2004.11198)."""

    kind: Literal["sign"] = "sign"
    hop_width: int = Field(32, ge=1, description="outputs of each hop's own layer")
    hidden: list[Annotated[int, Field(ge=1)]] = Field([64], min_length=1)
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)


class SAGEConfig(StageConfig):
    """A node's features with those of its sampled neighbours, put together step by step (arXiv 1706.02216)."""

    kind: Literal["sage"] = "sage"
    hidden: list[Annotated[int, Field(ge=1)]] = Field(
        [64, 64], min_length=1, description="outputs of each step's layer: as many as data.neighbours has fanouts"
    )
    aggregator: Literal["mean", "max"] = Field("mean", description="what stands for a node's neighbours")
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)


class LoRAConfig(StageConfig):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv 2106.09685), through peft."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0, description="the adapters' outputs are scaled by alpha / rank")
    targets: list[str] | Literal["attention", "all-linear"] = Field(
        "attention", description="names of linear layers; attention: its projections; all-linear: all but the head"
    )
    dropout: float = Field(0.0, ge=0, lt=1)


class PretrainedConfig(StageConfig):
    """A pretrained model of transformers, and which of its weights are trained."""

    path: str = Field(
        min_length=1,
        description="a folder, a GGUF file, a name on the hub, or package:NAME/FILE within an installed Python package",
    )
    adapter: LoRAConfig | None = Field(LoRAConfig(), description="null: train the weights themselves, see `trains`")
    trains: list[str] = Field(
        [], description="without an adapter: patterns of parameter names that train; all when empty"
    )
    checkpointing: bool = Execution(False, description="compute activations again in the backward pass, to save memory")
    max_memory: dict[str, str] | None = Execution(
        None,
        description="of gradient features: what weights may take of each device, such as {0: 20GiB, cpu: 60GiB}; "
        "the rest lies on the disk; null: all on one device",
    )

    @model_validator(mode="after")
    def _adapter_or_weights(self) -> Self:
        if self.adapter is not None and self.trains:
            raise ValueError("with an adapter, only the adapter trains: leave `trains` out, or set adapter: null")
        return self

    def fingerprint_part(self) -> dict[str, Any]:
        """With what the pretrained model is in place of where it lies: the same one elsewhere is the same."""
        # Only configs of such models pay for the import.
        from affinity_service.models.pretrained import pretrained_identity

        return {**super().fingerprint_part(), "path": pretrained_identity(self.path)}


class CausalLMConfig(PretrainedConfig):
    """A language model that writes answers; its loss is that of the answers' tokens."""

    kind: Literal["causal_lm"] = "causal_lm"


class EncoderConfig(PretrainedConfig):
    """A pretrained encoder under a linear head per task, for texts with labels."""

    kind: Literal["encoder"] = "encoder"
    pooling: Literal["mean", "cls"] = Field("mean", description="of the last hidden states: their mean, or the first")


ModelConfig = MLPConfig | SIGNConfig | SAGEConfig | CausalLMConfig | EncoderConfig


def check_inputs(model: ModelConfig, input_shape: Sequence[int]) -> None:
    """Raise ``UserError`` where the model cannot read examples of this shape."""
    if isinstance(model, PretrainedConfig) and (len(input_shape) != 2 or input_shape[0] != 2):
        raise UserError(
            f"model.kind {model.kind} reads token sequences, but this suite's examples have shape "
            f"{tuple(input_shape)}: use it with data.source text, or model.kind mlp"
        )
    if isinstance(model, SIGNConfig) and len(input_shape) != 2:
        raise UserError(
            f"model.kind sign reads examples of shape (hops, features), but this suite's have {tuple(input_shape)}: "
            "use it with a graph, or model.kind mlp"
        )
    if isinstance(model, SAGEConfig) and (
        len(input_shape) != len(model.hidden) + 1 or any(size < 2 for size in input_shape[:-1])
    ):
        steps = len(model.hidden)
        raise UserError(
            f"model.kind sage with {steps} hidden widths reads examples of {steps} steps of neighbours, "
            f"({', '.join(f'1 + fanout {step + 1}' for step in range(steps))}, features), but this suite's have shape "
            f"{tuple(input_shape)}: use it with a graph and as many data.neighbours.fanouts, or model.kind mlp"
        )
