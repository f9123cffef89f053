"""What a format for distilled sets is: one file of this room each, listed in the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..evaluation import Scores
from ..synthetic import SyntheticSet


@dataclass(frozen=True)
class Format:
    """A way to write a distilled set for other programs."""

    name: str
    """What `--format` calls it."""
    text: str
    """One sentence: what is written, and who reads it."""
    write: Callable[[SyntheticSet, Scores | None, Path], None]
    """Writes the set, which is fit to be published, and its scores where there are any, into an empty folder. Packages that not everybody
    has are imported inside."""
