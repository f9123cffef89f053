"""A run folder: the names of its files, the checks before a run continues in it, and the process that writes to it."""

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
from .errors import InputError, flag_name
from .files import (
    NO_LOCKS,
    check_folder,
    check_regular,
    create_temporary,
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
"""A file in folders that `run --seeds` of an earlier version wrote: it lists their runs."""
FORMER = "former_settings"
DESCRIPTION = "data_read"
"""The key in provenance.json of the description of the data that were read."""
MOVED_AWAY = "move it away and run the same command again"
MOST_THREADS = 4096
"""Larger numbers of threads in a provenance.json were not written by this package."""
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
"""Settings that may change between two calls of one run. The data may move: their fingerprint shows that they are the
same."""


def sound_metric(line: Mapping[str, Any]) -> bool:
    """Whether a line of metrics.jsonl names its outer step, and has numbers where numbers are expected."""
    for name in ("loss", "lr", "validation"):
        if line.get(name) is not None:
            float(line[name])  # raises for anything but a number; 'nan' is one
    return _is_count(line.get("iteration"))


def sound_time(line: Mapping[str, Any]) -> bool:
    """Whether a line of clock.jsonl names what was timed, and how long it took."""
    peaks = [float(value) for name, value in line.items() if name.endswith("_mib")]
    named = isinstance(line.get("stage"), str) or _is_count(line.get("iteration"))
    return named and 0 <= float(line["seconds"]) < 1e12 and all(0 <= peak < 1e12 for peak in peaks)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


class Artefact:
    """One file or folder of a run: its path if accessed on a `RunDir`, its name if accessed on the class."""

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
    """A run folder, whether it exists or not. `RunDir(folder).metrics` is the path of its metrics, `RunDir.metrics`
    their file name.

    The folder of a further evaluation of a run's set is a `RunDir`, too, with the files of an evaluation.
    """

    config = Artefact("config.json")
    """The settings of the run; the first file that is written."""
    provenance = Artefact("provenance.json")
    """Versions, machine, arguments and the data's fingerprint, of every call that continued the run."""
    live = Artefact("live.json")
    """Progress of the process that is computing the run."""
    clock = Artefact("clock.jsonl")
    """Seconds of every stage and outer step, and peak memory."""
    metrics = Artefact("metrics.jsonl")
    """One line for each outer step."""
    state = Artefact("state.safetensors")
    """The state from which the distillation resumes."""
    synthetic = Artefact("synthetic.safetensors")
    """The distilled set."""
    best = Artefact("best.safetensors")
    """With validation: the best set so far by the held-out images."""
    last = Artefact("last.safetensors")
    """With validation: the set after the last outer step."""
    course = Artefact("course")
    """Folder of the images at a few iterations."""
    initialisation = Artefact("initialisation.safetensors")
    """The clusters from which the first images were chosen."""
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
    """The lock file of the process that writes to the folder."""
    writer = Artefact(".writer.json")
    """That process, and when it reserved the folder; touched regularly while the process runs."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def begun(self) -> bool:
        """Whether a run was started here that has no distilled set yet."""
        return self.config.exists() and not self.synthetic.exists()

    @property
    def not_finished(self) -> str:
        """The message about an unfinished run, for a command that needs its set."""
        return (
            f"The run in {self.folder} is not finished; the command that began it resumes it, and this shows its "
            f"progress: astdistill watch {shlex.quote(str(self.folder))}"
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
        """The frames that exist, in order."""
        return sorted(self.course.glob("*.safetensors"))

    def evaluation(self, *labels: str) -> Self:
        """The folder of a further evaluation; the `labels` in its name distinguish it from others."""
        return type(self)(self.folder / "-".join(("evaluation", *labels)).replace("/", "_").replace(":", "_"))

    def evaluated(self, name: str) -> list[Path]:
        """The files of that name from all evaluations of the set: the run's own first, then the latest first."""
        own_file = filter(Path.exists, [self.folder / name])
        later = sorted(self.folder.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime, reverse=True)
        return [*own_file, *later]

    def home(self) -> Self | None:
        """The run whose set was evaluated in this folder: this one, or the one around it; None if neither holds a
        set."""
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

        `about` describes the data that were read, for provenance.json.

        `read` converts the contents of an existing config.json to current names; `former` are settings in it that are
        no longer used, and that `former_settings` returns.

        More iterations, another evaluation or another place of data and experts continue the same run. Raises
        InputError, with nothing written, if the folder holds a run of other settings or data, a run with more
        iterations, or other files.
        """
        self.check_continued(settings, read)
        if self.config.exists():
            self._check_data(fingerprint)
        # The configuration is written first: it marks the folder as this run's, even if the process ends before the
        # next file.
        write_json(self.config, settings)
        former_entry = {FORMER: dict(former)} if former else {}
        data_entry = {DESCRIPTION: dict(about)} if about else {}
        self._add_provenance({**provenance(device), "data": fingerprint, **data_entry, **former_entry})

    def check_continued(
        self, settings: dict[str, Any], read: Callable[[Any], dict[str, Any]] = by_todays_names
    ) -> None:
        """Raise InputError, with nothing written, unless a run of these settings can begin in the folder or continue
        what it holds. `read` is that of `claim`."""
        check_folder(self.folder, "--out")
        if self.config.exists():
            self._check_settings(settings, read(read_json(self.config)))
            self._check_progress(settings)
        elif not self.empty:
            raise InputError(f"{self.folder} is not empty and holds no run; name a new folder with --out.")

    def check_free(self) -> None:
        """Raise InputError, with nothing written, if another process is writing to the folder."""
        owner = self._owner()
        if owner is not None and _WRITING.get(self._key) != _current_thread() and self.is_running(owner):
            raise self._busy_error(owner)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Reserve the folder for this thread during the block, and create it if it does not exist; inside such a block
        another one has no effect.

        Raises InputError, with nothing written, if another process or thread has reserved it. The temporary files of a
        killed process are removed. Writes to the folder in the block raise FolderGoneError once the folder has been
        deleted.
        """
        if _WRITING.get(self._key) == _current_thread():
            yield
            return
        self.check_free()
        with ExitStack() as stack:
            self._lock(stack)
            self._sign(stack)
            _WRITING[self._key] = _current_thread()
            stack.callback(_WRITING.pop, self._key, None)
            sweep(self.folder)
            for inner in self.folder.glob("*/"):
                sweep(inner)
            yield

    def _lock(self, stack: ExitStack) -> None:
        """Hold the folder's lock, if its file system has locks. Raises InputError if another process holds it."""
        try:
            held = stack.enter_context(lock(self.lock, wait=False))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            held = True
        if not held:
            raise self._busy_error(self._owner())
        stack.callback(self._unlock, os.getpid())

    def _unlock(self, process: int) -> None:
        """Remove the lock file while the lock is held; a process that was forked meanwhile does not."""
        if os.getpid() == process:
            self.lock.unlink(missing_ok=True)

    def _sign(self, stack: ExitStack) -> None:
        """Mark the folder as reserved by this process, with a file that only one process can create. Raises InputError
        if another process was faster, which can happen where locks have no effect."""
        self._remove_stale_mark()
        present, temporary = Owner.present(), create_temporary(self.writer)
        try:
            with naming(self.writer):
                temporary.write_text(json.dumps(present.to_json()), encoding="utf-8")
            try:
                os.link(temporary, self.writer)
            except FileExistsError:
                raise self._busy_error(self._owner()) from None
            except OSError as error:
                if error.errno not in (*NO_LOCKS, errno.EPERM):
                    raise
                temporary.replace(self.writer)
        finally:
            temporary.unlink(missing_ok=True)
        take(self.folder, self.writer)
        stop = threading.Event()
        heartbeat = threading.Thread(target=_touch, args=(self.writer, stop), daemon=True)
        heartbeat.start()
        stack.callback(self._unsign, present)
        stack.callback(heartbeat.join)
        stack.callback(stop.set)

    def _unsign(self, signed: Owner) -> None:
        """Undo `_sign`, unless another process has signed meanwhile or the folder is gone. Whole owners are compared:
        in containers every process may have the number 1."""
        give_back(self.folder)
        if signed.pid == os.getpid() and self._owner() == signed:  # not in a process that was forked meanwhile
            self.writer.unlink(missing_ok=True)

    def _remove_stale_mark(self) -> None:
        """Remove the mark of a process that has ended."""
        owner = self._owner()
        if owner is None:
            self.writer.unlink(missing_ok=True)
            return
        if self.is_running(owner):
            raise self._busy_error(owner)
        aside = create_temporary(self.writer)
        with suppress(FileNotFoundError):
            self.writer.replace(aside)
        if Owner.read(_parsed_or_none(aside)) != owner:  # another process was faster, and this is its file
            with suppress(OSError):
                os.link(aside, self.writer)
        aside.unlink(missing_ok=True)

    def _owner(self) -> Owner | None:
        """The process that signed last."""
        return Owner.read(_parsed_or_none(self.writer))

    def is_running(self, owner: Owner) -> bool:
        """Whether that process is running; if that cannot be known, whether the folder has its mark, and it has touched
        it recently."""
        alive, signed = owner.alive, self._owner()
        if alive is not None:
            return alive
        with suppress(OSError):
            marked = signed is not None and (signed.host, signed.pid) == (owner.host, owner.pid)
            return marked and time.time() - self.writer.stat().st_mtime < SILENT_S
        return False

    def _busy_error(self, owner: Owner | None) -> InputError:
        writer = "Another process"
        if owner is not None:
            writer = f"Another process ({owner})"
        return InputError(
            f"{writer} is writing to {self.folder}; wait until it has ended, follow it with astdistill watch "
            f"{self.folder}, or name another --out."
        )

    @property
    def _key(self) -> str:
        return str(self.folder.resolve())

    @property
    def former_settings(self) -> dict[str, Any]:
        """Settings of the version that started this run which are no longer used, but which identify its saved
        state."""
        first = read_json(self.provenance) if self.provenance.exists() else {}
        with reading(self.provenance, "where a run was made", MOVED_AWAY):
            former = [entry.get(FORMER, {}) for entry in (first, *first.get("resumed", []))]
            return {name: value for each in former for name, value in each.items()}

    def threads(self, processor: str) -> Threads | None:
        """The numbers of threads with which the run was started, if it was on that processor; None if it was on another
        one, or is not started yet."""
        try:
            machine = read_json(self.provenance)["machine"]
            counts = machine["threads"], machine.get(DIVIDED, machine["threads"])
            if machine["processor"] == processor and all(each in range(1, MOST_THREADS + 1) for each in counts):
                return Threads(*counts)
        except (OSError, InputError, KeyError, TypeError, ValueError, AttributeError):
            pass  # no run, or a damaged file, which `claim` reports
        return None

    @property
    def empty(self) -> bool:
        """Whether the folder does not exist, or holds nothing but files that are being written."""
        ignored = (RunDir.lock, RunDir.writer)
        return not self.folder.exists() or all(
            path.name in ignored or path.name.endswith(".tmp") for path in self.folder.iterdir()
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
                f"{now.get(name)!r}); {_old_flags(changed, before)}name a new folder with --out, or delete that one."
            )

    def _check_progress(self, settings: dict[str, Any]) -> None:
        if not self.state.exists():
            return
        header, requested = load_tensors(self.state)[1], settings["distill"]["iterations"]
        with reading(self.state, "the state of a run", "name a new folder with --out, or delete that one"):
            done = int(header["counters"]["iteration"])
        if done > requested:
            raise InputError(
                f"{self.folder} has {done} iterations already, {requested} were asked for; "
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
        """Record where the run was started, and each different environment in which it was resumed."""
        first = now | {"resumed": []}
        if self.provenance.exists():
            first = read_json(self.provenance)
        with reading(self.provenance, "where a run was made", MOVED_AWAY):
            recorded = [{name: entry.get(name) for name in now} for entry in (first, *first["resumed"])]
            if now not in recorded:
                first["resumed"].append(now)
        write_json(self.provenance, first)


BEAT_S, SILENT_S = 10.0, 60.0
"""Seconds between two touches of a process's file, and seconds without one after which a process that cannot be checked
counts as gone."""
_WRITING: dict[str, tuple[int, int]] = {}
"""The process and thread of this interpreter that is writing to a folder, by path."""


def _current_thread() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def _touch(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with suppress(OSError):
            os.utime(path)


def _parsed_or_none(path: Path) -> Any:
    with suppress(OSError, ValueError):
        check_regular(path)
        return parse_json(path.read_text(encoding="utf-8"))
    return None


def _old_flags(changed: Sequence[str], before: Mapping[str, Any]) -> str:
    """The flags that resume a run for which another version had other default numbers; "" if other settings differ."""
    numbers = {name: before.get(name) for name in changed}
    if not all(name.startswith("distill.") and type(value) in (int, float) for name, value in numbers.items()):
        return ""
    flags = (f"{flag_name(name)} {value}" for name, value in numbers.items())
    return f"resume with {' '.join(flags)}, "


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by their dotted names."""
    if isinstance(value, dict):
        return {name: leaf for key, inner in value.items() for name, leaf in flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}
