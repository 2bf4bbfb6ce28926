"""Six hundred broken configs and files through the entry of the command line: never a traceback, always the name.

Each case takes something valid and breaks it in one seeded way. What is still valid afterwards may pass; what is
refused leaves with exit code 2 and a message that names the key, column or file that was broken.
"""

from __future__ import annotations

import contextlib
import io
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from affinity_service.cli import attempt
from affinity_service.graphs.tables import write_graph_tables
from tests.broken.cases import Case, Workspace
from tests.broken.configs import (
    broken_yaml,
    deleted_key,
    junk_value,
    renamed_key,
    section_of_another_type,
    swapped_paths,
    unknown_key,
    wrong_columns,
    wrong_function,
)
from tests.broken.files import bad_bytes, bad_cell, bad_column, bad_header, bad_labels, bad_parquet, bad_shape
from tests.broken.graphs import (
    bad_graph_settings,
    bad_graph_tables,
    bad_snap,
    cut_archive,
    load,
    snap_files,
    valid_graph,
)

CASES = 600
REFUSED_AT_LEAST = 480


MUTATIONS: tuple[Callable[[random.Random, Workspace], Case], ...] = (
    renamed_key, renamed_key, junk_value, junk_value, deleted_key, section_of_another_type, unknown_key, broken_yaml,
    swapped_paths, wrong_columns, wrong_function, bad_cell, bad_cell, bad_column, bad_header, bad_shape, bad_bytes,
    bad_bytes, bad_parquet, bad_parquet, bad_labels, bad_snap, bad_snap, cut_archive, bad_graph_tables,
    bad_graph_tables, bad_graph_settings,
)  # fmt: skip


def told(action: Callable[[], Any]) -> tuple[int, str]:
    """Exit code and standard error, as the command line gives them."""
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        code = attempt(action)
    return code, stream.getvalue()


@pytest.mark.parametrize("source", ["csv", "arff", "parquet", "python"])
def test_what_is_broken_below_is_valid_before(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    work = Workspace(tmp_path)
    assert told(work.load(work.config(source))) == (0, "")
    sys.modules.pop("my_made_suite", None)


def test_graphs_that_are_broken_below_are_valid_before(tmp_path):
    work = Workspace(tmp_path)
    edges_file, communities_file, edges, communities = snap_files(work)
    edges_file.write_text("\n".join(edges))
    communities_file.write_text("\n".join(communities))
    write_graph_tables(valid_graph(), str(tmp_path / "g"))
    for data in (
        {"source": "snap", "edges": str(edges_file), "communities": str(communities_file)},
        {"source": "graph", "path": str(tmp_path / "g")},
    ):
        assert told(load(work, data).action) == (0, "")


def test_six_hundred_broken_inputs_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work, refused, wrong = Workspace(tmp_path), 0, []
    for index in range(CASES):
        rng = random.Random(index)
        case = MUTATIONS[index % len(MUTATIONS)](rng, work)
        code, message = told(case.action)
        refused += code == 2
        fine = code == 0 or (
            code == 2 and "Traceback" not in message and all(any(w in message for w in words) for words in case.named)
        )
        if not fine:
            wrong.append(f"{index} {case.label}: code {code}, expected {case.named} in: {message}")
    sys.modules.pop("my_made_suite", None)
    assert not wrong, f"{len(wrong)} of {CASES}:\n" + "\n".join(wrong)
    assert refused >= REFUSED_AT_LEAST, f"only {refused} of {CASES} were refused"
