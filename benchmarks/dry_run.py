"""Measure a dry run over many pictures in its own process: `python dry_run.py [--count N] [--size PX]`.

The pictures are class folders of JPEG files: a few hundred different ones, each under many names, since a dry run reads
headers alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from astdistill.runtime.provenance import provenance, without_places

DIFFERENT, CLASSES, BAR_S = 200, 10, 10.0


def write(folder: Path, count: int, size: int) -> None:
    """Write `count` pictures of `size` × `size` pixels in ten class folders of two parts, five to one."""
    draw = np.random.default_rng(0)
    originals = folder / "kept"
    originals.mkdir()
    for number in range(DIFFERENT):
        rough = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(rough).resize((size, size)).save(originals / f"{number}.jpg")
    for number in range(count):
        part = {True: "test", False: "train"}[number % 6 == 5]
        path = folder / "pictures" / part / f"class{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(originals / f"{number % DIFFERENT}.jpg", path)


def measured(folder: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds from the start of the process to its end, and its core seconds, which other load on the machine changes
    less."""
    began, before = time.monotonic(), os.times()
    command = [sys.executable, "-m", "astdistill", "run", *arguments, "--data", str(folder), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Goes to:" in done.stdout
    after = os.times()
    cores = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, cores


def main() -> None:
    """Print the seconds of each run; exit with 1 if one takes more than ten."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--preset", default="imagenet-nette-ipc1-mtt")
    parser.add_argument("-n", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="astdistill-dry-run-") as folder:
        write(Path(folder), options.count, options.size)
        pairs = [measured(Path(folder) / "pictures", [options.preset]) for _ in range(options.n)]
    figures, cores = ([round(each, 2) for each in column] for column in zip(*pairs, strict=True))
    print(
        f"{options.preset} --dry-run, {options.count:,} pictures of {options.size} px: {figures} s, "
        f"{cores} s of cores; bar {BAR_S:.0f} s"
    )
    if options.json:
        record = {
            "bench": "dry_run", **without_places(provenance("cpu")),
            "load": [round(each, 2) for each in os.getloadavg()],
            "preset": options.preset, "pictures": options.count, "pixels": options.size, "seconds": figures,
            "median": round(statistics.median(figures), 2),
            "core seconds": cores, "bar": BAR_S,
        }  # fmt: skip
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.exit(int(max(figures) > BAR_S))


if __name__ == "__main__":
    main()
