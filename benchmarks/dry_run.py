"""How long a dry run over many pictures takes, as a process of its own: `python dry_run.py [--count N] [--size PX]`.

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
    """`count` pictures of `size` × `size` pixels in ten class folders of two parts, five to one."""
    draw = np.random.default_rng(0)
    kept = folder / "kept"
    kept.mkdir()
    for number in range(DIFFERENT):
        rough = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(rough).resize((size, size)).save(kept / f"{number}.jpg")
    for number in range(count):
        part = {True: "test", False: "train"}[number % 6 == 5]
        place = folder / "pictures" / part / f"class{number % CLASSES}" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(kept / f"{number % DIFFERENT}.jpg", place)


def measured(folder: Path, words: list[str]) -> tuple[float, float]:
    """Seconds from the start of the process to its end, and seconds of a core that it took, which others on the machine
    change less."""
    began, before = time.monotonic(), os.times()
    command = [sys.executable, "-m", "astdistill", "run", *words, "--data", str(folder), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Goes to:" in done.stdout
    after = os.times()
    cores = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, cores


def main() -> None:
    """Print the seconds of each, and whether all stay below ten."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--count", type=int, default=20_000)
    words.add_argument("--size", type=int, default=128)
    words.add_argument("--preset", default="imagenet-nette-ipc1-mtt")
    words.add_argument("-n", type=int, default=3)
    words.add_argument("--json", type=Path)
    given = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="astdistill-dry-run-") as place:
        write(Path(place), given.count, given.size)
        pairs = [measured(Path(place) / "pictures", [given.preset]) for _ in range(given.n)]
    figures, cores = ([round(each, 2) for each in column] for column in zip(*pairs, strict=True))
    print(
        f"{given.preset} --dry-run, {given.count:,} pictures of {given.size} px: {figures} s, "
        f"{cores} s of cores; bar {BAR_S:.0f} s"
    )
    if given.json:
        told = {
            "bench": "dry_run", **without_places(provenance("cpu")),
            "load": [round(each, 2) for each in os.getloadavg()],
            "preset": given.preset, "pictures": given.count, "pixels": given.size, "seconds": figures,
            "median": round(statistics.median(figures), 2),
            "core seconds": cores, "bar": BAR_S,
        }  # fmt: skip
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    sys.exit(int(max(figures) > BAR_S))


if __name__ == "__main__":
    main()
