"""Puts the page together: reads the study, fills the sections in order, writes one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from affinity_service.artifacts import StudyFolder
from affinity_service.report import facts, folding, language, sections, training, wording
from affinity_service.report.answer import answer
from affinity_service.report.contents import Contents, read_contents

_HERE = Path(__file__).parent
_RUN, _TRAIN = "affinity run CONFIG --study STUDY", "affinity train-groups STUDY"


@dataclass(frozen=True)
class Section:
    """`key` names the anchor and the template `section_<key>.html`; `command` makes what the section needs. One that is
    optional is left out where there is nothing to show."""

    key: str
    title: str
    fill: Callable[[Contents], dict[str, Any] | None]
    command: str = _RUN
    optional: bool = False


SECTIONS = (
    Section("groups", "The groups", sections.groups),
    Section("heatmap", "Who helps whom: the affinity matrix", sections.heatmap),
    Section("pairs", "The partners that stand out", sections.pairs),
    Section("fidelity", "How far the estimates can be trusted", sections.fidelity, "affinity validate STUDY"),
    Section("outcomes", "What grouped training gives", sections.outcomes, _TRAIN),
    Section("models", "The group models, and how to load them", language.models, _TRAIN, optional=True),
    Section("training", "While the base model trained", training.training, optional=True),
    Section("base_model", "The base model", sections.base_model),
    Section("cost", "Where time and computation went", sections.cost),
    Section("data", "The data", sections.data),
    Section("making", "How it was made, and how to read it", sections.making),
)


def write_report(folder: StudyFolder) -> None:
    """Write `report/index.html` from what the study folder holds; a section whose stage is not done says so.

    Raises
    ------
    UserError
        There is no study in the folder, or one of its files is broken.
    """
    # A name from JSON may hold half of a surrogate pair, which UTF-8 cannot.
    folder.write_bytes("report/index.html", render(read_contents(folder)).encode("utf-8", "replace"))


def render(contents: Contents) -> str:
    """The whole page as text."""
    filled = [(section, section.fill(contents)) for section in SECTIONS]
    filled = [(section, content) for section, content in filled if content is not None or not section.optional]
    return (
        _environment()
        .get_template("page.html")
        .render(
            name=contents.config.name,
            style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
            sections=filled,
            answer=answer(contents),
            unit=contents.unit,
            measure=contents.measure,
            estimate_unit=contents.estimate_unit,
            unfinished=contents.unfinished,
            superseded=contents.superseded,
            written_by=contents.config.written_by,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(wording, name)
        for name in ("count", "duration", "flops", "memory", "number", "percent", "short", "signed")
    }
    environment.globals |= {"SETTINGS": facts.SETTINGS, "NAMES": folding.NAMES, "ENDS": folding.ENDS}
    return environment
