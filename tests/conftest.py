"""What every test shares: one thread, so that results do not depend on the machine, and a quiet console."""

from __future__ import annotations

import pytest
import torch

from astdistill import progress

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    progress.be_quiet(True)
