"""One small data set with held-out images, its experts, and a short run, shared by the tests of the outer loop."""

from __future__ import annotations

import pytest
from problems import blobs, tiny_experts

from astdistill.data.dataset import Dataset
from astdistill.distillation.settings import DistillSettings
from astdistill.experts.store import TrajectoryStore


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return blobs(validation=0.25)


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> TrajectoryStore:
    return tiny_experts(tmp_path_factory.mktemp("experts"), dataset)


@pytest.fixture(scope="session")
def settings() -> DistillSettings:
    return DistillSettings(
        iterations=8,
        lr_img=20.0,
        lr_lr=1e-3,
        lr_init=0.05,
        augmentation="flip_scale",
        checkpoint_seconds=0.0,
        validate_epochs=3,
        validate_networks=1,
    )
