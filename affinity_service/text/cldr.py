"""Names of countries, languages, currencies and scripts in many languages: Unicode's CLDR tables, which Babel has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from affinity_service.config_text_suites import CldrSource
from affinity_service.errors import UserError
from affinity_service.text.rows import ASSISTANT, USER, TextRow, Turn

# Babel's attribute of each category, and what its entries are called in a question.
TABLES = {
    "territory": ("territories", "country or region"),
    "language": ("languages", "language"),
    "currency": ("currencies", "currency"),
    "script": ("scripts", "script"),
}
ASKED_IN = "en"


def cldr_rows(source: CldrSource) -> Iterator[TextRow]:
    """A row per name that both English and the other language have; tasks are called `fr-territory`.

    Raises
    ------
    UserError
        Babel is not installed, or does not know a language.
    """
    english = _locale(ASKED_IN)
    wanted = [(language, category) for language in source.languages for category in source.categories]
    for language, category in wanted[: source.most_tasks]:
        locale, name = _locale(language), f"{language}-{category}"
        table, noun = TABLES[category]
        called = locale.get_display_name(ASKED_IN)
        names: Mapping[str, str] = getattr(english, table)
        others: Mapping[str, str] = getattr(locale, table)
        for code in sorted(names):
            # Numbers stand for continents and groups of countries.
            if code in others and not code.isdigit():
                question = f"Write the name of the {noun} {names[code]} in {called}."
                place = f"CLDR {table} of {language}: {code}"
                yield TextRow(name, (Turn(USER, question), Turn(ASSISTANT, others[code])), None, place)


def cldr_identity() -> str:
    """The version of the tables."""
    return str(_babel().__version__)


def _locale(language: str) -> Any:
    babel = _babel()
    try:
        return babel.Locale.parse(language)
    except (babel.UnknownLocaleError, ValueError, TypeError) as error:
        raise UserError(
            f"data.languages has {language}, which Babel does not know ({error}); expected locales such as fr, "
            "pt_BR or zh_Hant"
        ) from error


def _babel() -> Any:
    try:
        import babel
    except ImportError as error:
        raise UserError("data.source cldr reads the tables of the Babel package: pip install babel") from error
    return babel
