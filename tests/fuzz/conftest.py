"""Hypothesis is needed here alone; without it these tests are skipped."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis", reason="pip install 'astdistill[test]'")
