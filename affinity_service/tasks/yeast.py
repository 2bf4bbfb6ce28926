"""Yeast gene functions (Elisseeff and Weston, NeurIPS 2001) as shipped in the river wheel, BSD-3."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pandas as pd

from affinity_service.config_sources import YeastSource
from affinity_service.tasks.suite import Suite, Task, seeded_split


def read_yeast(source: YeastSource) -> Suite:
    """2,417 genes: 103 expression and profile features, 14 functional classes as binary tasks."""
    with resources.files("river").joinpath("datasets/yeast.csv.gz").open("rb") as stream:
        table = pd.read_csv(stream, compression="gzip")
    labels = [name for name in table.columns if name.startswith("Class")]
    return Suite(
        inputs=table.drop(columns=labels).to_numpy(np.float32),
        labels=table[labels].to_numpy(np.float32),
        split=seeded_split(len(table), source.split.validation, source.split.test, source.split.seed),
        # The published names of the classes are numbers; label_k is class k of the original.
        tasks=tuple(Task(f"label_{name.removeprefix('Class')}", "binary") for name in labels),
    )
