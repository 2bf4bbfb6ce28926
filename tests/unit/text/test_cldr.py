import sys

import pytest

from affinity_service.config_text_suites import CldrSource
from affinity_service.errors import UserError
from affinity_service.tasks.source import planned_suite, source_identity
from affinity_service.text.cldr import cldr_rows

CODES = "fr de es it nl pt ru zh ja ar hi sw tr pl uk cs sv da fi el he ko vi id th hu ro bg hr sk sl lt lv et"


@pytest.fixture
def babel():
    return pytest.importorskip("babel", reason="the tables are Babel's")


def test_names_are_asked_for_in_english(babel):
    rows = {(row.task, row.input): row.target for row in cldr_rows(CldrSource(languages=["fr", "de"]))}
    assert rows["fr-territory", "Write the name of the country or region Germany in French."] == "Allemagne"
    assert rows["de-language", "Write the name of the language French in German."] == "Französisch"
    assert rows["de-currency", "Write the name of the currency Swiss Franc in German."] == "Schweizer Franken"
    assert not any("001" in question or "world" in question for _, question in rows)


def test_by_default_there_are_twelve_tasks(babel, plain):
    suite = planned_suite(CldrSource(tokenizer=plain, most={"train": 20, "validation": 5, "test": 5}))
    assert len(suite.tasks) == 12
    assert suite.names[:3] == ["fr-territory", "fr-language", "fr-currency"]
    assert suite.label_counts(0).tolist() == [20] * 12


def test_a_hundred_tasks_have_a_hundred_names_each(babel):
    source = CldrSource(languages=CODES.split(), most_tasks=100)
    counts = {}
    for row in cldr_rows(source):
        counts[row.task] = counts.get(row.task, 0) + 1
    assert len(counts) == 100
    assert min(counts.values()) >= 100


def test_the_version_of_the_tables_is_their_identity(babel, plain, monkeypatch):
    source = CldrSource(tokenizer=plain)
    own = source_identity(source)
    monkeypatch.setattr(babel, "__version__", "0")
    assert source_identity(source) != own


def test_a_language_that_is_none_is_named(babel):
    for language in ("xx", "not a language"):
        with pytest.raises(UserError, match=f"data.languages has {language}, which Babel does not know"):
            list(cldr_rows(CldrSource(languages=[language])))


def test_without_babel_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(UserError, match="pip install babel"):
        list(cldr_rows(CldrSource()))
