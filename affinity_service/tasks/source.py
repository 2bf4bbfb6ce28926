"""From the `data` section of a config to a checked suite."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from affinity_service.config_graphs import GeneratedGraphSource, GraphSource, GraphTablesSource, SnapSource
from affinity_service.config_sources import (
    ArffSource,
    CsvSource,
    ParquetSource,
    PythonSource,
    SourceConfig,
    TableSource,
    YeastSource,
)
from affinity_service.config_text_suites import CldrSource, LanguageSource, TextSource
from affinity_service.errors import UserError
from affinity_service.tasks.arff import read_arff
from affinity_service.tasks.checks import check_shapes, check_suite, drop_rare_tasks
from affinity_service.tasks.csv import read_csv
from affinity_service.tasks.normalise import normalised
from affinity_service.tasks.parquet import read_parquet
from affinity_service.tasks.python import read_python
from affinity_service.tasks.suite import Suite, standardise_inputs, standardise_targets
from affinity_service.tasks.yeast import read_yeast

READERS: dict[type[SourceConfig], Callable[..., Suite]] = {
    YeastSource: read_yeast,
    ParquetSource: read_parquet,
    CsvSource: read_csv,
    ArffSource: read_arff,
    PythonSource: read_python,
}


def planned_suite(source: SourceConfig) -> Suite:
    """The suite by its counts: of a graph, the inputs are zeros that take no memory. Texts are tokenised, which takes
    less than anything that is planned."""
    if isinstance(source, LanguageSource):
        from affinity_service.text.source import text_suite

        return checked_suite(text_suite(source), source)
    if not isinstance(source, GraphSource):
        return load_suite(source)
    # Graphs are read with the help of this package.
    from affinity_service.graphs.examples import sample_examples
    from affinity_service.graphs.source import planned_graph
    from affinity_service.graphs.trees import check_sampler

    if source.neighbours is not None:
        check_sampler(source.neighbours)
    graph, edges = planned_graph(source)
    width = source.features.dimension
    if graph.features is not None and source.features.kind != "structural":
        width = graph.features.shape[1]
    examples = sample_examples(graph, source)
    count = len(examples.nodes)
    checked = checked_suite(examples.suite(np.zeros((count, 1), np.float32)), source)
    empty = np.broadcast_to(np.float32(0), (count, *source.example_shape(width)))
    return replace(checked, inputs=empty, facts={"nodes": graph.nodes, "edges": edges})


def source_identity(source: SourceConfig) -> str:
    """Stands for what the files of data that has to be prepared hold.

    Raises
    ------
    UserError
        One is not there or cannot be read.
    """
    return _origins(source).source_identity(source)


def files_of(source: SourceConfig) -> list[str]:
    """The files and folders of data that has to be prepared, as the config names them."""
    return _origins(source).files_of(source)


def _origins(source: SourceConfig) -> Any:
    """The module that knows where such data comes from."""
    return importlib.import_module(f"affinity_service.{'graphs' if isinstance(source, GraphSource) else 'text'}.source")


def load_suite(source: SourceConfig) -> Suite:
    """Read, check, normalise and standardise the suite that the config names.

    Raises
    ------
    UserError
        The data cannot be read or no stage could use it; the message names the file, column or task.
    """
    return checked_suite(READERS[type(source)](source), source)


def checked_suite(suite: Suite, source: SourceConfig) -> Suite:
    """Check, normalise and standardise what a source gave.

    Raises
    ------
    UserError
        No stage could use it; the message names the column or task.
    """
    try:
        check_shapes(suite)
        suite = normalised(suite)
        suite = drop_rare_tasks(suite, source.minimum_positives, source.minimum_negatives)
        if isinstance(source, GraphSource):
            _check_named(suite, source.tasks or ())
        check_suite(suite)
        suite = standardise_targets(suite)
        # A node has the same features in whichever place of a neighbourhood it stands.
        alike = isinstance(source, GraphSource) and source.neighbours is not None
        return standardise_inputs(suite, alike) if source.standardise else suite
    except UserError as error:
        raise UserError(f"{_origin(source)}: {error}") from error


def _check_named(suite: Suite, names: Sequence[str]) -> None:
    """Raise ``UserError`` for a task that the config names, and that is left out."""
    for name, why in suite.left_out:
        if name in names:
            raise UserError(
                f"task `{name}`, which data.tasks names, has {why} (minimum_positives, minimum_negatives): lower them, "
                "or name other tasks"
            )


def _origin(source: SourceConfig) -> str:
    if isinstance(source, TableSource | GraphTablesSource):
        return source.path
    if isinstance(source, SnapSource):
        return source.communities
    if isinstance(source, GeneratedGraphSource):
        return "generated graph"
    if isinstance(source, TextSource):
        return source.path or str(source.function)
    if isinstance(source, CldrSource):
        return "cldr"
    return source.function if isinstance(source, PythonSource) else "yeast"
