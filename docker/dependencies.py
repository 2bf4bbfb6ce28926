"""Prints the dependencies of pyproject.toml, and of the extras named: `dependencies.py pyproject.toml EXTRA…`."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
extras = [line for name in sys.argv[2:] for line in project["optional-dependencies"][name]]
print("\n".join([*project["dependencies"], *extras]))
