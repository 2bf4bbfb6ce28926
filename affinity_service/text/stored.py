"""The texts of a suite's examples beside their tokens, for whoever compares what a model writes with them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.tasks.suite import SPLITS
from affinity_service.text.select import Selection

TEXTS = "suite/texts.parquet"


def write_texts(folder: StudyFolder, selection: Selection) -> None:
    """A row per example, in the suite's order: task, input, target, split."""
    table = pa.table(
        {
            "task": pa.array([row.task for row in selection.rows]).dictionary_encode(),
            "input": pa.array([row.input for row in selection.rows], pa.string()),
            "target": pa.array([row.target for row in selection.rows], pa.string()),
            "split": pa.array([SPLITS[code] for code in selection.split]).dictionary_encode(),
        }
    )
    with folder.writing(TEXTS) as stream:
        pq.write_table(table, stream, compression="zstd", write_page_checksum=True)


def read_texts(folder: StudyFolder) -> pa.Table:
    """The same table: row i is example i of the suite; of a chat `input` has a line per turn, `target` the last answer.

    Raises
    ------
    UserError
        The study has none: its suite is not made of texts, or not made yet.
    """
    if not folder.exists(TEXTS):
        raise UserError(f"study {folder.root}: `{TEXTS}` is missing; a study of texts has it once its suite is made")
    table = pq.read_table(folder.local_path(TEXTS), page_checksum_verification=True)
    return table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
