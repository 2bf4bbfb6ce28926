"""Playwright's assertions; whoever imports them is skipped where it is not installed."""

from __future__ import annotations

import pytest

expect = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install -e '.[dev]'").expect
