"""Config of trainings, of what is measured and scheduled while the base model trains, and of the trainings that measure
estimates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from affinity_service.config_base import Execution, StageConfig

# Affinities that come from the joint training itself (TAG), not from gradients at its end.
MEASURED = ("lookahead", "first_order", "cosine")


class TrainConfig(StageConfig):
    """Training of one multitask model; the base model and group models share it."""

    epochs: int = Field(40, ge=1, description="at most; early stopping ends sooner")
    patience: int = Field(5, ge=1, description="epochs without a better validation loss before stopping")
    batch_size: int = Field(100, ge=1, description="examples per optimizer step over all workers")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    gradient_clipping: float = Field(1.0, ge=0, description="global norm; 0 turns it off")
    precision: Literal["fp32", "bf16"] = "fp32"
    mixing_temperature: float | None = Field(
        None, gt=0, description="a task counts as its examples^(1/temperature) do: 1 by size; null: all tasks alike"
    )
    seed: int = Field(0, ge=0)
    workers: int = Execution(1, ge=1)
    accumulation: int = Execution(1, ge=1, description="micro-batches per optimizer step and worker")
    zero_stage: Literal[0, 1, 2, 3] = Execution(0)
    tokens: int = Execution(2048, ge=1, description="of texts: at most so many per pass and worker, padding counted")
    deepspeed: str | None = Execution(
        None, description="DeepSpeed's own settings: a JSON file, or the name of one of cluster_configs/deepspeed"
    )

    @model_validator(mode="after")
    def _batch_divides(self) -> TrainConfig:
        pieces = self.workers * self.accumulation
        if self.batch_size % pieces:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of workers × accumulation = {pieces}: "
                f"use {max(1, round(self.batch_size / pieces)) * pieces}"
            )
        return self


class MeasureConfig(StageConfig):
    """How affinities are measured while the base model trains (TAG, arXiv 2109.04617)."""

    every: int = Field(10, ge=1, description="optimizer steps from one measurement to the next")
    step: Literal["sgd", "optimizer"] = Field(
        "sgd", description="the lookahead step: plain SGD at the base learning rate, or the run's own optimizer's"
    )
    batch: Literal["training", "held_out"] = Field(
        "training", description="where receivers' losses are taken: on the step's own batch, or on validation examples"
    )
    window: tuple[float, float] = Field(
        (0.0, 1.0), description="part of the training up to its best epoch over which measurements are averaged"
    )
    shared: list[str] = Field([], description="patterns of shared parameter names; all outside the heads when empty")
    sketch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        "auto", description="numbers kept of a gradient by first_order and cosine; null: all; lookahead keeps all"
    )
    always: bool = Field(
        False, description="measure also where affinity.estimator needs it not, for `affinity validate` to compare"
    )

    @field_validator("window")
    @classmethod
    def _window_ordered(cls, window: tuple[float, float]) -> tuple[float, float]:
        low, high = window
        if not 0 <= low < high <= 1:
            raise ValueError(f"window {low:g}, {high:g} must satisfy 0 <= from < to <= 1")
        return window


class MeasuringPart(StageConfig):
    """What of it decides the measurements: how they are averaged afterwards does not."""

    every: int
    step: Literal["sgd", "optimizer"]
    batch: Literal["training", "held_out"]
    shared: list[str]
    sketch: int | Literal["auto"] | None
    lookahead: bool


class AveragingPart(StageConfig):
    """What of it decides how measurements become a matrix."""

    window: tuple[float, float]


class ScheduleConfig(StageConfig):
    """Which tasks the base model trains in which step (SON-GOKU, arXiv 2509.16959)."""

    tau: float = Field(0.25, ge=-1, le=1, description="tasks conflict where −cos of their gradients exceeds it")
    refresh: int = Field(32, ge=1, description="steps from one drawing of the interference graph to the next")
    beta: float = Field(0.9, ge=0, lt=1, description="of the moving averages, per measurement")
    warmup: int = Field(0, ge=0, description="steps with all tasks together")
    anneal: int = Field(0, ge=0, description="steps in which the threshold falls to tau after the warm-up")
    quantile: float | None = Field(None, ge=0, le=1, description="share of all pairs that shall conflict, not tau")
    coverage: float = Field(0.0, ge=0, le=1, description="least share of the steps that each task shall get")
    probes: int = Field(1, ge=1, description="steps before each refresh whose gradients of all tasks are averaged")
    track: Literal["refresh", "active"] = Field("refresh", description="measure at refreshes, or active ones always")
    split: bool = Field(False, description="two averages in turns, whose products noise does not bias")
    sketch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        "auto", description="numbers kept of a gradient; null: all of it"
    )
    aggregator: str = Field("sum", description="of the active tasks' gradients: sum, or one of torchjd's")
    shared: list[str] = Field([], description="patterns of shared parameter names; all outside the heads when empty")
    seed: int = Field(0, ge=0, description="of the sketch")

    @model_validator(mode="after")
    def _probes_fit(self) -> ScheduleConfig:
        if self.probes > self.refresh:
            raise ValueError(f"probes {self.probes} is more than the {self.refresh} steps between refreshes")
        return self


class ValidationConfig(StageConfig):
    """True trainings on sampled subsets, by which the estimates are measured; only `affinity validate` runs them."""

    subsets: int = Field(40, ge=2)
    sizes: tuple[int, int] = Field((2, 8), description="smallest and largest subset; cut to the tasks there are")
    anchors: int | None = Field(
        None, ge=1, description="of many tasks: subsets are built around so many in turn, and only their losses count"
    )
    seeds: int = Field(3, ge=1, description="the truth is their mean; as many others tell how far it repeats")
    start: Literal["base", "initial"] = Field("base", description="fine-tune the base model, or train from scratch")
    recipe_seeds: int = Field(3, ge=0, description="random projections of the published recipe beside the estimate")
    oracle_seeds: int = Field(
        0,
        ge=0,
        description="trainings of the linearised network beside the estimate: its limit, and as costly as the truth",
    )
    seed: int = Field(0, ge=0)
    tile: int = Field(50, ge=1, description="subsets trained together, the unit of resuming")
    workers: int = Execution(2, ge=1)

    @model_validator(mode="after")
    def _sizes_ordered(self) -> ValidationConfig:
        low, high = self.sizes
        if not 1 <= low <= high:
            raise ValueError(f"sizes {low, high} must satisfy 1 <= smallest <= largest")
        return self


class GroupModelConfig(StageConfig):
    """Models of the groups against joint, single-task and random groups."""

    seeds: int = Field(3, ge=1, description="trainings per model; intervals are over them")
    start: Literal["initial", "base"] = Field("initial", description="from scratch, or fine-tune the base model")
    learning_rate: float | None = Field(None, gt=0, description="of their training; the base model's when absent")
    random_groupings: int = Field(3, ge=0, description="random groupings of the same sizes")
    single_tasks: int = Field(50, ge=0, description="at most so many single-task models, a seeded sample above it")
    seed: int = Field(1000, ge=0)
    models_per_trial: int = Execution(64, ge=1, description="small models trained together in one Tune trial")
    workers: int = Execution(2, ge=1, description="trials at a time")
    trainer: Literal["auto", "batched", "deepspeed"] = Field(
        "auto", description="small models as stacked plain loops (fp32), or each through the base model's trainer"
    )
