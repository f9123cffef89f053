"""The formats that a distilled set can be exported in, by name, and the export itself."""

from __future__ import annotations

from pathlib import Path

from ..data.synthetic import SyntheticSet
from ..evaluation.scores import Scores
from ..runtime.errors import InputError, unknown
from ..runtime.files import new_folder
from .formats import MTT, NPZ, PNG, TORCH, Format
from .huggingface import HUGGINGFACE

FORMATS: dict[str, Format] = {each.name: each for each in (HUGGINGFACE, MTT, NPZ, PNG, TORCH)}


def export(synthetic: SyntheticSet, format: str, folder: str | Path, *, scores: Scores | None = None) -> Path:
    """Write `synthetic` into a folder as the files of `format`, all of them or none, without paths of this machine.

    Args:
        synthetic: The set to write.
        format: "huggingface", "mtt", "npz", "png" or "torch".
        folder: A new folder, or an empty one.
        scores: The set's figures, for formats that show some. None: it has none.

    Returns:
        The folder.

    Raises:
        InputError: For an unknown format, for a folder that is not empty, and for scores of another set.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if scores is not None and not scores.are_of(synthetic):
        raise InputError(
            "The scores are those of another distilled set; evaluate this one: astdistill evaluate runs/NAME"
        )
    with new_folder(Path(folder)) as temporary:
        published = synthetic.published()
        if not FORMATS[format].keeps_slots:
            published = published.decoded()
        FORMATS[format].write(published, scores, temporary)
    return Path(folder)
