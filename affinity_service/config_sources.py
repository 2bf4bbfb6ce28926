"""The `data` section of the config: where a suite comes from."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from affinity_service.config_base import StageConfig


class SplitConfig(StageConfig):
    """Fractions of the examples held out; the rest trains."""

    validation: float = Field(0.2, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation ({self.validation}) and test ({self.test}) leave no training example: "
                "their sum must stay below 1"
            )
        return self


class SourceConfig(StageConfig):
    """What every source of a suite shares. Where `prepared`, a stage of the study makes the suite, and questions asked
    later need the study folder only; other suites are read where they lie."""

    prepared: ClassVar[bool] = False

    minimum_positives: int = Field(
        0, ge=0, description="a binary task with fewer positives is left out, and said so; 0: such a task is an error"
    )
    minimum_negatives: int = Field(0, ge=0)
    standardise: bool = Field(True, description="features to mean 0, variance 1 over the training examples")


class YeastSource(SourceConfig):
    """Yeast genes (Elisseeff and Weston 2001): 2,417 genes, 103 features, 14 labels, from the river wheel."""

    source: Literal["yeast"] = "yeast"
    split: SplitConfig = SplitConfig()
    minimum_positives: int = Field(50, ge=0)
    minimum_negatives: int = Field(50, ge=0)


class TableSource(SourceConfig):
    """A table whose columns are features, tasks, or left out; every column has one of these roles."""

    path: str = Field(min_length=1)
    features: str | list[str] | None = Field(None, description="feature columns; all other columns when absent")
    tasks: list[str] | dict[str, Literal["binary", "multiclass", "regression"] | None] | None = Field(
        None, description="task columns, optionally with their kinds; all other columns when absent"
    )
    leave_out: list[str] = Field([], description="columns that are neither features nor tasks, such as names of rows")
    split: SplitConfig = SplitConfig()
    split_column: str | None = Field(
        None, description="a column of 'train', 'validation', 'test' that replaces the seeded split"
    )


class ParquetSource(TableSource):
    """One Parquet file or folder: a `features` list column (or named columns) and one column per task."""

    source: Literal["parquet"] = "parquet"
    features: str | list[str] | None = Field("features", description="a list column, or named columns of numbers")


class CsvSource(TableSource):
    """A CSV file (also .gz) in UTF-8 with a header line."""

    source: Literal["csv"] = "csv"
    delimiter: str = Field(",", pattern=r"^[\x01-\x7f]$", description='one character; "\\t" for tabs')
    missing: list[str] = Field(["", "?", "NA", "N/A", "NaN", "nan", "null"], description="cells without a value")

    @model_validator(mode="after")
    def _says_what_is_learned(self) -> CsvSource:
        if self.delimiter in '\r\n"':
            raise ValueError(f"delimiter {self.delimiter!r} cannot separate columns: use a comma, semicolon or tab")
        if self.features is None and self.tasks is None:
            raise ValueError("name the columns of `tasks` or of `features`; the other is then all other columns")
        return self


class ArffSource(TableSource):
    """A dense or sparse ARFF file, and Mulan's XML list of its labels where there is one."""

    source: Literal["arff"] = "arff"
    labels: str | None = Field(None, min_length=1, description="Mulan XML file that names the task attributes")

    @model_validator(mode="after")
    def _says_what_is_learned(self) -> ArffSource:
        if self.labels is None and self.tasks is None and self.features is None:
            raise ValueError("give the XML file of `labels`, or name the attributes of `tasks` or of `features`")
        return self


class PythonSource(SourceConfig):
    """A function of yours that returns a suite; imported from the working directory or from what is installed."""

    source: Literal["python"] = "python"
    function: str = Field(pattern=r"^[\w.]+:[\w.]+$", description="module:function")
    arguments: dict[str, Any] = Field({}, description="keyword arguments of the function")
