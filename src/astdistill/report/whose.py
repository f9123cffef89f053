"""Whose scores those in a folder are: a run that goes on leaves another set beside the scores of the one before.

Nothing here imports torch, for `watch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from ..runtime.errors import InputError
from ..runtime.files import read_json, stated_digests
from ..runtime.run_dir import RunDir

DAMAGED = (InputError, OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a file raises that does not hold what it should: then nobody knows whose the scores are."""


def outdated(evaluation: RunDir, sets: Sequence[Path]) -> bool:
    """Whether the scores in a folder are of another set than all of `sets`. False where the files do not say so, as
    those of earlier versions."""
    with suppress(*DAMAGED):
        own = read_json(evaluation.scores)["subject"]["digests"].items()
        stated = list(filter(None, map(_stated, sets)))
        return bool(own and stated) and not any(own <= each.items() for each in stated)
    return False


def _stated(path: Path) -> dict[str, str]:
    """The digests that a file states; none for another program's, and for a damaged one."""
    with suppress(*DAMAGED):
        return stated_digests(path)
    return {}


def sets_of(evaluation: RunDir, run: RunDir) -> list[Path]:
    """The sets that scores in that folder of a run may be of: of its own folder the result alone, of a further
    evaluation any set of the run, as `last.safetensors`."""
    if evaluation.folder.resolve() == run.folder.resolve():
        return [run.synthetic]
    return sorted(run.folder.glob("*.safetensors"))


def current(run: RunDir) -> RunDir | None:
    """The evaluation of the set that lies in the run's folder now: the run's own, or else the latest; None where there
    is none."""
    found = (RunDir(path.parent) for path in run.evaluated(RunDir.scores))
    return next((each for each in found if not outdated(each, [run.synthetic])), None)


def said(folder: str | Path, again: str) -> str:
    """The sentence about scores that are of an earlier set; `again` is the command that evaluates the present one."""
    return f"The scores in {folder} are of an earlier set than the one in the run now; evaluate again with: {again}"
