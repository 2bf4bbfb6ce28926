"""The `data` section of language: where questions and answers come from, and how they become tokens."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from affinity_service.config_base import Execution, StageConfig
from affinity_service.config_models import CausalLMConfig, EncoderConfig, ModelConfig
from affinity_service.config_sources import PythonSource, SourceConfig, SplitConfig

# How a prompt is made other than by a format of one's own.
TEMPLATES = ("auto", "chat")
Category = Literal["territory", "language", "currency", "script"]


class CapConfig(StageConfig):
    """Examples of a task in each split at most; drawn where there are more."""

    train: int | None = Field(None, ge=1)
    validation: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)


class ColumnNames(StageConfig):
    """Where a row has what."""

    task: str = "task"
    input: str = "input"
    target: str = "target"
    messages: str = "messages"


class LanguageSource(SourceConfig):
    """What every source of texts shares: examples are a prompt that is read and an answer that is learned, and belong
    to one task each."""

    prepared: ClassVar[bool] = True

    tasks: list[str] | None = Field(None, min_length=1, description="names of tasks; all when absent")
    # What its files hold is a need of the stage by itself, as the source's own.
    tokenizer: str | None = Execution(None, min_length=1, description="of the model when absent")
    prompt: str = Field(
        "auto",
        description="chat: by the tokenizer's template; a format with {input} and, if wanted, {task}; auto: chat where "
        'the tokenizer has a template, else "{input}\\n"',
    )
    system: str | None = Field(None, description="said first where the prompt is a chat")
    max_length: int = Field(512, ge=2, description="tokens of an example, prompt and answer together")
    too_long: Literal["truncate", "refuse"] = Field(
        "truncate", description="truncate: prompts lose their beginning, answers that are longer alone their end"
    )
    most: CapConfig = CapConfig()
    split: SplitConfig = SplitConfig()
    minimum_examples: int = Field(10, ge=3, description="a task with fewer is left out, and said so")

    @field_validator("prompt")
    @classmethod
    def _prompt_has_the_input(cls, value: str) -> str:
        if value in TEMPLATES:
            return value
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(value) if name is not None]
        except ValueError as error:
            raise ValueError(f"is no format: {error}; a brace that is meant is written twice") from error
        unknown = [name for name in fields if name not in ("input", "task")]
        if unknown:
            raise ValueError(f"has the unknown field {{{unknown[0]}}}; expected {{input}} and, if wanted, {{task}}")
        if "input" not in fields:
            raise ValueError(
                f"has no {{input}}; expected {', '.join(TEMPLATES)}, or a format such as 'Q: {{input}}\\nA: '"
            )
        return value

    @model_validator(mode="after")
    def _system_has_a_chat(self) -> LanguageSource:
        if self.system is not None and self.prompt not in TEMPLATES:
            raise ValueError("system is said in a chat, but prompt is a format: write it into the format")
        return self


class TextSource(LanguageSource):
    """Rows of task, input and target, or of task and messages of a chat: JSONL or Parquet, a file or a folder of them,
    a folder that `datasets` saved, or what a function of yours returns."""

    source: Literal["text"] = "text"
    path: str | None = Execution(None, min_length=1)
    function: str | None = Field(None, pattern=r"^[\w.]+:[\w.]+$", description="module:function, in place of a path")
    arguments: dict[str, Any] = Field({}, description="keyword arguments of the function")
    columns: ColumnNames = ColumnNames()
    targets: Literal["answers", "labels"] = Field(
        "answers", description="answers to be written, or the inputs' labels, as an encoder learns; its own when absent"
    )
    split_column: str | None = Field(
        None, description="a column of 'train', 'validation', 'test' that replaces the seeded split"
    )

    @model_validator(mode="after")
    def _path_or_function(self) -> TextSource:
        if (self.path is None) == (self.function is None):
            raise ValueError(f"give a `path` or a `function`, {'one of them' if self.path is None else 'not both'}")
        if self.arguments and self.function is None:
            raise ValueError("arguments are those of a `function`: leave them out")
        if self.targets == "labels" and (self.prompt == "chat" or self.system is not None):
            raise ValueError("targets are labels, whose inputs are no chats: leave prompt chat and system out")
        return self


class CldrSource(LanguageSource):
    """Names in other languages, from Unicode's tables in the Babel package: a task per language and category."""

    source: Literal["cldr"] = "cldr"
    # Two pairs of related languages.
    languages: list[str] = Field(["fr", "es", "de", "nl"], min_length=1, description="locales such as fr or zh_Hant")
    categories: list[Category] = Field(["territory", "language", "currency"], min_length=1)
    most_tasks: int | None = Field(None, ge=1, description="so many of the first, language by language")

    @model_validator(mode="after")
    def _each_once(self) -> CldrSource:
        for name, values in (("languages", self.languages), ("categories", self.categories)):
            for value, count in Counter(values).items():
                if count > 1:
                    raise ValueError(f"{name} has {value} {count} times; each makes its tasks once")
        if "en" in self.languages:
            raise ValueError("languages has en, which is what is asked in: name others")
        return self


SOURCES = ("text", "cldr")


def with_tokenizer(config: Any) -> Any:
    """The raw content of a config, in which a source of texts has the tokenizer of the model where it names none, and
    targets as the model learns them."""
    if not isinstance(config, Mapping):
        return config
    data, model = config.get("data"), config.get("model")
    kind, path, source, named = _get(model, "kind"), _get(model, "path"), _get(data, "source"), _get(data, "tokenizer")
    if source not in SOURCES or kind not in ("causal_lm", "encoder"):
        return config
    added: dict[str, Any] = {} if named is not None or path is None else {"tokenizer": path}
    if isinstance(data, BaseModel):
        return {**config, "data": data.model_copy(update=added)}
    if source == "text" and kind == "encoder" and "targets" not in data:  # type: ignore[operator]
        added["targets"] = "labels"
    return {**config, "data": {**data, **added}}  # type: ignore[dict-item]


def _get(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)


def check_language(data: SourceConfig, model: ModelConfig) -> None:
    """Raise ``ValueError`` unless texts meet a language model; a function of the user may return sequences too."""
    of_text, reads = isinstance(data, LanguageSource), isinstance(model, CausalLMConfig)
    if isinstance(data, TextSource) and data.targets == "labels":
        if not isinstance(model, EncoderConfig):
            raise ValueError(f"data.targets labels needs model.kind encoder, found {model.kind}")
        return
    if isinstance(data, TextSource) and isinstance(model, EncoderConfig):
        raise ValueError("model.kind encoder learns labels, found data.targets answers: use labels, or kind causal_lm")
    if of_text and not reads:
        raise ValueError(f"data.source {_get(data, 'source')} needs model.kind causal_lm, found {model.kind}")
    if reads and not of_text and not isinstance(data, PythonSource):
        raise ValueError(f"model.kind causal_lm needs data.source {', '.join(SOURCES)} or python")
