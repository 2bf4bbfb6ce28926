"""`make demo` in a fresh clone without a virtual environment, then once more: seconds of each.

Wheels come from pip's cache where it has them; the first run on a machine also downloads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST_LIMIT, SECOND_LIMIT = 8 * 60, 15


def main() -> None:
    repository = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as directory:
        clone = Path(directory, "clone")
        subprocess.run(["git", "clone", "--quiet", str(repository), str(clone)], check=True)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            subprocess.run(["make", "demo"], cwd=clone, check=True)
            seconds.append(time.perf_counter() - start)
        assert (clone / "studies/yeast/report/index.html").is_file()
    print(f"\n{'':<24}{'seconds':>10}{'limit':>10}")
    print(f"{'from nothing':<24}{seconds[0]:>10.1f}{FIRST_LIMIT:>10}")
    print(f"{'second run':<24}{seconds[1]:>10.1f}{SECOND_LIMIT:>10}")
    if seconds[0] > FIRST_LIMIT or seconds[1] > SECOND_LIMIT:
        sys.exit("slower than the limit")


if __name__ == "__main__":
    main()
