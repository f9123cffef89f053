"""Small data sets on disk, and a cache of its own for every test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ASTDISTILL_CACHE", str(folder))
    return folder


@pytest.fixture
def pixels() -> Callable[..., torch.Tensor]:
    """Makes random uint8 images of a shape."""

    def make(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def write_pictures() -> Callable[..., None]:
    """Writes `count` random PNG files into a folder."""

    def write(folder: Path, count: int, size: tuple[int, int] = (8, 8), mode: str = "RGB", seed: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(seed)
        channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
        for number in range(count):
            array = draw.integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
            Image.fromarray(array).save(folder / f"{number:03d}.png")

    return write


@pytest.fixture
def tree(tmp_path: Path, write_pictures: Callable[..., None]) -> Callable[..., str]:
    """Makes class folders below `tmp_path/in`: `tree(5, "train/cat", "train/dog")` puts five pictures into each."""

    def make(count: int, *folders: str) -> str:
        for number, folder in enumerate(folders):
            write_pictures(tmp_path / "in" / folder, count, seed=number)
        return str(tmp_path / "in")

    return make
