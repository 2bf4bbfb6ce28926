"""The native form: one Parquet table (a file or a folder of them).

A fixed-size-list column `features`, or named numeric columns, and one nullable column per task.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from affinity_service.config_sources import ParquetSource
from affinity_service.errors import UserError
from affinity_service.tasks.files import check_path, reason
from affinity_service.tasks.suite import Suite
from affinity_service.tasks.table import suite_from_table


def read_parquet(source: ParquetSource) -> Suite:
    return suite_from_table(parquet_table(source.path), source, source.path)


def parquet_table(path: str) -> pa.Table:
    """All columns of a Parquet file, or of the files in a folder; a path or a URI such as ``s3://bucket/table``.

    Raises
    ------
    UserError
        Nothing is there, it is not Parquet, it is cut off or damaged, or column names repeat.
    """
    local = "://" not in path
    if local:
        check_path(path)
    # Files that carry checksums, such as those of `affinity import`, are held against them.
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    try:
        dataset = ds.dataset(path, format=ds.ParquetFileFormat(default_fragment_scan_options=options))
        if not dataset.files:
            raise UserError(f"{path}: the folder holds no Parquet file")
        table = dataset.to_table()
        table.validate(full=True)
        table.column_names  # noqa: B018 - damaged names are found when they are decoded
        return table
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file or folder") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if local and (repeated := _repeated_names(path)):
            raise UserError(
                f"{path}: column `{repeated}` occurs more than once; column and task names must be unique"
            ) from error
        raise UserError(f"{path}: not a readable Parquet table (truncated or damaged?): {reason(error)}") from error


def _repeated_names(path: str) -> str | None:
    """The first repeated column name: Arrow says only that there is one."""
    if not Path(path).is_file():
        return None
    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return None
    return next((name for name, count in Counter(names).items() if count > 1), None)
