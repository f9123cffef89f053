"""A store whose experts are objects in the cloud: trained in a folder of this machine, put whole, read by range."""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import torch

from ..runtime.errors import InputError
from ..runtime.files import (
    DIGESTS,
    beside,
    cache_folder,
    load_tensors,
    parse_json,
    reading,
    remove_folder,
    save_tensors,
    warn,
)
from ..runtime.objects import GoneError, Objects, Url
from ..runtime.shapes import Rows
from .partial import ENDING, MEND, PartialTrajectory, folders, published_rows, state_epochs, stored_rows

SAVE_S = 180.0
"""Seconds of training between two objects of a half-trained expert."""
FRESH_S = 1.0
"""Seconds for which a list of the objects counts as new where other processes may have put some."""
HEADER = 64 * 1024
"""Bytes that are read of an object for its header, in one request; one of 500 epochs has 60,000."""
MOST_HEADER = 100_000_000
"""Bytes of a header, as safetensors allows."""
TYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
EXPERT = re.compile(r"(?P<expert>[0-9]{3,})(-(?P<epochs>[0-9]{4,}))?\.safetensors")
"""The object of an expert that has every epoch of its recipe, or as many as the name says."""
STATE = re.compile(r"(?P<expert>[0-9]{3,})\.partial/(?P<epochs>[0-9]{4,})\.safetensors")
"""What an expert is trained on from: the optimiser's state after so many epochs, and the rows up to there."""
ROWS = "rows"


def scratch_of(folder: Path) -> Path:
    """Where files are written that belong to a store, or to a folder of stores: there, or for an address a folder of
    this machine's cache."""
    if not isinstance(folder, Url):
        return folder
    return cache_folder() / "stores" / f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


