"""Config of the estimate: gradient features, and what is asked of subsets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from affinity_service.config_base import Execution, StageConfig

# Tasks of a probe.
PROBE_SIZES = (2, 8)
# With so many tasks `auto` still fits every pair.
EVERY_PAIR = 100
# What `auto` grows to at most.
MOST_DIMENSION, MOST_LANDMARKS = 400, 4000
# Where subsets bring their tasks' means themselves: on 100 communities of com-DBLP more dimensions showed no more.
MOST_DIMENSION_MANY_TASKS = 200


class GradientConfig(StageConfig):
    reduction: Literal["subspace", "factorised", "rademacher", "exact"] = "subspace"
    dimension: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        400, description="coordinates per gradient; `exact` keeps them all; auto: as many as hold 90% of the gradients"
    )
    metric: Literal["optimizer", "euclidean"] = Field(
        "optimizer", description="distances as the optimizer's steps make them, or plain ones (the paper's)"
    )
    landmarks: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        4000, description="training pairs whose gradients the subspace is taken from; auto: until more show nothing new"
    )
    layer_rank: Annotated[int, Field(ge=1)] | None = Field(
        16,
        description="of language models: directions on each side of a layer's gradient that make the basis; null: "
        "a dense basis, of as many numbers as weights times dimensions",
    )
    layers: list[str] = Field([], description="patterns of parameter names such as body.*; all parameters when empty")
    seed: int = Field(0, ge=0)
    shard_rows: int = Field(4096, ge=1, description="(example, task) rows per file, the unit of resuming")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the passes through a pretrained model; what is made of its gradients is in fp32"
    )
    batch_rows: int = Execution(512, ge=1)
    batch_tokens: int = Execution(1024, ge=1, description="of sequences in one pass, padding counted")
    gpus: Annotated[int, Field(ge=1)] | None = Execution(
        None, description="of each worker, over which model.max_memory spreads a model; those of resources when absent"
    )
    workers: int = Execution(2, ge=1)

    @model_validator(mode="after")
    def _auto_has_gradients_to_ask(self) -> GradientConfig:
        if self.dimension == "auto" and self.reduction in ("factorised", "rademacher"):
            raise ValueError(
                f"dimension auto needs reduction subspace: {self.reduction} knows no energy; give a number"
            )
        return self

    @property
    def most_dimensions(self) -> int:
        return MOST_DIMENSION if self.dimension == "auto" else self.dimension

    def widest_basis(self, many_tasks: bool) -> int:
        """Columns of the basis of `subspace` at most; `many_tasks`: heads lie apart."""
        return MOST_DIMENSION_MANY_TASKS if many_tasks and self.dimension == "auto" else self.most_dimensions

    @property
    def most_landmarks(self) -> int:
        return MOST_LANDMARKS if self.landmarks == "auto" else self.landmarks


class FitConfig(StageConfig):
    """What is asked of every subset: where fine-tuning the base model on it would lead."""

    subsets: int = Field(400, ge=0, description="subsets larger than a pair; singles and pairs come on top")
    sizes: tuple[int, int] = Field((3, 6), description="smallest and largest of the larger subsets")
    pairs: Literal["auto", "all", "uncovered"] = Field(
        "auto", description="fit every pair, or those that no larger subset holds; auto: all of up to 100 tasks"
    )
    solution: Literal["auto", "path", "ridge"] = Field(
        "auto", description="follow the optimizer, or one penalised fit (the paper's); auto: the path where it can go"
    )
    epochs: int = Field(15, ge=1, description="of the fine-tuning; the path follows so many at most")
    learning_rate: float | None = Field(None, gt=0, description="of the fine-tuning; the base model's when absent")
    stop: Literal["best", "last"] = Field("best", description="at the best validation loss, or after all epochs")
    evaluate: Literal["auto", "linearized", "network"] = Field(
        "auto", description="losses from the features, or of the network at the weights found; auto: of small networks"
    )
    l2: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="ridge penalty; auto: from the optimizer's second moment, rate and steps"
    )
    probes: int = Field(6, ge=0, description="subsets truly fine-tuned: for errors, and to choose the penalty")
    probe_seeds: int = Field(
        3,
        ge=1,
        description="trainings of each probe: they tell how much chance there is in one",
    )
    seed: int = Field(0, ge=0)
    tile: int = Field(128, ge=1, description="subsets per file, the unit of resuming")
    workers: int = Execution(2, ge=1)

    @property
    def probe_sizes(self) -> tuple[int, int]:
        """Fewest and most tasks of a probe: as many as the larger subsets have where all have more than a probe usually
        has. Courses of few tasks scatter more, and from probes of 500 tasks they said the wrong of subsets of ten."""
        return self.sizes if self.sizes[0] > PROBE_SIZES[1] else PROBE_SIZES

    def fits_every_pair(self, tasks: int) -> bool:
        return self.pairs == "all" or (self.pairs == "auto" and tasks <= EVERY_PAIR)

    @model_validator(mode="after")
    def _sizes_ordered(self) -> FitConfig:
        low, high = self.sizes
        if not 3 <= low <= high:
            raise ValueError(f"sizes {low, high} must satisfy 3 <= smallest <= largest; pairs are always fitted")
        return self
