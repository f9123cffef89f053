"""How a run stands, from what is plain JSON in its folder: settings, progress, metrics. Nothing here imports torch, so
that `astdistill watch` starts at once."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ..runtime.config import by_todays_names
from ..runtime.errors import InputError
from ..runtime.files import read_json, read_lines
from ..runtime.provenance import as_shown
from ..runtime.run_dir import RunDir, sound_metric
from ..runtime.status import Status, alive, read_status


def read_if_there(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file."""
    if not path.exists():
        return {}
    return read_json(path)


@dataclass(frozen=True)
class ExpertProgress:
    """Finished experts, epochs of all of them, and each one's last test accuracy in percent."""

    finished: int
    count: int
    epochs: int
    of: int
    accuracies: tuple[float, ...]


def _sound_epoch(line: dict[str, Any]) -> bool:
    """Whether a line of a store's log says which expert was tested after which epoch."""
    return int(line["expert"]) >= 0 <= int(line["epoch"]) and 0 <= float(line["test_accuracy"]) <= 100


def expert_progress(folder: Path, config: dict[str, Any], data: str | None) -> ExpertProgress | None:
    """How far the experts are that the run in `folder`, of these settings and on the data of that fingerprint, takes;
    None where their store is not begun, or is not seen from here."""
    store = _store_of(folder, config, data)
    if store is None:
        return None
    count, each = int(config["experts"]["count"]), _epochs(config)
    last = {line["expert"]: line for line in read_lines(store / "log.jsonl", _sound_epoch) if line["expert"] < count}
    numbers = [int(path.stem) for path in store.glob("*.safetensors") if path.stem.isdigit()]
    # One that stopped early has its file, and is on its way to a later epoch where its rows are being written again.
    under_way = {int(path.parent.name.partition(".")[0]) for path in store.glob("*.partial/rows.bin")}
    finished = {number for number in numbers if number < count} - under_way
    epochs = len(finished) * each + sum(
        int(line["epoch"]) + 1 for expert, line in last.items() if expert not in finished
    )
    accuracies = tuple(float(last[expert]["test_accuracy"]) for expert in sorted(last))
    return ExpertProgress(len(finished), count, min(epochs, count * each), count * each, accuracies)


def _epochs(config: dict[str, Any]) -> int:
    """How many epochs each expert is trained for, which a run notes as a number."""
    stop, whole = config["experts"].get("stop_after"), int(config["method"]["expert"]["epochs"])
    if isinstance(stop, int):
        return stop
    return whole


def _store_of(folder: Path, config: dict[str, Any], data: str | None) -> Path | None:
    """The folder whose experts are of the recipe, network, data, seed and type that the run names."""
    wanted = {
        "recipe": config["method"]["expert"],
        "model": config["model"],
        "fingerprint": data,
        "seed": config["experts"]["seed"],
        "dtype": config["experts"]["dtype"],
    }
    # A relative store is meant from where the run was started, which is often a folder above the run's.
    for root in (Path(), *folder.resolve().parents):
        for recipe in sorted((root / config["experts"]["store"]).glob("*/recipe.json")):
            if recipe.parent.name == config["experts"].get("imported") or wanted.items() <= _identity(recipe).items():
                return recipe.parent
    return None


def _identity(recipe: Path) -> dict[str, Any]:
    """Whose experts a store says that it holds; empty where it cannot be read."""
    try:
        identity = read_json(recipe).get("identity", {})
    except InputError:
        return {}
    if isinstance(identity, dict):
        return identity
    return {}


@dataclass(frozen=True)
class LiveRun:
    """How the run in a folder stands; None or empty for what it has not. A file is read when it is first asked for, and
    once.

    Properties raise InputError for a file that holds something else than it should.
    """

    dir: RunDir
    name: str

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        """The reader of any folder, under its own name."""
        return cls(RunDir(folder), Path(folder).resolve().name)

    @cached_property
    def config(self) -> dict[str, Any]:
        return by_todays_names(read_if_there(self.dir.config))

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_lines(self.dir.metrics, sound_metric)

    @property
    def has_experts(self) -> bool:
        """Whether its method trains experts, as it does where the settings say nothing."""
        return self._method.get("expert", {}) is not None

    @property
    def _method(self) -> dict[str, Any]:
        return self.config.get("method") or {}

    @property
    def place(self) -> str:
        """The folder, as a page may name it."""
        return as_shown(self.dir.folder)

    def word(self, verb: str) -> str:
        """`astdistill VERB <this run>`, to be typed."""
        return shlex.join(["astdistill", verb, self.place])

    @cached_property
    def _live(self) -> tuple[Status | None, dict[str, Any]]:
        return read_status(self.dir.live) or (None, {})

    @property
    def status(self) -> Status | None:
        """What the process that is at work on it has last said of it."""
        return self._live[0]

    @property
    def process(self) -> dict[str, Any]:
        """That process: pid, host, command, and when it began."""
        return self._live[1]

    @property
    def running(self) -> bool:
        """Whether a process is at work on it, as far as can be told from here."""
        return self.status is not None and alive(self.process)

    @cached_property
    def finished(self) -> bool:
        """Whether the last process that was at it said that it is done."""
        return self.status is None and self.dir.synthetic.exists()

    @property
    def ended(self) -> bool:
        """Whether that process is done, or did not end well."""
        return self.finished or (self.status is not None and not self.running)

    @cached_property
    def expert_progress(self) -> ExpertProgress | None:
        """How far its experts are; None where their store is not begun, or not seen from here."""
        data = read_if_there(self.dir.provenance).get("data")
        if not self.has_experts:
            return None
        return expert_progress(self.dir.folder, self.config, data)