class CloudFiles:
    """The files of the store at an address; see `LocalFiles`, whose methods these are.

    No object is ever put over another. A list of the objects is kept: experts that others add later are not seen by
    those who only read. What is being written lies in `scratch`.
    """

    def __init__(self, folder: Url) -> None:
        self.folder, self.scratch = folder, scratch_of(folder)
        self.objects = Objects(folder)
        self._sizes: dict[str, int] = {}
        self._listed = -math.inf
        self._tensors: dict[str, RemoteTensors] = {}
        self._saved: dict[int, tuple[float, int]] = {}
        """By expert, when its state was put last, and after how many epochs."""
        self._ahead = ReadAhead()

    def __reduce__(self) -> tuple[type[CloudFiles], tuple[Url]]:
        return CloudFiles, (self.folder,)

    def described(self, *names: str) -> bool:
        listed = self._names(FRESH_S)
        return all(name in listed for name in names)

    def describe(self, names: Iterable[str], write: Callable[[Path], None]) -> None:
        Objects(self.folder.parent).check()
        with tempfile.TemporaryDirectory(prefix="astdistill-") as folder:
            write(Path(folder))
            for name in names:
                self._put(name, Path(folder, name).read_bytes())

    def stores(self, name: str) -> list[Path]:
        listed = self.objects.sizes()
        holding = {each.rpartition("/")[0] for each in listed if each.endswith(f"/{name}")}
        return [self.folder / each for each in sorted(holding) if "/" not in each]

    def file(self, name: str) -> AbstractContextManager[Path]:
        return self.objects.brought(name)

    def numbers(self) -> list[int]:
        return sorted({int(each["expert"]) for name in self._names() if (each := EXPERT.fullmatch(name))})

    def has(self, expert: int) -> bool:
        return any(int(each["expert"]) == expert for name in self._names(FRESH_S) if (each := EXPERT.fullmatch(name)))

    def path(self, expert: int) -> Path:
        return self.folder / self._name(expert)

    def opened(self, expert: int) -> RemoteTensors:
        return self._open(self._name(expert))

    def _names(self, age: float = math.inf) -> Mapping[str, int]:
        """The objects with their bytes, by a list that is at most `age` seconds old."""
        if time.monotonic() - self._listed >= age:
            self._sizes, self._listed = self.objects.sizes(), time.monotonic()
        return self._sizes

    def _name(self, expert: int) -> str:
        """The name of the object that holds the most epochs of an expert."""
        plain = f"{expert:03d}.safetensors"
        known = [each for name in self._names() if (each := EXPERT.fullmatch(name)) and int(each["expert"]) == expert]
        if len(known) < 2:
            return next((each[0] for each in known), plain)
        return max(known, key=lambda each: int(each["epochs"] or self._epochs(each[0])))[0]

    def _epochs(self, name: str) -> int:
        """How many epochs an object of an expert holds."""
        return self._open(name).get_slice(ROWS).get_shape()[0] - 1

    def _open(self, name: str) -> RemoteTensors:
        if name not in self._tensors:
            path = self.folder / name

            def read(start: int, stop: int) -> bytes:
                return self._ahead.read(name, start, stop, lambda: self.objects.read(name, start, stop))

            self._tensors[name] = RemoteTensors(path, read)
        return self._tensors[name]

    def _put(self, name: str, data: bytes) -> bool:
        done = self.objects.put(name, data)
        self._sizes[name] = len(data)
        return done

    def _remove(self, names: Iterable[str]) -> None:
        """Remove objects that are of no more use; without the right to, they stay."""
        for name in list(names):
            with suppress(InputError):
                self.objects.remove(name)
            self._sizes.pop(name, None)

    def _states(self, expert: int) -> dict[int, str]:
        """The saved states of an expert, by the epochs after which they were."""
        each = [state for name in self._names(FRESH_S) if (state := STATE.fullmatch(name))]
        return {int(state["epochs"]): state[0] for state in each if int(state["expert"]) == expert}

    def read_ahead(self, draw: Callable[[], object]) -> None:
        self._ahead.begin(draw)

    def check_writable(self) -> None:
        Objects(self.folder.parent).check_writable()

    def fetch(self, expert: int, whole: int) -> None:
        self._saved[expert] = time.monotonic(), 0
        if (file := self._file(expert)).exists():
            self._leftover(expert, file, whole)
        try:
            self._fetch_state(expert)
        except GoneError:  # another process has put a later one meanwhile, and removed this
            self._listed = -math.inf
            self._fetch_state(expert)

    def _file(self, expert: int) -> Path:
        return self.scratch / f"{expert:03d}.safetensors"

    def _free(self, expert: int) -> Path:
        return self.scratch / f"{expert:03d}{ENDING}"

    def _leftover(self, expert: int, file: Path, whole: int) -> None:
        """Put a trajectory that a call had not yet put when it was stopped."""
        if not self.has(expert) or self._epochs(self._name(expert)) < published_rows(file) - 1:
            self.publish(expert, whole, self._free(expert))
        else:
            file.unlink()

    def _fetch_state(self, expert: int) -> None:
        """Make a folder of a half-trained expert from its latest state, as `PartialTrajectory` leaves one, unless one
        that is as far is there. A state without rows has them in the object of the expert."""
        states = self._states(expert)
        best = max(states, default=0)
        if best <= max(map(state_epochs, folders(self.scratch, expert)), default=0):
            return
        with self.objects.brought(states[best]) as state:
            tensors, header = load_tensors(state, mend=MEND)
        rows = tensors.pop(ROWS, None)
        folder = beside(self._free(expert), folder=True)
        save_tensors(folder / "state.safetensors", tensors, header)
        if rows is not None:
            (folder / "rows.bin").write_bytes(rows.numpy().astype("<f4").tobytes())
        else:
            self._file(expert).write_bytes(self.objects.whole(self._name(expert)))
        remove_folder(self._free(expert))
        folder.rename(self._free(expert))
        self._saved[expert] = time.monotonic(), best

    @contextmanager
    def at_work(self, partial: PartialTrajectory) -> Iterator[None]:
        try:
            yield
        except BaseException:  # an error, or a signal that ends the process
            with suppress(InputError, OSError):
                self.save(partial, at_once=True)
            raise

    def save(self, partial: PartialTrajectory, at_once: bool = False) -> None:
        expert = partial.expert
        when, before = self._saved[expert]
        epochs = state_epochs(partial.folder)
        if epochs > before and (at_once or time.monotonic() - when >= SAVE_S):
            self._put_state(expert, partial.folder, stored_rows(partial.rows, partial.parameters)[: epochs + 1])
            self._saved[expert] = time.monotonic(), epochs

    def _put_state(self, expert: int, folder: Path, rows: Rows | None) -> None:
        """Put what an expert is trained on from, with its rows so far where no object has them; states of fewer epochs
        go."""
        tensors, header = load_tensors(folder / "state.safetensors", mend=MEND)
        epochs = int(header["epochs"])
        if rows is not None:
            tensors[ROWS] = rows
        with tempfile.TemporaryDirectory(prefix="astdistill-") as place:
            file = Path(place, "state.safetensors")
            save_tensors(file, tensors, header, by_row=[ROWS] * (rows is not None))
            self._put(f"{expert:03d}{ENDING}/{epochs:04d}.safetensors", file.read_bytes())
        self._remove(name for each, name in self._states(expert).items() if each < epochs)

    def publish(self, expert: int, whole: int, folder: Path) -> None:
        file = self._file(expert)
        with suppress(FileNotFoundError):  # another process of this machine has put it
            data = file.read_bytes()
            ours = RemoteTensors(file, lambda start, stop: data[start:stop])
            epochs = ours.get_slice(ROWS).get_shape()[0] - 1
            name = f"{expert:03d}-{epochs:04d}.safetensors"
            if epochs == whole and not self._shorter(file.name, epochs):
                name = file.name
            if not self._put(name, data):
                self._tell_kept(expert, name, ours)
            if epochs == whole:
                self._remove(self._states(expert).values())
            elif state_epochs(folder) == epochs:
                self._put_state(expert, folder, None)
            file.unlink()
            remove_folder(folder)

    def _shorter(self, name: str, epochs: int) -> bool:
        """Whether there is an object of that name with fewer epochs, as in a store that was copied from a folder."""
        return name in self._names(FRESH_S) and self._epochs(name) < epochs

    def _tell_kept(self, expert: int, name: str, ours: RemoteTensors) -> None:
        """Say whose expert stays where another process has put one first."""
        bits = "other bits than this one"
        if self._open(name).metadata().get(DIGESTS) == ours.metadata().get(DIGESTS):
            bits = "the same bits as this one"
        warn(f"Expert {expert} was put by another process first; {self.folder / name} stays, with {bits}.")

    def tidy(self, finished: Iterable[int]) -> None:
        done = set(finished)
        states = [each for name in self._names() if (each := STATE.fullmatch(name))]
        self._remove([each[0] for each in states if int(each["expert"]) in done])


