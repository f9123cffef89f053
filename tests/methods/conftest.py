"""One small data set with its experts, shared by the tests of the methods."""

from __future__ import annotations

import pytest
from problems import blobs, tiny_experts

from astdistill.data.dataset import Dataset
from astdistill.experts.store import TrajectoryStore
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return blobs()


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> TrajectoryStore:
    return tiny_experts(tmp_path_factory.mktemp("experts"), dataset)


@pytest.fixture(scope="session")
def model(experts: TrajectoryStore, dataset: Dataset) -> FlatModel:
    return FlatModel(build_model(experts.identity.model, dataset.shape, len(dataset.classes)))
