"""Playwright's assertions; whoever imports them is skipped where it is not installed."""

from __future__ import annotations

import pytest

expect = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install -e '.[dev]'").expect
# On a busy machine a page takes its time; only a test that fails waits so long.
expect.set_options(timeout=20_000)
