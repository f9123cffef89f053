"""The reader of run folders, finished or in progress, that the page, comparisons and `watch` use."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ..data.description import Description
from ..data.synthetic import SyntheticSet
from ..distillation.snapshots import Frame, StartMap, read_course
from ..evaluation.continual import Continual
from ..evaluation.dd_ranking import Ranking
from ..evaluation.scores import Published, RowScores, Scores, read_as
from ..methods.matching import FinalMatchingLoss, IntermediateMatchingLoss, NearestMatchingLoss
from ..methods.method import Method
from ..methods.outer_step import OF_EXPERTS, OuterStep, TrajectoryMatching
from ..runtime.config import find_component
from ..runtime.errors import InputError
from ..runtime.files import read_lines
from ..runtime.provenance import display_path
from ..runtime.run_dir import DESCRIPTION, RunDir, sound_time
from .current_scores import outdated, outdated_message, sets_of
from .experts import StoreCurves, read_experts
from .live import LiveRun, read_json_if_exists

Value = TypeVar("Value")
MARKS = (RunDir.config, RunDir.synthetic, RunDir.metrics, RunDir.state)
"""A folder with one of these files is a run."""


@dataclass(frozen=True)
class RunReader(LiveRun):
    """All contents of a run folder, including its images and scores; properties are None or empty for what it does not
    have."""

    @cached_property
    def provenance(self) -> dict[str, Any]:
        entries = read_json_if_exists(self.dir.provenance)
        if not entries and self.synthetic is not None:
            entries = self.synthetic.provenance
        if invalid := _invalid_entry(entries):
            raise InputError(
                f"{self.dir.folder} has provenance with an invalid '{invalid}'; restore its provenance.json, or "
                "move it away."
            )
        return entries

    @cached_property
    def description(self) -> Description | None:
        """The description of the data; None for runs of earlier versions, and for sets without a run."""
        saved = read_json_if_exists(self.dir.provenance).get(DESCRIPTION)
        if saved is None:
            return None
        return read_as(Description, saved, self.dir.provenance, "what was read of the data")

    @cached_property
    def synthetic(self) -> SyntheticSet | None:
        if not self.dir.synthetic.exists():
            return None
        return SyntheticSet.load(self.dir.synthetic)

    @cached_property
    def clock(self) -> list[dict[str, Any]]:
        return read_lines(self.dir.clock, sound_time)

    @cached_property
    def evaluations(self) -> dict[str, Scores]:
        """Evaluations of the set by the name of their folder, first the main one; those of an earlier set are left
        out."""
        read = self._read_evaluations(RunDir.scores, Scores.read)
        return {name: scores for name, scores in read.items() if scores.architecture}

    @cached_property
    def outdated(self) -> dict[str, str]:
        """A message for each evaluation of an earlier set than the current one, by the name of its folder."""
        found = [RunDir(path.parent) for path in self.dir.evaluated(RunDir.scores)]
        return {
            each.folder.name: outdated_message(display_path(each.folder), self.command_for("evaluate"))
            for each in found
            if outdated(each, sets_of(each, self.dir))
        }

    @property
    def scores(self) -> Scores | None:
        """The evaluation in the run folder, or else the latest one; None if there is none."""
        return next(iter(self.evaluations.values()), None)

    @property
    def other_scores(self) -> dict[str, Scores]:
        """Further evaluations of the same set."""
        return dict(list(self.evaluations.items())[1:])

    @cached_property
    def ranking(self) -> dict[str, Ranking]:
        """DD-Ranking scores by the name of the evaluation's folder."""
        return self._read_evaluations(RunDir.ranking, Ranking.read)

    @cached_property
    def arriving(self) -> dict[str, Continual]:
        """Class-incremental learning results by the name of the evaluation's folder."""
        return self._read_evaluations(RunDir.continual, Continual.read)

    def _read_evaluations(self, name: str, read: Callable[[Path], Value]) -> dict[str, Value]:
        """Read the files called `name` of the evaluations of the current set, by the name of their folder."""
        paths = [path for path in self.dir.evaluated(name) if path.parent.name not in self.outdated]
        return {path.parent.name: read(path) for path in paths}

    @cached_property
    def frames(self) -> list[Frame]:
        """The snapshots of the images, up to and including the saved set."""
        snapshots, synthetic = read_course(self.dir.folder), self.synthetic
        if synthetic is None:
            return snapshots
        last = synthetic.provenance.get("iteration")
        if last is None:
            last = max((frame.iteration + 1 for frame in snapshots), default=0)
        last = int(last)
        return [frame for frame in snapshots if frame.iteration < last] + [Frame.of(synthetic, last)]

    @cached_property
    def start(self) -> StartMap | None:
        return StartMap.read(self.dir.folder)

    @cached_property
    def experts(self) -> StoreCurves | None:
        """The curves of the experts that were used."""
        return read_experts(self.dir.folder)

    @property
    def published(self) -> Published:
        """The published accuracy that the run is compared with."""
        return Published.model_validate(self.config.get("published") or {})

    @property
    def entry(self) -> RowScores | None:
        """The scores of the first network."""
        if self.scores is None:
            return None
        return next(iter(self.scores.architecture.values()), None)

    @property
    def ending(self) -> str:
        """Caption of the last frame: the end of the run, or the set that was chosen on held-out images."""
        if self.dir.last.exists():
            return "chosen on held-out images"
        return "final"

    @property
    def method(self) -> str:
        name = self._method.get("name")
        if self.synthetic is not None:
            name = self.synthetic.method
        return name or "unknown method"

    @property
    def step(self) -> type[OuterStep]:
        """The class of its outer steps; `OuterStep` if it is unknown, for example because its package is not
        installed."""
        return self._step_and_error[0]

    @property
    def ignores(self) -> tuple[str, ...]:
        """Settings, or prefixes of their names, that its method does not read, as far as they are known."""
        if self.step.needs_experts or self._method.get("expert") is not None:
            return self.step.ignores
        return (*self.step.ignores, *OF_EXPERTS)

    @property
    def step_refused(self) -> str:
        """Why the class of the outer steps is unknown, in one sentence; '' if it is known."""
        return self._step_and_error[1]

    @cached_property
    def _step_and_error(self) -> tuple[type[OuterStep], str]:
        settings = self._method.get("step")
        if settings is None:
            return TrajectoryMatching, ""
        try:
            kind = find_component(str(settings["part"]))
        except InputError as error:
            return OuterStep, str(error)
        except (KeyError, TypeError):
            return OuterStep, f"{self.dir.config} does not name the outer step."
        if isinstance(kind, type) and issubclass(kind, OuterStep):
            return kind, ""
        return OuterStep, f"{self.dir.config} names an unknown outer step, '{settings['part']}'."

    @cached_property
    def unmoved(self) -> float | None:
        """The loss of a student that does not move; None if it is unknown."""
        if not self._method:
            return None
        with suppress(ValueError):  # settings of components from a package that may not be installed
            return unmoved_loss(Method.model_validate(self._method))
        return None

    @property
    def seconds(self) -> float:
        """Seconds of all stages, over all calls; 0 if they were not recorded."""
        return sum(float(line["seconds"]) for line in self.clock if "stage" in line)

    @property
    def date(self) -> datetime | None:
        """When its last stage ended, in UTC; None for runs of earlier versions."""
        times = [datetime.fromisoformat(str(line["ended"])) for line in self.clock if "ended" in line]
        return max(times, default=None)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data; '' if it is unknown."""
        fingerprint = str(self.provenance.get("data") or "")
        if not fingerprint and self.synthetic is not None:
            fingerprint = self.synthetic.fingerprint
        return fingerprint

    @property
    def learns_lr(self) -> bool:
        """Whether η was learned; True if the settings do not state it. Raises InputError if they are damaged."""
        learned = self._method.get("learn", ["lr"])
        if not isinstance(learned, list | tuple):
            raise InputError(f"{self.dir.config} has method.learn {learned!r}, which is no list of names.")
        return "lr" in learned


def unmoved_loss(method: Method) -> float | None:
    """The matching loss of a student that stays at the start of its segment; None for losses of another kind."""
    if not isinstance(method.step, TrajectoryMatching):
        return None
    if isinstance(method.loss, FinalMatchingLoss | NearestMatchingLoss):
        return 1.0
    if not isinstance(method.loss, IntermediateMatchingLoss):
        return None
    epochs = method.step.expert_epochs
    return {"one": float(epochs), "adaptive": (epochs + 1) / 2}[method.loss.beta]


def read_run(folder: str | Path) -> RunReader:
    """The run in `folder`. Raises InputError with one sentence if there is none."""
    folder = Path(folder)
    if any((folder / mark).exists() for mark in MARKS):
        return RunReader.of(folder)
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}; name a run, for example runs/demo, or make one with: astdistill demo"
        )
    inside = sorted({path.parent for mark in MARKS for path in folder.glob(f"*/{mark}")})
    if inside:
        raise InputError(
            f"{folder} is no run but holds some; name them: {shlex.join(['astdistill', 'report', *map(str, inside)])}"
        )
    raise InputError(
        f"{folder} holds no run (no config.json, no synthetic.safetensors); "
        "make one with: astdistill run PRESET --out FOLDER"
    )


def unique_names(runs: Sequence[tuple[str, Path]]) -> list[str]:
    """The names of runs, given with their folders; where several share a name, the path from the folder that holds
    all of them."""
    names, folders = [name for name, _ in runs], [folder.resolve() for _, folder in runs]
    parent = os.path.commonpath(folders)
    paths = [folder.relative_to(parent).as_posix() for folder in folders]
    return [path if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)]


def _invalid_entry(provenance: dict[str, Any]) -> str:
    """The name of an entry of a provenance that has the wrong type; '' if all are valid."""
    kinds = {"arguments": list, "resumed": list, "machine": dict, "versions": dict, "settings": dict, "step": dict}
    for name, kind in kinds.items():
        value = provenance.get(name)
        if value is not None and not isinstance(value, kind):
            return name
    arguments = provenance.get("arguments") or []
    return "arguments" * any(not isinstance(argument, str) for argument in arguments)
