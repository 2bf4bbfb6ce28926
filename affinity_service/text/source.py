"""From the `data` section of texts to rows, and to a suite of token sequences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from affinity_service.artifacts import fingerprint
from affinity_service.config_text_suites import CldrSource, LanguageSource, TextSource
from affinity_service.errors import UserError
from affinity_service.tasks.suite import Suite, Task
from affinity_service.text.cldr import cldr_identity, cldr_rows
from affinity_service.text.files import data_files, read_rows
from affinity_service.text.labelled import labelled, tokenise_inputs
from affinity_service.text.objects import rows_of_function
from affinity_service.text.rows import RawRow, TextRow, text_row
from affinity_service.text.select import Selection, select_rows
from affinity_service.text.tokenise import limit_of, tokenise
from affinity_service.text.tokenizer import files_identity, load_tokenizer, tokenizer_identity

TRUNCATED, DUPLICATES, LIMIT = "truncated", "duplicates", "limit"


def selected_rows(source: LanguageSource) -> Selection:
    """The rows that become examples, with their tasks and splits; quick, as nothing is tokenised.

    Raises
    ------
    UserError
        The data cannot be read or used; the message names the file and line, or the task.
    """
    if isinstance(source, CldrSource):
        return select_rows(cldr_rows(source), source)
    assert isinstance(source, TextSource)
    rows: Iterator[TextRow] = (text_row(raw, source.columns, source.split_column) for raw in _raw_rows(source))
    try:
        return select_rows(rows, source)
    except UserError as error:
        if source.path is not None and not str(error).startswith(source.path):
            raise UserError(f"{source.path}: {error}") from error
        raise


def text_suite(source: LanguageSource) -> Suite:
    """The suite: tokens, the label of each example for the task that it belongs to (1 where it is an answer, which lies
    within the tokens), and what was counted.

    Raises
    ------
    UserError
        The data or the tokenizer cannot be read or used.
    """
    of_labels = isinstance(source, TextSource) and source.targets == "labels"
    tokenizer = load_tokenizer(_tokenizer(source), ends=not of_labels)
    selection = selected_rows(source)
    named: dict[str, int] = {}
    if of_labels:
        made = tokenise_inputs(selection.rows, source, tokenizer)
        tasks, labels, named = labelled(selection)
    else:
        made = tokenise(selection.rows, source, tokenizer)
        tasks = tuple(Task(name, "sequence") for name in selection.tasks)
        labels = np.full((len(selection.rows), len(selection.tasks)), np.nan, np.float32)
        labels[np.arange(len(labels)), selection.task] = 1
    cut = np.bincount(selection.task[made.cut], minlength=len(selection.tasks))
    facts = {
        "tokens": len(made.rows.tokens),
        "learned_tokens": int(made.rows.learned.sum()),
        DUPLICATES: selection.duplicates,
        TRUNCATED: int(cut.sum()),
        LIMIT: made.limit[0],
        f"{TRUNCATED}_answers": made.cut_answers,
        **{f"{TRUNCATED}.{name}": int(count) for name, count in zip(selection.tasks, cut, strict=True) if count},
        **named,
    }
    return Suite(made.rows, labels, selection.split, tasks, selection.left_out, facts=facts)


def warn_of(suite: Suite, source: LanguageSource, warn: Callable[[str], None]) -> None:
    """What was cut, and which tasks the most of."""
    facts: Mapping[str, int] = suite.facts
    if not facts[TRUNCATED]:
        return
    counts = {name: facts.get(f"{TRUNCATED}.{name}", 0) for name in suite.names}
    worst = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    sizes = dict(zip(suite.names, suite.observed.sum(axis=0).tolist(), strict=True))
    told = ", ".join(f"`{name}` ({counts[name]} of {sizes[name]})" for name in worst[:5])
    answers = facts[f"{TRUNCATED}_answers"]
    of_answers = f", {answers} of them within the answer" if answers else ""
    limit, why = limit_of(source)
    warn(
        f"{facts[TRUNCATED]} of {len(suite)} examples are longer than {limit} tokens ({why}) and "
        f"were cut{of_answers}: {told}{f' and {len(worst) - 5} more tasks' if len(worst) > 5 else ''}"
    )


def files_of(source: LanguageSource) -> list[str]:
    """What the suite is made of, where it lies in files."""
    paths = (getattr(source, "path", None), source.tokenizer)
    return [path for path in paths if path is not None]


def source_identity(source: LanguageSource) -> str:
    """Stands for what the rows and the tokenizer hold; where they lie decides nothing."""
    parts: list[object] = [_rows_identity(source), tokenizer_identity(_tokenizer(source))]
    # Models of one tokenizer may read texts of different lengths.
    limit = limit_of(source)[0]
    return fingerprint(parts if limit == source.max_length else [*parts, limit])


def _rows_identity(source: LanguageSource) -> str:
    if isinstance(source, CldrSource):
        return cldr_identity()
    assert isinstance(source, TextSource)
    if source.path is not None:
        # Rows are read in the order of names, of which folders may be parts of the data set.
        top = Path(source.path)
        files = [Path(file) for file in data_files(source.path)]
        return files_identity([(file.relative_to(top).as_posix() if file != top else "", file) for file in files])
    digest = hashlib.sha256()
    for raw in _raw_rows(source):
        try:
            digest.update(json.dumps(raw.content, sort_keys=True, default=str).encode())
        except (TypeError, ValueError) as error:
            raise UserError(f"{raw.place}: is no row of plain values: {error}") from error
    return digest.hexdigest()[:32]


def _raw_rows(source: TextSource) -> Iterator[RawRow]:
    return rows_of_function(source) if source.path is None else read_rows(source.path)


def _tokenizer(source: LanguageSource) -> str:
    if source.tokenizer is None:
        raise UserError("data.tokenizer is missing: name the folder of a tokenizer, or set model.kind causal_lm")
    return source.tokenizer
