"""The images of one run as the page shows them: large tiles by class, and what the slider and the pointer need to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...distillation.course import Frame
from ...synthetic import SyntheticSet
from .folder import RunFolder
from .sprites import BORDER, Sheets, sheets

FEWEST = 20
"""Up to so many images are shown largest."""
LABELS, FEW = 5, 200
"""Classes named of a soft label; above so many images only three, because every frame has its own."""


@dataclass(frozen=True)
class Tile:
    """One image: its number in the set, its place in the sheet, and the name it is read out by."""

    index: int
    column: int
    row: int
    told: str


@dataclass(frozen=True)
class Gallery:
    """Tiles by class, the style that lays them out, and the data of the script."""

    groups: list[tuple[str, list[Tile]]]
    single: bool
    few: bool
    style: str
    script: dict[str, Any]
    captions: list[str]
    note: str


def gallery(run: RunFolder, number: int, budget: int) -> Gallery | None:
    """The gallery of a run in at most `budget` bytes of pictures; None for a run without images."""
    if not run.frames or run.synthetic is None:
        return None
    classes = [name.replace("_", " ") for name in run.synthetic.classes]
    found = sheets(run.frames, budget)
    count = len(found.frames[-1].pixels)
    ipc = count // len(classes)
    tiles = [Tile(index, *found.place(index), f"{classes[index // ipc]}, image {index % ipc + 1}") for index in range(count)]
    soft = run.synthetic.labels == "soft"
    captions = [f"{'initial, ' if frame.iteration == 0 else ''}iteration {frame.iteration:,}" for frame in found.frames]
    captions[-1] = f"{run.ending}, iteration {found.frames[-1].iteration:,}"
    return Gallery(
        groups=[(name, tiles[label * ipc : (label + 1) * ipc]) for label, name in enumerate(classes)],
        single=ipc == 1,
        few=count <= FEWEST,
        style=_style(found, count, ipc),
        script={
            "run": number,
            "sheets": found.addresses[:-1],
            "captions": captions,
            "rates": [frame.lr for frame in found.frames],
            "classes": classes,
            "soft": [_soft(frame, LABELS if count <= FEW else 3) for frame in found.frames] if soft else None,
        },
        captions=captions,
        note=_note(ipc, run.synthetic, found.lossless),
    )


def _style(found: Sheets, count: int, ipc: int) -> str:
    """CSS variables: the sheet, its size, and the tile's on a desk and on a phone, in whole multiples of the image's own pixels."""
    wanted = (192, 96) if count <= FEWEST else (96, 64) if count <= 120 else (64, 64)
    large, small = (max(1, round(each / found.width)) * found.width for each in wanted)
    across = (5 if count <= FEWEST else 10) if ipc == 1 else min(ipc, 10) if count <= 120 else min(ipc, 5 if ipc <= 10 else 15)
    return (
        f"--sheet:url({found.addresses[-1]});--width:{found.width};--height:{found.height};--border:{BORDER};"
        f"--columns:{found.columns};--rows:{found.rows};"
        f"--large:{large}px;--small:{small}px;--across:{across}"
    )


def _soft(frame: Frame, most: int) -> list[list[list[int]]]:
    """For every image its most probable classes with percent, rounded; a class below half a percent is left out."""
    values, places = frame.probabilities.topk(min(most, frame.probabilities.shape[1]), dim=1)
    return [
        [[place, round(100 * value)] for place, value in zip(*both, strict=True) if value >= 0.005]
        for both in zip(places.tolist(), values.tolist(), strict=True)
    ]


def _note(shown: int, synthetic: SyntheticSet, lossless: bool) -> str:
    words = [] if shown == synthetic.ipc else [f"The first {shown} of {synthetic.ipc} images of each class."]
    if synthetic.canvas > 1:
        crops = f"{synthetic.canvas_samples} random crops" if synthetic.canvas_samples > 1 else "a random crop"
        words.append(f"Textures, {synthetic.canvas} times as high and wide as an image; networks see {crops} of each in a step.")
    words += [] if lossless else ["Compressed for this page; the exact images are in the run's synthetic.safetensors."]
    return " ".join(words)
