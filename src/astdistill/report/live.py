"""The state of a run, from the plain JSON files in its folder: settings, progress, metrics. Nothing here imports torch,
so that `astdistill watch` starts at once."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ..runtime.config import by_todays_names
from ..runtime.errors import InputError
from ..runtime.files import read_json, read_lines
from ..runtime.provenance import display_path
from ..runtime.run_dir import RunDir, sound_metric
from ..runtime.status import Status, alive, read_status


def read_json_if_exists(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; empty if there is no such file."""
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


def _is_valid_epoch(line: dict[str, Any]) -> bool:
    """Whether a line of a store's log has a valid expert, epoch and test accuracy."""
    return int(line["expert"]) >= 0 <= int(line["epoch"]) and 0 <= float(line["test_accuracy"]) <= 100


def expert_progress(folder: Path, config: dict[str, Any], data: str | None) -> ExpertProgress | None:
    """Progress of the experts of the run in `folder`, with the settings `config`, on data with the fingerprint `data`;
    None if their store does not exist yet, or is not found."""
    store = _find_store(folder, config, data)
    if store is None:
        return None
    count, epochs_each = int(config["experts"]["count"]), _epochs_per_expert(config)
    last = {line["expert"]: line for line in read_lines(store / "log.jsonl", _is_valid_epoch) if line["expert"] < count}
    numbers = [int(path.stem) for path in store.glob("*.safetensors") if path.stem.isdigit()]
    # An expert that stopped early has a file; it is being trained further if its rows are being written again.
    under_way = {int(path.parent.name.partition(".")[0]) for path in store.glob("*.partial/rows.bin")}
    finished = {number for number in numbers if number < count} - under_way
    epochs = len(finished) * epochs_each + sum(
        int(line["epoch"]) + 1 for expert, line in last.items() if expert not in finished
    )
    accuracies = tuple(float(last[expert]["test_accuracy"]) for expert in sorted(last))
    return ExpertProgress(len(finished), count, min(epochs, count * epochs_each), count * epochs_each, accuracies)


def _epochs_per_expert(config: dict[str, Any]) -> int:
    """The number of epochs that each expert is trained for, which a run saves as a number."""
    stop, recipe_epochs = config["experts"].get("stop_after"), int(config["method"]["expert"]["epochs"])
    if isinstance(stop, int):
        return stop
    return recipe_epochs


def _find_store(folder: Path, config: dict[str, Any], data: str | None) -> Path | None:
    """The folder whose experts have the recipe, network, data, seed and dtype of the run; None if it is not found."""
    identity = {
        "recipe": config["method"]["expert"],
        "model": config["model"],
        "fingerprint": data,
        "seed": config["experts"]["seed"],
        "dtype": config["experts"]["dtype"],
    }
    # A relative path is relative to the folder where the run was started, which is often a parent of the run folder.
    for root in (Path(), *folder.resolve().parents):
        for recipe in sorted((root / config["experts"]["store"]).glob("*/recipe.json")):
            if (
                recipe.parent.name == config["experts"].get("imported")
                or identity.items() <= _read_identity(recipe).items()
            ):
                return recipe.parent
    return None


def _read_identity(recipe: Path) -> dict[str, Any]:
    """The identity of the experts in a store; empty if it cannot be read."""
    try:
        identity = read_json(recipe).get("identity", {})
    except InputError:
        return {}
    if isinstance(identity, dict):
        return identity
    return {}


@dataclass(frozen=True)
class LiveRun:
    """The state of the run in a folder; properties are None or empty for what it does not have. Each file is read once,
    when it is first needed.

    Properties raise InputError for a file with unexpected content.
    """

    dir: RunDir
    name: str

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        """The reader of any folder, with the name of that folder."""
        return cls(RunDir(folder), Path(folder).resolve().name)

    @cached_property
    def config(self) -> dict[str, Any]:
        return by_todays_names(read_json_if_exists(self.dir.config))

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_lines(self.dir.metrics, sound_metric)

    @property
    def has_experts(self) -> bool:
        """Whether its method trains experts; True if the settings do not state it."""
        return self._method.get("expert", {}) is not None

    @property
    def _method(self) -> dict[str, Any]:
        return self.config.get("method") or {}

    @property
    def display_path(self) -> str:
        """The folder, as a page may show it."""
        return display_path(self.dir.folder)

    def command_for(self, verb: str) -> str:
        """The command `astdistill VERB <this run>`."""
        return shlex.join(["astdistill", verb, self.display_path])

    @cached_property
    def _live(self) -> tuple[Status | None, dict[str, Any]]:
        return read_status(self.dir.live) or (None, {})

    @property
    def status(self) -> Status | None:
        """The last status that the process of the run has written."""
        return self._live[0]

    @property
    def process(self) -> dict[str, Any]:
        """The process of the run, as `read_status` returns it."""
        return self._live[1]

    @property
    def running(self) -> bool:
        """Whether a process works on the run, as far as this machine can find out."""
        return self.status is not None and alive(self.process, self.dir)

    @cached_property
    def finished(self) -> bool:
        """Whether the last process of the run has reported that it is done."""
        return self.status is None and self.dir.synthetic.exists()

    @property
    def ended(self) -> bool:
        """Whether the last process of the run is done, or has failed."""
        return self.finished or (self.status is not None and not self.running)

    @cached_property
    def expert_progress(self) -> ExpertProgress | None:
        """Progress of its experts; None if their store does not exist yet, or is not found."""
        data = read_json_if_exists(self.dir.provenance).get("data")
        if not self.has_experts:
            return None
        return expert_progress(self.dir.folder, self.config, data)
