"""What the files of a run say at one moment, whole or half written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError
from ..runtime.files import read_json, read_lines
from ..runtime.status import Status, alive, read_status

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Experts:
    """How far the experts of a run are: finished ones, epochs of all, and each one's last test accuracy in percent."""

    finished: int
    count: int
    epochs: int
    of: int
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class View:
    """A run folder; what is not there yet is None or empty."""

    folder: Path
    config: dict[str, Any]
    process: dict[str, Any]
    status: Status | None
    experts: Experts | None
    metrics: Lines
    scores: dict[str, Any]
    finished: bool

    @property
    def running(self) -> bool:
        """Whether a process is at work on it, as far as can be told from here."""
        return self.status is not None and alive(self.process)

    @property
    def ended(self) -> bool:
        """Whether the last process that was at it said that it is done, or did not end well."""
        return self.finished or (self.status is not None and not self.running)


def look(folder: Path) -> View | None:
    """The run in `folder`, or None where none has begun. Raises InputError for a folder of other things."""
    if not (folder / "config.json").exists():
        if folder.is_file() or (folder.is_dir() and any(not path.name.endswith(".tmp") for path in folder.iterdir())):
            raise InputError(f"{folder} holds no run; name the folder that a run writes to, such as runs/demo.")
        return None
    config = read_json(folder / "config.json")
    status, process = read_status(folder / "live.json") or (None, {})
    return View(
        folder=folder,
        config=config,
        process=process,
        status=status,
        experts=_experts(folder, config),
        metrics=read_lines(folder / "metrics.jsonl"),
        scores=_json(folder / "scores.json"),
        finished=status is None and (folder / "synthetic.safetensors").exists(),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except InputError:
        return {}


def _experts(folder: Path, config: dict[str, Any]) -> Experts | None:
    """The experts in the store that the run takes its own from, if that is begun and is seen from here."""
    found = _store(folder, config)
    if found is None:
        return None
    count, each = int(config["experts"]["count"]), _epochs(config)
    last = {line["expert"]: line for line in read_lines(found / "log.jsonl") if line["expert"] < count}
    finished = {
        int(path.stem) for path in found.glob("*.safetensors") if path.stem.isdigit() and int(path.stem) < count
    }
    # One that stopped early has its file, and is on its way to a later epoch where its rows are being written again.
    finished -= {int(path.parent.stem) for path in found.glob("*.partial/rows.bin")}
    epochs = len(finished) * each + sum(
        int(line["epoch"]) + 1 for expert, line in last.items() if expert not in finished
    )
    accuracies = tuple(float(last[expert]["test_accuracy"]) for expert in sorted(last))
    return Experts(len(finished), count, min(epochs, count * each), count * each, accuracies)


def _epochs(config: dict[str, Any]) -> int:
    """How many epochs each expert is trained for, which a run notes as a number."""
    stop, whole = config["experts"].get("stop_after"), int(config["method"]["expert"]["epochs"])
    return stop if isinstance(stop, int) else whole


def _store(folder: Path, config: dict[str, Any]) -> Path | None:
    """The folder whose experts are of the recipe, network, data, seed and type that the run names; None for a method
    without experts."""
    if config["method"]["expert"] is None:
        return None
    wanted = {
        "recipe": config["method"]["expert"],
        "model": config["model"],
        "fingerprint": _json(folder / "provenance.json").get("data"),
        "seed": config["experts"]["seed"],
        "dtype": config["experts"]["dtype"],
    }
    # A relative store is meant from where the run was started, which is often a folder above the run's.
    for root in (Path(), *folder.resolve().parents):
        for recipe in sorted((root / config["experts"]["store"]).glob("*/recipe.json")):
            identity = _json(recipe).get("identity", {})
            if recipe.parent.name == config["experts"].get("imported") or all(
                identity.get(name) == value for name, value in wanted.items()
            ):
                return recipe.parent
    return None


def finite(lines: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The finite values of `name`, in order."""
    values = [float(line[name]) for line in lines if line.get(name) is not None]
    return [value for value in values if math.isfinite(value)]


BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """`values` as at most `width` blocks of a height, each the median of its share; empty for none."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(place * len(values) / width) for place in range(width + 1)]
    medians = [statistics.median(values[first:last]) for first, last in pairwise(edges)]
    low, span = min(medians), max(medians) - min(medians)
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1)) if span > 0 else 0] for value in medians)
