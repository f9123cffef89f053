"""A run folder: what each file in it is called, whose the folder is, and which process writes to it."""

from __future__ import annotations

import errno
import json
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, overload

from .config import by_todays_names
from .errors import InputError
from .files import (
    NO_LOCKS,
    beside,
    check_folder,
    check_regular,
    give_back,
    load_tensors,
    lock,
    naming,
    parse_json,
    read_json,
    reading,
    sweep,
    take,
    write_json,
)
from .machine import Threads
from .owners import Owner
from .provenance import DIVIDED, provenance

SEEDS = "seeds.json"
"""In a folder that `run --seeds` of an earlier version wrote: which runs there are."""
FORMER = "former_settings"
DESCRIPTION = "data_read"
"""The part of provenance.json that says what was read of the data."""
MOVED_AWAY = "move it away and run the same command again"
MOST_THREADS = 4096
"""More than a provenance.json that says so was written by."""
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


def sound_metric(line: Mapping[str, Any]) -> bool:
    """Whether a line of metrics.jsonl says which outer step it is of, and numbers where numbers are due."""
    for name in ("loss", "lr", "validation"):
        if line.get(name) is not None:
            float(line[name])  # which raises where it is none; 'nan' is one
    return _counts(line.get("iteration"))


def sound_time(line: Mapping[str, Any]) -> bool:
    """Whether a line of clock.jsonl says what took how long."""
    peaks = [float(value) for name, value in line.items() if name.endswith("_mib")]
    named = isinstance(line.get("stage"), str) or _counts(line.get("iteration"))
    return named and 0 <= float(line["seconds"]) < 1e12 and all(0 <= peak < 1e12 for peak in peaks)


