"""From the `data` section of a config to a checked suite."""

from __future__ import annotations

from collections.abc import Callable

from affinity_service.config_sources import (
    ArffSource,
    CsvSource,
    ParquetSource,
    PythonSource,
    Source,
    SourceConfig,
    TableSource,
    YeastSource,
)
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


def load_suite(source: Source) -> Suite:
    """Read, check, normalise and standardise the suite that the config names.

    Raises
    ------
    UserError
        The data cannot be read or no stage could use it; the message names the file, column or task.
    """
    suite = READERS[type(source)](source)
    try:
        check_shapes(suite)
        suite = normalised(suite)
        suite = drop_rare_tasks(suite, source.minimum_positives, source.minimum_negatives)
        check_suite(suite)
        suite = standardise_targets(suite)
        return standardise_inputs(suite) if source.standardise else suite
    except UserError as error:
        raise UserError(f"{_origin(source)}: {error}") from error


def _origin(source: SourceConfig) -> str:
    if isinstance(source, TableSource):
        return source.path
    return source.function if isinstance(source, PythonSource) else "yeast"
