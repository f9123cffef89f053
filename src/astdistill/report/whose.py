"""Whose scores those in a folder are: a run that goes on leaves another set beside the scores of the one before.

`scores.partial.json` names the images that every network has learned from. Nothing here imports torch, for `watch`.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Any

from ..runtime.errors import InputError
from ..runtime.files import check_regular, read_json
from ..runtime.run_dir import RunDir

NAMES = ("images", "targets", "lr")
"""The tensors of a set that networks learn from, in the order in which `evaluation.rows.content` takes them."""
DIGITS = 16
DTYPES = {"F16": "torch.float16", "BF16": "torch.bfloat16", "F32": "torch.float32", "F64": "torch.float64"}
LENGTH, RATE = Struct("<Q"), Struct("<f")
DAMAGED = (InputError, OSError, ValueError, KeyError, TypeError, AttributeError, StructError, OverflowError)
"""What reading a file raises that does not hold what it should: then nobody knows whose the scores are."""


@dataclass(frozen=True)
class Trained:
    """A network that was trained in a folder: its name, a digest of what it learned from, the seed of the draws, and
    what it reached."""

    model: str
    images: str
    seed: int
    final: float


def trained(evaluation: RunDir) -> list[Trained]:
    """The networks in `scores.partial.json`; none where there is no such file, or a damaged one."""
    networks: list[Trained] = []
    with suppress(*DAMAGED):
        for each in read_json(evaluation.networks)["networks"].values():
            about = each["about"]
            networks.append(Trained(about["model"], str(about["images"]), about.get("seed", 0), each["final"]))
    return networks


def outdated(evaluation: RunDir, sets: Sequence[Path]) -> bool:
    """Whether the scores in a folder are of another set than all of `sets`, as far as anybody can tell: each of its
    networks was trained there on something else. False where nobody says so, as beside scores of another program."""
    with suppress(*DAMAGED):
        scores = read_json(evaluation.scores)
        known, rows = trained(evaluation), scores["architecture"]
        marks = {mark for path in sets for mark in _marks(path, scores.get("rates") or {})}
        return bool(marks) and any(_of_others(name, row["final"], known, marks) for name, row in rows.items())
    return False


def _of_others(model: str, final: Iterable[float], known: Sequence[Trained], marks: set[str]) -> bool:
    """Whether these accuracies are those of networks that learned from none of the sets."""
    wanted, all_sets = set(final), [each for each in known if each.model == model]
    own = {each.final for each in all_sets if each.images[:DIGITS] in marks}
    return not wanted <= own and wanted <= {each.final for each in all_sets}


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


def _marks(path: Path, rates: Mapping[str, Any]) -> list[str]:
    """What `scores.partial.json` calls the set in a file, with its own learning rate and with those that a search chose
    for it; nothing for a file that is no set."""
    with suppress(*DAMAGED):
        stat = path.stat()
        found = [_best(each) for each in rates.values()]
        return list(_digests(path, (stat.st_size, stat.st_mtime_ns), tuple(found)))
    return []


def _best(searched: Mapping[str, Any]) -> float:
    """The learning rate that `SearchedRate.best` is."""
    means = [statistics.fmean(each) for each in searched["accuracies"]]
    return searched["rates"][means.index(max(means))]


@lru_cache(maxsize=64)
def _digests(path: Path, version: tuple[int, int], rates: tuple[float, ...]) -> tuple[str, ...]:
    """The digests of a file that was not changed since `version`, one for each learning rate."""
    check_regular(path)
    state = hashlib.sha256()
    with path.open("rb") as file:
        (length,) = LENGTH.unpack(file.read(LENGTH.size))
        header = json.loads(file.read(min(length, version[0])))
        whole = dict[str, tuple[bytes, bytes]]()
        for name in NAMES:
            first, last = header[name]["data_offsets"]
            file.seek(LENGTH.size + length + first)
            title = repr((tuple(header[name]["shape"]), DTYPES[header[name]["dtype"]])).encode()
            whole[name] = title, file.read(last - first)
    for name in NAMES[:-1]:
        state.update(b"".join(whole[name]))
    title, own = whole[NAMES[-1]]
    digests = []
    for rate in (own, *map(RATE.pack, rates)):
        with_rate = state.copy()
        with_rate.update(title + rate)
        digests.append(with_rate.hexdigest()[:DIGITS])
    return tuple(digests)
