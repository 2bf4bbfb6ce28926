"""Something valid to break: configs, files in every format, and what a broken case is."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from affinity_service.config import Config
from affinity_service.tasks import load_suite

ROWS = 40
TASKS = ("spam", "mood", "size")
JUNK: tuple[Any, ...] = (
    -1, 0, 1.5, -0.5, 10**9, float("nan"), float("inf"), True, None, "", "banana", "\N{SNOWMAN}", [], ["banana"],
    [[1]], {}, {"banana": 1}, [1, 2, 3], "2020-13-45", "a\0b", "../x",
)  # fmt: skip


@dataclass
class Case:
    """What to do, and what its message must name: one word of every group."""

    label: str
    action: Callable[[], Any]
    named: list[tuple[str, ...]] = field(default_factory=list)


class Workspace:
    """Valid files of every format, and a fresh name for each broken one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0
        rng = np.random.default_rng(0)
        x = rng.normal(size=(ROWS, 2)).round(3)
        spam, mood = (x[:, 0] > 0).astype(int), np.where(x[:, 1] > 0, "high", "low")
        size = (x @ [1, 2]).round(3)
        self.lines = ["x,y,spam,mood,size"]
        self.lines += [f"{a},{b},{s},{m},{z}" for (a, b), s, m, z in zip(x, spam, mood, size, strict=True)]
        self.arff = ["@relation made", "@attribute x numeric", "@attribute y numeric", "@attribute spam {0,1}"]
        self.arff += ["@attribute mood {low,high}", "@attribute size numeric", "@data", *self.lines[1:]]
        self.xml = "<labels>\n" + "".join(f'<label name="{name}"></label>\n' for name in TASKS) + "</labels>\n"
        self.table = pa.table(
            {
                "features": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 2),
                **{"spam": spam, "mood": mood, "size": size},
            }
        )
        self.parquet = self._parquet()
        (root / "my_made_suite.py").write_text(
            "import numpy as np\nfrom affinity_service.tasks import Suite\n"
            f"def make(rows={ROWS}, names=('a', 'b')):\n"
            "    X = np.random.default_rng(0).normal(size=(rows, 3))\n"
            "    return Suite.from_arrays(X, X[:, :2] > 0, list(names))\n"
        )

    def _parquet(self) -> bytes:
        stream = io.BytesIO()
        pq.write_table(self.table, stream, write_page_checksum=True)
        return stream.getvalue()

    def write(self, content: str | bytes, suffix: str) -> Path:
        self.count += 1
        path = self.root / f"broken{self.count}{suffix}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def data(self, source: str) -> dict[str, Any]:
        """A valid `data` section over valid files."""
        if source == "python":
            return {"source": "python", "function": "my_made_suite:make", "arguments": {"rows": 30}}
        content = {"csv": "\n".join(self.lines), "arff": "\n".join(self.arff), "parquet": self.parquet}[source]
        data: dict[str, Any] = {"source": source, "path": str(self.write(content, f".{source}"))}
        if source == "arff":
            data["labels"] = str(self.write(self.xml, ".xml"))
        elif source == "csv":
            data["tasks"] = {"spam": "binary", "mood": "multiclass", "size": "regression"}
        return data

    def config(self, source: str) -> dict[str, Any]:
        """Every key of the schema, with a valid value."""
        config = Config.parse({"name": "valid", "data": self.data(source)})
        return config.model_dump(mode="json", exclude={"written_by"})

    def load(self, config: dict[str, Any] | str | bytes) -> Callable[[], Any]:
        text = config if isinstance(config, str | bytes) else yaml.safe_dump(config, allow_unicode=True)
        path = self.write(text, ".yaml")
        return lambda: load_suite(Config.load(path).data)


# --- configs ----------------------------------------------------------------------------------------------------
