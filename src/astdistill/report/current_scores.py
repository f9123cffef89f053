"""Checks which set the scores in a folder belong to. A run that is continued has a new set, but keeps the scores of the
earlier one.

Nothing here imports torch, because `watch` uses it.
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
"""Exceptions raised when a file does not have the expected content; it is then unknown which set the scores belong
to."""


def outdated(evaluation: RunDir, sets: Sequence[Path]) -> bool:
    """Whether the scores in a folder belong to none of `sets`. False if the files do not state it, as those of earlier
    versions."""
    with suppress(*DAMAGED):
        evaluated = read_json(evaluation.scores)["subject"]["digests"].items()
        known = list(filter(None, map(_read_digests, sets)))
        return bool(evaluated and known) and not any(evaluated <= each.items() for each in known)
    return False


def _read_digests(path: Path) -> dict[str, str]:
    """The digests that a file states; empty for a file of another program, and for a damaged one."""
    with suppress(*DAMAGED):
        return stated_digests(path)
    return {}


def sets_of(evaluation: RunDir, run: RunDir) -> list[Path]:
    """The sets that the scores in a folder of a run may belong to: in the run folder only the result, in another
    evaluation folder any set of the run, such as `last.safetensors`."""
    if evaluation.folder.resolve() == run.folder.resolve():
        return [run.synthetic]
    return sorted(run.folder.glob("*.safetensors"))


def current_evaluation(run: RunDir) -> RunDir | None:
    """The evaluation of the set that is in the run folder now: the one in the run folder, or else the latest; None if
    there is none."""
    found = (RunDir(path.parent) for path in run.evaluated(RunDir.scores))
    return next((each for each in found if not outdated(each, [run.synthetic])), None)


def outdated_message(folder: str | Path, again: str) -> str:
    """A message that scores belong to an earlier set; `again` is the command that evaluates the current one."""
    return f"The scores in {folder} are of an earlier set than the one in the run now; evaluate again with: {again}"
