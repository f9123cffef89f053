"""A run folder: what each file in it is called, and whose the folder is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, overload

from .config import by_todays_names
from .errors import InputError
from .files import check_folder, load_tensors, read_json, write_json
from .provenance import provenance

SEEDS = "seeds.json"
"""In a folder of whole runs that differ in their seed: what they reach together."""
FORMER = "former_settings"
DESCRIPTION = "data_read"
"""The part of provenance.json that says what was read of the data."""
FREE = (
    "data.source",
    "data.image_column",
    "data.label_column",
    "data.memory",
    "device",
    "engine",
    "distill.checkpoint_seconds",
    "distill.iterations",
    "distill.max_passes",
    "distill.max_skips",
    "distill.snapshots",
    "evaluation",
    "experts.stop_after",
    "experts.store",
    "published",
    "workers",
)
"""What may change between two calls of one run; that the data are the same wherever they lie is seen by their
fingerprint."""


class Artefact:
    """One file or folder of a run: its path on a `RunDir`, and its name on the class."""

    def __init__(self, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, run: None, owner: type[RunDir]) -> str: ...
    @overload
    def __get__(self, run: RunDir, owner: type[RunDir]) -> Path: ...
    def __get__(self, run: RunDir | None, owner: type[RunDir]) -> str | Path:
        if run is None:
            return self.name
        return run.folder / self.name


class RunDir:
    """A run folder, whether it is there yet or not. `RunDir(folder).metrics` is the path of its metrics,
    `RunDir.metrics` their file name.

    The folder of a further evaluation of a run's set is one too, with what an evaluation leaves.
    """

    config = Artefact("config.json")
    """The settings of the run; the first file that is written."""
    provenance = Artefact("provenance.json")
    """Versions, machine, arguments and the data's fingerprint, of every call that went on with the run."""
    live = Artefact("live.json")
    """What a process that is at work on the run is doing."""
    clock = Artefact("clock.jsonl")
    """Seconds of every stage and outer step, and peak memory."""
    metrics = Artefact("metrics.jsonl")
    """One line for each outer step."""
    state = Artefact("state.safetensors")
    """What the distillation goes on from."""
    synthetic = Artefact("synthetic.safetensors")
    """The distilled set."""
    best = Artefact("best.safetensors")
    """With validation: the best set so far by the held-out images."""
    last = Artefact("last.safetensors")
    """With validation: the set after the last outer step."""
    course = Artefact("course")
    """Folder of the images at a few iterations."""
    initialisation = Artefact("initialisation.safetensors")
    """The clusters that the first images were chosen from."""
    experts = Artefact("experts.json")
    """The curves of the experts that were followed, and of their relatives."""
    scores = Artefact("scores.json")
    """Accuracies of the set and of the baselines."""
    networks = Artefact("scores.partial.json")
    """Every evaluated network, by what it depends on."""
    ranking = Artefact("ranking.json")
    """DD-Ranking's scores."""
    continual = Artefact("continual.json")
    """Accuracies of class-incremental learning."""
    images = Artefact("images.png")
    """The distilled images as one picture."""
    curves = Artefact("curves.png")
    """Loss and learning rate."""
    textures = Artefact("textures")
    """Folder of pictures that can be tiled."""
    exports = Artefact("exports")
    """Folder of the set in other formats, one folder each."""
    page = Artefact("report.html")
    """Everything in one file to look at."""
    tensorboard = Artefact("tensorboard")
    """Folder of TensorBoard's logs."""
    wandb = Artefact("wandb")
    """Folder of the logs of Weights & Biases."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def around(cls, path: Path) -> Self:
        """The run folder `path`, or the one that the file `path` lies in."""
        if path.is_dir():
            return cls(path)
        return cls(path.parent)

    def frame(self, iteration: int) -> Path:
        """The images after `iteration` outer steps."""
        return self.course / f"{iteration:06d}.safetensors"

    def frames(self) -> list[Path]:
        """The frames that are there, in order."""
        return sorted(self.course.glob("*.safetensors"))

    def evaluation(self, *words: str) -> Self:
        """The folder of a further evaluation that `words` tell from others."""
        return type(self)(self.folder / "-".join(("evaluation", *words)).replace("/", "_").replace(":", "_"))

    def evaluated(self, name: str) -> list[Path]:
        """The files of that name which evaluations of the set have left: the run's own first, then the latest."""
        own = filter(Path.exists, [self.folder / name])
        later = sorted(self.folder.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime, reverse=True)
        return [*own, *later]

    def home(self) -> Self | None:
        """The run whose set an evaluation in this folder is of: this one, or the one around it; None where neither
        holds a set."""
        return next((each for each in (self, type(self)(self.folder.parent)) if each.synthetic.exists()), None)

    def claim(
        self,
        settings: dict[str, Any],
        fingerprint: str,
        device: str,
        read: Callable[[Any], dict[str, Any]] = by_todays_names,
        former: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Write config.json and provenance.json of a run on the data of `fingerprint`.

        `about` is what was read of the data, for provenance.json.

        `read` gives what a config.json that is there already says, by the names of today; `former` are settings in it
        that nothing reads any more, and that `former_settings` is to find.

        Asking for more iterations, another evaluation or another place of data and experts continues the same run.
        Raises InputError, with nothing written, when the folder holds a run of other settings or data, one that is
        further already, or other things.
        """
        check_folder(self.folder, "--out")
        if self.config.exists():
            self._check_settings(settings, read(read_json(self.config)))
            self._check_progress(settings)
            self._check_data(fingerprint)
        elif not self.empty:
            raise InputError(f"{self.folder} is not empty and holds no run; name a new folder with --out.")
        # The configuration comes first: a folder that holds it is known as this run's, whatever happens before the
        # next file.
        write_json(self.config, settings)
        noted = {FORMER: dict(former)} if former else {}
        described = {DESCRIPTION: dict(about)} if about else {}
        self._add_provenance({**provenance(device), "data": fingerprint, **described, **noted})

    @property
    def former_settings(self) -> dict[str, Any]:
        """Settings of the version that began this run, which nothing reads any more but its saved state is known by."""
        first = read_json(self.provenance) if self.provenance.exists() else {}
        found = (place.get(FORMER, {}) for place in (first, *first.get("resumed", [])))
        return {name: value for each in found for name, value in each.items()}

    @property
    def empty(self) -> bool:
        """Whether there is no such folder, or nothing in it but what is being written."""
        return not self.folder.exists() or all(path.name.endswith(".tmp") for path in self.folder.iterdir())

    def _check_settings(self, settings: dict[str, Any], written: dict[str, Any]) -> None:
        before, now = flat(written), flat(settings)
        changed = [
            name
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and not name.startswith(FREE)
        ]
        if changed:
            name = changed[0]
            raise InputError(
                f"{self.folder} holds a run with other settings ({name} was {before.get(name)!r}, now "
                f"{now.get(name)!r}); name a new folder with --out, or delete that one."
            )

    def _check_progress(self, settings: dict[str, Any]) -> None:
        if not self.state.exists():
            return
        done, wanted = load_tensors(self.state)[1]["counters"]["iteration"], settings["distill"]["iterations"]
        if done > wanted:
            raise InputError(
                f"{self.folder} has {done} iterations already, {wanted} were asked for; "
                f"ask for more, or name another --out."
            )

    def _check_data(self, fingerprint: str) -> None:
        if not self.provenance.exists():
            return
        before = read_json(self.provenance).get("data", fingerprint)
        if before != fingerprint:
            raise InputError(
                f"{self.folder} was run on other data (fingerprint {before}, now {fingerprint}); "
                f"name a new folder with --out."
            )

    def _add_provenance(self, now: dict[str, Any]) -> None:
        """Keep where the run began, and each different place where it was resumed."""
        first = now | {"resumed": []}
        if self.provenance.exists():
            first = read_json(self.provenance)
        known = [{name: place.get(name) for name in now} for place in (first, *first["resumed"])]
        if now not in known:
            first["resumed"].append(now)
        write_json(self.provenance, first)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by their dotted names."""
    if isinstance(value, dict):
        return {name: leaf for key, inner in value.items() for name, leaf in flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}
