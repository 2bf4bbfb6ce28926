"""The YAML config: one pydantic model per stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from affinity_service.config_base import Execution, StageConfig
from affinity_service.config_estimate import FitConfig, GradientConfig
from affinity_service.config_graphs import GeneratedGraphSource, GraphSource, GraphTablesSource, SnapSource
from affinity_service.config_models import MLPConfig, ModelConfig, PretrainedConfig, SAGEConfig, SIGNConfig
from affinity_service.config_sources import ArffSource, CsvSource, ParquetSource, PythonSource, YeastSource
from affinity_service.config_text import UniqueKeys, explain
from affinity_service.config_text_suites import CldrSource, TextSource, check_language, with_tokenizer
from affinity_service.config_training import (
    MEASURED,
    AveragingPart,
    GroupModelConfig,
    MeasureConfig,
    MeasuringPart,
    ScheduleConfig,
    TrainConfig,
    ValidationConfig,
)
from affinity_service.errors import UserError

# Above so many tasks, heads of at most so many parameters are coordinates of their own.
MANY_TASKS, LARGEST_HEAD = 50, 256


Source = (
    YeastSource
    | ParquetSource
    | CsvSource
    | ArffSource
    | PythonSource
    | GraphTablesSource
    | SnapSource
    | GeneratedGraphSource
    | TextSource
    | CldrSource
)


class AffinityConfig(StageConfig):
    estimator: Literal["linearized", "trained", "auto", "lookahead", "first_order", "cosine"] = Field(
        "linearized",
        description="from gradients, by fine-tuning every subset, auto: whichever is planned to be cheaper; "
        "lookahead, first_order and cosine are measured while the base model trains",
    )


class GroupConfig(StageConfig):
    method: Literal["sdp", "spectral", "agglomerative", "random", "direct"] = Field(
        "sdp", description="direct: from the clusters of sdp, descent on the predicted losses of the groups themselves"
    )
    k: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    centre: Literal["partners", "alone"] = Field(
        "partners", description="what an affinity is compared with: the receiver's average partner, or it alone"
    )
    shrink: bool = Field(False, description="draw uncertain affinities towards the receiver's average partner first")
    probe: bool = Field(
        False, description="truly fine-tune the groups of direct and of its start, and keep the better ones"
    )
    min_size: int = Field(1, ge=1, description="tasks per group, at least")
    max_size: int | None = Field(None, ge=1, description="tasks per group, at most")
    must_link: list[list[str]] = Field([], description="sets of tasks that share a group")
    cannot_link: list[list[str]] = Field([], description="sets of tasks of which no two share a group")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _sizes_ordered(self) -> GroupConfig:
        if self.max_size is not None and self.max_size < self.min_size:
            raise ValueError(f"max_size {self.max_size} is below min_size {self.min_size}")
        return self

    @model_validator(mode="after")
    def _probe_and_shrink_have_their_method(self) -> GroupConfig:
        if self.probe and self.method != "direct":
            raise ValueError(f"probe compares direct with its start, but method is {self.method}: use direct")
        if self.shrink and self.centre != "partners":
            raise ValueError("shrink draws affinities towards the average partner: centre must be partners")
        return self


class ResourceConfig(StageConfig):
    """Per worker or actor; the only section that differs between a laptop and a GPU cluster."""

    cpus: float = Execution(1, gt=0)
    gpus: float | Literal["auto"] = Execution("auto", description="auto: one where the cluster has GPUs")
    scratch: str | None = Execution(None, description="checkpoints; a path that every node sees")
    wait: bool = Execution(False, description="ask for more than there is: an autoscaler will add nodes")

    @model_validator(mode="after")
    def _whole_or_part_of_one(self) -> ResourceConfig:
        if self.gpus != "auto" and (self.gpus < 0 or (self.gpus > 1 and self.gpus % 1)):
            raise ValueError(f"gpus {self.gpus:g}: expected auto, a whole number, or a part of one GPU such as 0.5")
        return self


class Provenance(StageConfig):
    """The code that wrote a study."""

    version: str
    commit: str
    schema_version: int


class Config(StageConfig):
    """The whole way of one study."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    data: Annotated[Source, Field(discriminator="source")]
    model: Annotated[ModelConfig, Field(discriminator="kind")] = MLPConfig()
    base: TrainConfig = TrainConfig()
    gradients: GradientConfig = GradientConfig()
    fits: FitConfig = FitConfig()
    affinity: AffinityConfig = AffinityConfig()
    measure: MeasureConfig = MeasureConfig()
    schedule: ScheduleConfig | None = Field(
        None, description="of the base model's training; all tasks in every step when absent"
    )
    groups: GroupConfig = GroupConfig()
    group_models: GroupModelConfig = GroupModelConfig()
    validation: ValidationConfig = ValidationConfig()
    resources: ResourceConfig = ResourceConfig()
    written_by: Provenance | None = Execution(None, description="left by the study that resolved this config")

    @field_validator("model", mode="before")
    @classmethod
    def _kind_of_model(cls, value: Any) -> Any:
        return {"kind": "mlp", **value} if isinstance(value, Mapping) else value

    @model_validator(mode="before")
    @classmethod
    def _tokenizer_of_the_model(cls, value: Any) -> Any:
        return with_tokenizer(value)

    @model_validator(mode="after")
    def _texts_have_a_language_model(self) -> Config:
        check_language(self.data, self.model)
        return self

    @model_validator(mode="after")
    def _sage_has_neighbours_and_sign_has_hops(self) -> Config:
        if not isinstance(self.data, GraphSource):
            return self
        neighbours = self.data.neighbours
        if isinstance(self.model, SIGNConfig) and neighbours is not None:
            raise ValueError("model.kind sign reads hops, which data.neighbours replaces: use data.hops, or kind sage")
        if isinstance(self.model, SAGEConfig):
            steps, found = len(self.model.hidden), 0 if neighbours is None else len(neighbours.fanouts)
            if found != steps:
                raise ValueError(
                    f"model.kind sage with {steps} hidden widths needs as many data.neighbours.fanouts, but there are "
                    f"{found}; such as data.neighbours.fanouts {[10, 5, 3, *[2] * steps][:steps]}"
                )
        return self

    @model_validator(mode="after")
    def _path_has_a_basis(self) -> Config:
        if self.fits.solution == "path" and not self.path_can_go:
            raise ValueError(
                "fits.solution is path, which needs a basis that gradients.reduction "
                f"{self.gradients.reduction} does not have: use subspace or exact, or solution ridge"
            )
        return self

    @model_validator(mode="after")
    def _network_has_weights(self) -> Config:
        if self.fits.evaluate == "network" and not self.path_can_go:
            raise ValueError(
                "fits.evaluate is network, which needs weights to run it at, but displacements by gradients.reduction "
                f"{self.gradients.reduction} cannot be carried back: use subspace or exact, or evaluate linearized"
            )
        return self

    @model_validator(mode="after")
    def _pretrained_models_run_one_at_a_time(self) -> Config:
        """What stacks many copies of a model, or linearises it, is for small ones."""
        if not isinstance(self.model, PretrainedConfig):
            return self
        refused = {
            "fits.evaluate": (self.fits.evaluate == "network", "network runs the model for every subset", "auto"),
            "group_models.trainer": (self.group_models.trainer == "batched", "batched stacks models", "auto"),
            "validation.oracle_seeds": (
                self.validation.oracle_seeds > 0,
                f"{self.validation.oracle_seeds} trains linearised models",
                "0",
            ),
        }
        for key, (found, what, instead) in refused.items():
            if found:
                raise ValueError(
                    f"{key} {what}, which models of kind {self.model.kind} are too large for: use {instead}"
                )
        return self

    @model_validator(mode="after")
    def _measured_affinities_predict_no_losses(self) -> Config:
        if self.measured and self.groups.method == "direct":
            raise ValueError(
                f"groups.method direct needs predicted losses, which affinity.estimator {self.affinity.estimator} does "
                "not give: use sdp, or estimator linearized"
            )
        return self

    @model_validator(mode="after")
    def _schedule_has_whole_gradients(self) -> Config:
        if self.schedule is None:
            return self
        # ZeRO gives the heads of inactive tasks gradients of zero, or stale ones (stage 3), which would move them.
        if self.base.zero_stage or self.base.precision != "fp32":
            raise ValueError(
                "schedule leaves the heads of inactive tasks as they are, which only base.zero_stage 0 with precision "
                f"fp32 does; found zero_stage {self.base.zero_stage}, precision {self.base.precision}"
            )
        if self.schedule.aggregator.lower() != "sum" and self.base.accumulation > 1:
            raise ValueError(
                f"schedule.aggregator {self.schedule.aggregator} replaces the gradient of a whole batch, but "
                f"base.accumulation is {self.base.accumulation}: use 1, or aggregator sum"
            )
        return self

    @property
    def measured(self) -> bool:
        """Whether affinities are measured while the base model trains, in place of gradients and fits after it."""
        return self.affinity.estimator in MEASURED

    @property
    def measuring(self) -> MeasuringPart | None:
        """What the base model's training measures; None where it measures nothing."""
        if not self.measured and not self.measure.always:
            return None
        own = self.measure
        lookahead = own.always or self.affinity.estimator == "lookahead"
        # Of what another measure needs, nothing: it must not train again when that changes.
        return MeasuringPart(
            every=own.every,
            step=own.step if lookahead else "sgd",
            batch=own.batch,
            shared=own.shared,
            sketch=None if lookahead else own.sketch,
            lookahead=lookahead,
        )

    @property
    def averaging(self) -> AveragingPart | None:
        """How measurements are averaged; None where there are none."""
        return None if self.measuring is None else AveragingPart(window=self.measure.window)

    @property
    def tuning(self) -> TrainConfig:
        """The training that is asked about: fine-tuning of the base model."""
        rate = self.fits.learning_rate or self.base.learning_rate
        return self.base.model_copy(update={"learning_rate": rate, "epochs": self.fits.epochs})

    @property
    def grouped(self) -> TrainConfig:
        """The training of the group models."""
        return self.base.model_copy(
            update={"learning_rate": self.group_models.learning_rate or self.base.learning_rate}
        )

    @property
    def path_can_go(self) -> bool:
        """Whether displacements in feature coordinates can be carried back to the weights."""
        return self.gradients.reduction in ("subspace", "exact")

    @property
    def solution(self) -> Literal["path", "ridge"]:
        if self.fits.solution == "auto":
            return "path" if self.path_can_go else "ridge"
        return self.fits.solution

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read a YAML config.

        Raises
        ------
        UserError
            The file is missing, is not YAML, or does not fit the schema; every offending key is named.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UserError(f"config {path}: cannot be read: {reason}") from error
        return cls.from_yaml(text, f"config {path}", name=path.stem)

    @classmethod
    def from_yaml(cls, text: str, origin: str = "config", name: str | None = None) -> Config:
        """Parse YAML text; `name` is taken where the text has none."""
        try:
            content = yaml.load(text, UniqueKeys)
        except yaml.YAMLError as error:
            raise UserError(f"{origin}: not valid YAML: {error}") from error
        if not isinstance(content, Mapping):
            raise UserError(f"{origin}: expected keys such as `name` and `data`, found {type(content).__name__}")
        return cls.parse(content, origin, name)

    @classmethod
    def parse(cls, content: Mapping[str, Any], origin: str = "config", name: str | None = None) -> Config:
        """Check a mapping against the schema; `name` is taken where the mapping has none."""
        try:
            return cls.model_validate({**({"name": name} if name else {}), **content})
        except ValidationError as error:
            raise UserError(explain(error, origin, cls)) from error

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
