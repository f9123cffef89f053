"""Data sets in folders, in the layouts that are read."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np


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
            Image.fromarray(picture).save(stream, "PNG", compress_level=0)
            rows.append({"bytes": stream.getvalue(), "path": None})
        columns = {image: rows, label: [number % classes for number in range(classes * each)]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(
            str(folder / f"{part}-00000-of-00001.parquet")
        )


def own_cache(folder: Path) -> Path:
    """A cache of a test's own, for processes that it starts: with the kernels of this session, which each process would
    otherwise compile again, and with nothing else."""
    from astdistill.autodiff.native.build import library

    kernels = Path(os.environ["ASTDISTILL_TESTS_CACHE"]) / "kernels"
    if library() is not None and kernels.is_dir():  # a wheel brings its own
        shutil.copytree(kernels, folder / "kernels")
    return folder