def _counts(value: Any) -> bool:
    return type(value) is int and value >= 0


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
    lock = Artefact(".writer.lock")
    """What the process that writes to the folder holds against others."""
    writer = Artefact(".writer.json")
    """Which process that is, and since when; touched again and again while it lives."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def begun(self) -> bool:
        """Whether a run was begun here that has no distilled set yet."""
        return self.config.exists() and not self.synthetic.exists()

    @property
    def not_finished(self) -> str:
        """The sentence about a run that was begun, for a verb that needs its set."""
        return (
            f"The run in {self.folder} is not finished; the command that began it continues it, and this shows how far "
            f"it is: astdistill watch {shlex.quote(str(self.folder))}"
        )

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

    def check_free(self) -> None:
        """Raise InputError, with nothing written, where another process is writing to the folder."""
        owner = self._owner()
        if owner is not None and _WRITING.get(self._key) != _here() and self._is_at_work(owner):
            raise self._busy(owner)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Have the folder for this thread alone while the block lasts, and make it if it is not there; within such a
        block another one changes nothing.

        Raises InputError, with nothing written, where another process or thread has it. Where a killed process had it,
        its temporary files are removed. What is written to the folder in the block raises FolderGoneError once the
        folder has been deleted.
        """
        if _WRITING.get(self._key) == _here():
            yield
            return
        self.check_free()
        with ExitStack() as stack:
            self._lock(stack)
            self._sign(stack)
            _WRITING[self._key] = _here()
            stack.callback(_WRITING.pop, self._key, None)
            sweep(self.folder)
            for inner in self.folder.glob("*/"):
                sweep(inner)
            yield

    def _lock(self, stack: ExitStack) -> None:
        """Hold the folder's lock, where its file system has locks. Raises InputError where somebody else holds it."""
        try:
            held = stack.enter_context(lock(self.lock, wait=False))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            held = True
        if not held:
            raise self._busy(self._owner())
        stack.callback(self._unlock, os.getpid())

    def _unlock(self, process: int) -> None:
        """Remove the lock's file, while it is held; a process that was forked meanwhile does not."""
        if os.getpid() == process:
            self.lock.unlink(missing_ok=True)

    def _sign(self, stack: ExitStack) -> None:
        """Say in the folder that it is this process's, by a file that one process alone can make. Raises InputError
        where another one has been faster, as happens where locks do nothing."""
        self._clear()
        temporary = beside(self.writer)
        try:
            with naming(self.writer):
                temporary.write_text(json.dumps(Owner.present().to_json()), encoding="utf-8")
            try:
                os.link(temporary, self.writer)
            except FileExistsError:
                raise self._busy(self._owner()) from None
            except OSError as error:
                if error.errno not in (*NO_LOCKS, errno.EPERM):
                    raise
                temporary.replace(self.writer)
        finally:
            temporary.unlink(missing_ok=True)
        take(self.folder, self.writer)
        stop = threading.Event()
        beat = threading.Thread(target=_touch, args=(self.writer, stop), daemon=True)
        beat.start()
        stack.callback(self._leave)
        stack.callback(beat.join)
        stack.callback(stop.set)

    def _leave(self) -> None:
        """Undo `_sign`, unless somebody else has signed meanwhile or the folder is gone."""
        give_back(self.folder)
        owner = self._owner()
        if owner is not None and owner.pid == os.getpid():
            self.writer.unlink(missing_ok=True)

    def _clear(self) -> None:
        """Remove what a process has left that is gone."""
        left = self._owner()
        if left is None:
            self.writer.unlink(missing_ok=True)
            return
        if self._is_at_work(left):
            raise self._busy(left)
        aside = beside(self.writer)
        with suppress(FileNotFoundError):
            self.writer.replace(aside)
        if Owner.read(_json(aside)) != left:  # another process has been faster, and this is its own
            with suppress(OSError):
                os.link(aside, self.writer)
        aside.unlink(missing_ok=True)

    def _owner(self) -> Owner | None:
        """Whoever has signed last."""
        return Owner.read(_json(self.writer))

    def _is_at_work(self, owner: Owner) -> bool:
        """Whether that process is there; for one of another machine, whether it has touched its file of late."""
        alive = owner.alive
        if alive is not None:
            return alive
        with suppress(OSError):
            return time.time() - self.writer.stat().st_mtime < SILENT_S
        return False

    def _busy(self, owner: Owner | None) -> InputError:
        who = "Another process"
        if owner is not None:
            who = f"Another process ({owner})"
        return InputError(
            f"{who} is writing to {self.folder}; wait until it has ended, follow it with astdistill watch "
            f"{self.folder}, or name another --out."
        )

    @property
    def _key(self) -> str:
        return str(self.folder.resolve())

    @property
    def former_settings(self) -> dict[str, Any]:
        """Settings of the version that began this run, which nothing reads any more but its saved state is known by."""
        first = read_json(self.provenance) if self.provenance.exists() else {}
        with reading(self.provenance, "where a run was made", MOVED_AWAY):
            former = [place.get(FORMER, {}) for place in (first, *first.get("resumed", []))]
            return {name: value for each in former for name, value in each.items()}

    def threads(self, processor: str) -> Threads | None:
        """The numbers of threads that the run was begun with on that processor; None where it was begun on another one,
        or not yet."""
        try:
            begun = read_json(self.provenance)["machine"]
            both = begun["threads"], begun.get(DIVIDED, begun["threads"])
            if begun["processor"] == processor and all(each in range(1, MOST_THREADS + 1) for each in both):
                return Threads(*both)
        except (OSError, InputError, KeyError, TypeError, ValueError, AttributeError):
            pass  # no run, or what claiming it will tell of
        return None

    @property
    def empty(self) -> bool:
        """Whether there is no such folder, or nothing in it but what is being written."""
        ours = (RunDir.lock, RunDir.writer)
        return not self.folder.exists() or all(
            path.name in ours or path.name.endswith(".tmp") for path in self.folder.iterdir()
        )

    def _check_settings(self, settings: dict[str, Any], written: dict[str, Any]) -> None:
        before, now = flat(written), flat(settings)
        changed = [
            name
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and not name.startswith(FREE)
        ]
        if changed:
            name = min(changed, key=lambda each: each != "method.name")  # on which the others depend
            raise InputError(
                f"{self.folder} holds a run with other settings ({name} was {before.get(name)!r}, now "
                f"{now.get(name)!r}); {_as_before(changed, before)}name a new folder with --out, or delete that one."
            )

    def _check_progress(self, settings: dict[str, Any]) -> None:
        if not self.state.exists():
            return
        header, wanted = load_tensors(self.state)[1], settings["distill"]["iterations"]
        with reading(self.state, "the state of a run", "name a new folder with --out, or delete that one"):
            done = int(header["counters"]["iteration"])
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
        with reading(self.provenance, "where a run was made", MOVED_AWAY):
            known = [{name: place.get(name) for name in now} for place in (first, *first["resumed"])]
            if now not in known:
                first["resumed"].append(now)
        write_json(self.provenance, first)


BEAT_S, SILENT_S = 10.0, 60.0
"""Seconds after which a process touches its file again, and after which one of another machine counts as gone."""
_WRITING: dict[str, tuple[int, int]] = {}
"""By path, the process and thread of this interpreter that is writing to a folder."""


def _here() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def _touch(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with suppress(OSError):
            os.utime(path)


def _json(path: Path) -> Any:
    with suppress(OSError, ValueError):
        check_regular(path)
        return parse_json(path.read_text(encoding="utf-8"))
    return None


def _as_before(changed: Sequence[str], before: Mapping[str, Any]) -> str:
    """The flags that go on with a run whose usual numbers another version has changed; "" where other things differ."""
    numbers = {name: before.get(name) for name in changed}
    if not all(name.startswith("distill.") and type(value) in (int, float) for name, value in numbers.items()):
        return ""
    flags = (f"--{name.replace('_', '-')} {value}" for name, value in numbers.items())
    return f"go on with {' '.join(flags)}, "


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by their dotted names."""
    if isinstance(value, dict):
        return {name: leaf for key, inner in value.items() for name, leaf in flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}
