"""Real data sets of the benchmarks as suites; those not in a wheel lie beside the repository in `../shared/data`."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from affinity_service.config_sources import ArffSource, SplitConfig, YeastSource
from affinity_service.tasks import load_suite
from affinity_service.tasks.suite import Suite

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
# Training examples, as the figures of the literature's protocol have them; the rest validates and tests in halves.
TRAINING_ROWS = 1000


def _held_out(rows: int) -> float:
    return (1 - TRAINING_ROWS / rows) / 2


def yeast(split: int) -> Suite:
    held_out = _held_out(2417)
    return load_suite(YeastSource(split=SplitConfig(validation=held_out, test=held_out, seed=split)))


def bibtex(split: int) -> Suite:
    """The 20 largest labels and 500 most frequent words of Mulan's bibtex, 2,400 of the documents with such a label."""
    source = ArffSource(
        path=str(DATA / "bibtex/bibtex.arff"), labels=str(DATA / "bibtex/bibtex.xml"), standardise=False
    )
    suite = load_suite(source)
    labels = suite.labels[:, np.argsort(-suite.labels.sum(axis=0), kind="stable")[:20]]
    inputs = suite.inputs[:, np.argsort(-suite.inputs.sum(axis=0), kind="stable")[:500]]
    names = [suite.names[i] for i in np.argsort(-suite.labels.sum(axis=0), kind="stable")[:20]]
    chosen = np.flatnonzero(labels.any(axis=1))
    chosen = np.sort(np.random.default_rng(split).choice(chosen, 2400, replace=False))
    share = _held_out(2400)
    return Suite.from_arrays(inputs[chosen], labels[chosen], names, "binary", None, share, share, split)


def tox21(split: int) -> Suite:
    """Morgan fingerprints (radius 2, 512 bits) of 2,600 molecules; labels missing as they are."""
    from rdkit import Chem, RDLogger
    from rdkit.Chem import rdFingerprintGenerator

    RDLogger.DisableLog("rdApp.*")
    table = pd.read_csv(io.BytesIO(gzip.decompress((DATA / "tox21/tox21.csv.gz").read_bytes())))
    tasks = [name for name in table.columns if name not in ("mol_id", "smiles")]
    table = table.sample(n=2600, random_state=split)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=512)
    molecules = [Chem.MolFromSmiles(smiles) for smiles in table.smiles]
    known = np.array([molecule is not None for molecule in molecules])
    inputs = np.stack([generator.GetFingerprintAsNumPy(m) for m in molecules if m is not None]).astype(np.float32)
    share = _held_out(int(known.sum()))
    labels = table[tasks].to_numpy(np.float32)[known]
    return Suite.from_arrays(inputs, labels, tasks, "binary", None, share, share, split)


def school(split: int) -> Suite:
    """Examination scores of the 20 largest schools; every student belongs to one."""
    from scipy.io import loadmat

    content = loadmat(DATA / "school/school.mat")
    xs, ys = content["X"].ravel(), content["Y"].ravel()
    largest = np.argsort([-len(y) for y in ys], kind="stable")[:20]
    inputs = np.concatenate([xs[i] for i in largest]).astype(np.float32)
    labels = np.full((len(inputs), 20), np.nan, np.float32)
    start = 0
    for column, i in enumerate(largest):
        labels[start : start + len(ys[i]), column] = ys[i].ravel()
        start += len(ys[i])
    names = [f"school_{i}" for i in largest]
    return Suite.from_arrays(inputs, labels, names, "regression", None, 0.25, 0.25, split)


SUITES: dict[str, Callable[[int], Suite]] = {"yeast": yeast, "school": school, "tox21": tox21, "bibtex": bibtex}


def available(name: str) -> bool:
    return name == "yeast" or (DATA / name).is_dir()
