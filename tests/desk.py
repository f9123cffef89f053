"""A short run on the digits, and the folder in which commands find it."""

from __future__ import annotations

import os
from pathlib import Path

TINY = (
    "--experts.count", "1", "--method.expert.epochs", "3", "--model", "convnet-d1-w4", "--distill.iterations", "3",
    "--method.step.max-start-epoch", "2", "--method.step.syn-steps", "4", "--evaluation.recipe.epochs", "2", "--evaluation.networks", "1",
    "--evaluation.baselines", "random", "--data.per-class", "6", "--quiet",
)  # fmt: skip
RUN = ("run", "digits-ipc1", *TINY)


def made_in(place: Path, *words: str) -> Path:
    """`place`, in which a command was given, which succeeds."""
    from astdistill.cli.main import main  # which imports torch, as this is imported before any test is chosen

    before = Path.cwd()
    os.chdir(place)
    try:
        assert main(words) == 0
    finally:
        os.chdir(before)
    return place


def contents() -> dict[Path, bytes]:
    """The files below the current folder."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
