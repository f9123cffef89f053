"""What every test shares: one thread, so that results do not depend on the machine, a quiet console, and a small CIFAR-100 on disk."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

# Nothing in the tests may reach for the network; the hub library is told before it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

from astdistill import progress

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    progress.be_quiet(True)


@pytest.fixture(scope="session")
def cifar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cifar100` and `cifar10` in the hub's parquet layout: 52 and 12 random training pictures a class, one to test on."""
    root = tmp_path_factory.mktemp("data")
    write_parquet(root / "cifar100", 100, 52, "img", "fine_label")
    write_parquet(root / "cifar10", 10, 12, "img", "label")
    return root


def write_parquet(folder: Path, classes: int, count: int, image: str, label: str, test: int = 1) -> None:
    """Write train and test parts of random 32 px PNG pictures, tinted by class so that there is something to learn."""
    import datasets
    from PIL import Image

    draw = np.random.default_rng(0)
    names = [f"class {number:03d}" for number in range(classes)]
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=names)})
    tints = draw.integers(0, 128, (classes, 1, 1, 3))
    folder.mkdir(parents=True)
    for part, each in (("train", count), ("test", test)):
        rows = []
        for number in range(classes * each):
            picture = (draw.integers(0, 128, (32, 32, 3)) + tints[number % classes]).astype(np.uint8)
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "PNG")
            rows.append({"bytes": stream.getvalue(), "path": None})
        columns = {image: rows, label: [number % classes for number in range(classes * each)]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(folder / f"{part}-00000-of-00001.parquet"))