class ReadAhead:
    """Parts of objects that a thread reads before they are asked for."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._read: dict[tuple[str, int, int], bytes] = {}
        self._under_way: Future[None] | None = None
        self._inside = threading.local()

    def begin(self, draw: Callable[[], object]) -> None:
        """Let a thread call `draw`, and keep what it reads until the next time."""
        self._wait()
        self._read.clear()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="astdistill-ahead")
        self._under_way = self._thread.submit(self._drawn, draw)

    def _drawn(self, draw: Callable[[], object]) -> None:
        self._inside.now = True
        with suppress(Exception):  # whoever asks for it gets the error
            draw()

    def _wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None

    def read(self, name: str, start: int, stop: int, read: Callable[[], bytes]) -> bytes:
        """What was read ahead, once; otherwise `read()`."""
        if getattr(self._inside, "now", False):
            self._read[name, start, stop] = data = read()
            return data
        self._wait()
        data = self._read.pop((name, start, stop), None)
        if data is None:
            return read()
        return data


class RemoteTensors:
    """A safetensors object as `safe_open` gives a file: its header is read at once, the rest when it is asked for.

    Raises InputError where the header is none.
    """

    def __init__(self, path: Path, read: Callable[[int, int], bytes]) -> None:
        self.path, self.read = path, read
        head = read(0, HEADER)
        self.start = 8 + int.from_bytes(head[:8], "little")
        with reading(path, "a whole trajectory", MEND):
            if not 8 < self.start <= MOST_HEADER:
                raise ValueError("it does not begin like a safetensors file")
            if len(head) == HEADER < self.start:
                head += read(HEADER, self.start)
            self.header = dict(parse_json(head[8 : self.start]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""

    def metadata(self) -> dict[str, str]:
        return self.header.get("__metadata__", {})

    def get_slice(self, name: str) -> RemoteRows:
        with reading(self.path, "a whole trajectory", MEND):
            return RemoteRows(self, self.header[name])


class RemoteRows:
    """A tensor of such an object, of which rows are read by one range."""

    def __init__(self, tensors: RemoteTensors, about: Mapping[str, Any]) -> None:
        self.tensors, self.type = tensors, str(about["dtype"])
        self.kind = TYPES[self.type]
        self.shape = [int(size) for size in about["shape"]]
        self.begin, self.end = map(int, about["data_offsets"])
        if not self.shape or min(*self.shape, self.begin) < 0:
            raise ValueError("no tensor has such a shape or place")

    def get_shape(self) -> list[int]:
        return self.shape

    def get_dtype(self) -> str:
        return self.type

    def __getitem__(self, rows: slice) -> Rows:
        """Rows `start` … `stop` − 1. Raises InputError where the object ends before."""
        kind, (count, *inner) = self.kind, self.shape
        first, last, _ = rows.indices(count)
        width = math.prod(inner) * kind.itemsize
        begin = self.tensors.start + self.begin
        data = self.tensors.read(begin + first * width, begin + last * width)
        if len(data) != (last - first) * width or self.end - self.begin != count * width:
            raise InputError(f"{self.tensors.path} is not a whole trajectory (it ends too early); {MEND}.")
        return torch.frombuffer(bytearray(data), dtype=kind).reshape(last - first, *inner)
