"""A store whose experts are objects in cloud storage: trained in a local folder, uploaded whole, read by byte range."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError

from ..runtime.errors import InputError
from ..runtime.files import (
    DIGESTS,
    cache_folder,
    create_temporary,
    load_tensors,
    parse_json,
    reading,
    remove_folder,
    replacing,
    save_tensors,
    warn,
)
from ..runtime.objects import GoneError, Objects, Url
from ..runtime.shapes import Rows
from .partial import ENDING, MEND, PartialTrajectory, folders, published_rows, state_epochs, stored_rows

SAVE_S = 180.0
"""Seconds of training between two uploads of the state of a half-trained expert."""
FRESH_S = 1.0
"""Seconds for which a listing of the objects counts as current while other processes may upload some."""
HEADER = 64 * 1024
"""Bytes that are read for the header of an object, in one request; the header for 500 epochs has 60,000."""
MOST_HEADER = 100_000_000
"""Largest size of a header in bytes, as safetensors allows."""
TYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
EXPERT = re.compile(r"(?P<expert>[0-9]{3,})(-(?P<epochs>[0-9]{4,}))?\.safetensors")
"""Name of the object of an expert, which has every epoch of its recipe, or as many as the name states."""
STATE = re.compile(r"(?P<expert>[0-9]{3,})\.partial/(?P<epochs>[0-9]{4,})\.safetensors")
"""Name of the object from which training resumes: the optimiser's state after that many epochs, and the rows up to
there."""
ROWS, ROWS_FILE = "rows", "rows.bin"


def scratch_of(folder: Path) -> Path:
    """The folder for local files that belong to a store, or to a folder of stores: that folder itself, or for an
    address a folder in this machine's cache."""
    if not isinstance(folder, Url):
        return folder
    return cache_folder() / "stores" / f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


class CloudFiles:
    """The files of the store at an address, with the methods of `LocalFiles`.

    No object is ever overwritten. The listing of the objects is cached: processes that only read do not see experts
    that are added later. Files that are being written are in `scratch`.
    """

    def __init__(self, folder: Url) -> None:
        self.folder, self.scratch = folder, scratch_of(folder)
        self.objects = Objects(folder)
        self._listing: dict[str, int] = {}
        self._listing_time = -math.inf
        self._tensors: dict[str, RemoteTensors] = {}
        self._last_upload: dict[int, tuple[float, int]] = {}
        """By expert: the time of the last upload of its state, and the number of epochs in it."""
        self._ahead = ReadAhead()

    def __reduce__(self) -> tuple[type[CloudFiles], tuple[Url]]:
        return CloudFiles, (self.folder,)

    def described(self, *names: str) -> bool:
        listed = self._object_sizes(FRESH_S)
        return all(name in listed for name in names)

    def describe(self, names: Iterable[str], write: Callable[[Path], None]) -> None:
        Objects(self.folder.parent).check()
        with tempfile.TemporaryDirectory(prefix="astdistill-") as folder:
            write(Path(folder))
            for name in names:
                self._put(name, Path(folder, name).read_bytes())

    def stores(self, name: str) -> list[Path]:
        listed = self.objects.sizes()
        folders_of_stores = {each.rpartition("/")[0] for each in listed if each.endswith(f"/{name}")}
        return [self.folder / each for each in sorted(folders_of_stores) if "/" not in each]

    def file(self, name: str) -> AbstractContextManager[Path]:
        return self.objects.brought(name)

    def numbers(self) -> list[int]:
        return sorted({int(each["expert"]) for name in self._object_sizes() if (each := EXPERT.fullmatch(name))})

    def has(self, expert: int) -> bool:
        return any(
            int(each["expert"]) == expert for name in self._object_sizes(FRESH_S) if (each := EXPERT.fullmatch(name))
        )

    def path(self, expert: int) -> Path:
        return self.folder / self._object_name(expert)

    def opened(self, expert: int) -> RemoteTensors:
        return self._open_object(self._object_name(expert))

    def _object_sizes(self, max_age: float = math.inf) -> Mapping[str, int]:
        """Sizes of the objects in bytes, by name, from a listing that is at most `max_age` seconds old."""
        if time.monotonic() - self._listing_time >= max_age:
            self._listing, self._listing_time = self.objects.sizes(), time.monotonic()
        return self._listing

    def _object_name(self, expert: int) -> str:
        """Name of the object that has the most epochs of an expert."""
        plain = f"{expert:03d}.safetensors"
        matches = [
            each for name in self._object_sizes() if (each := EXPERT.fullmatch(name)) and int(each["expert"]) == expert
        ]
        if len(matches) < 2:
            return next((each[0] for each in matches), plain)
        return max(matches, key=lambda each: int(each["epochs"] or self._epochs_in_object(each[0])))[0]

    def _epochs_in_object(self, name: str) -> int:
        """Number of epochs in an object of an expert."""
        return self._open_object(name).get_slice(ROWS).get_shape()[0] - 1

    def _open_object(self, name: str) -> RemoteTensors:
        if name not in self._tensors:
            path = self.folder / name

            def read(start: int, stop: int) -> bytes:
                return self._ahead.read(name, start, stop, lambda: self.objects.read(name, start, stop))

            self._tensors[name] = RemoteTensors(path, read)
        return self._tensors[name]

    def _put(self, name: str, data: bytes) -> bool:
        created = self.objects.put(name, data)
        self._listing[name] = len(data)
        return created

    def _remove(self, names: Iterable[str]) -> None:
        """Remove objects that are no longer needed; without permission they stay."""
        for name in list(names):
            with suppress(InputError):
                self.objects.remove(name)
            self._listing.pop(name, None)

    def _states(self, expert: int) -> dict[int, str]:
        """Names of the saved states of an expert, by number of epochs."""
        matches = [state for name in self._object_sizes(FRESH_S) if (state := STATE.fullmatch(name))]
        return {int(state["epochs"]): state[0] for state in matches if int(state["expert"]) == expert}

    def read_ahead(self, draw: Callable[[], object]) -> None:
        self._ahead.begin(draw)

    def check_writable(self) -> None:
        Objects(self.folder.parent).check_writable()

    def fetch(self, expert: int, recipe_epochs: int) -> None:
        self._last_upload[expert] = time.monotonic(), 0
        if (file := self._local_file(expert)).exists():
            self._upload_leftover(expert, file, recipe_epochs)
        try:
            self._fetch_state(expert)
        except GoneError:  # another process has uploaded a later state and removed this one
            self._listing_time = -math.inf
            self._fetch_state(expert)

    def _local_file(self, expert: int) -> Path:
        return self.scratch / f"{expert:03d}.safetensors"

    def _local_folder(self, expert: int) -> Path:
        return self.scratch / f"{expert:03d}{ENDING}"

    def _upload_leftover(self, expert: int, file: Path, recipe_epochs: int) -> None:
        """Upload a trajectory that an earlier call had not uploaded yet when it was stopped. A file that an earlier
        version left half-written is removed: its rows are fetched or trained again."""
        try:
            epochs = published_rows(file) - 1
        except SafetensorError as error:
            warn(f"{file} is not a whole trajectory ({error}); it is removed, and made again.")
            file.unlink(missing_ok=True)
            return
        if not self.has(expert) or self._epochs_in_object(self._object_name(expert)) < epochs:
            self.publish(expert, recipe_epochs, self._local_folder(expert))
        else:
            file.unlink()

    def _fetch_state(self, expert: int) -> None:
        """Create the folder of a half-trained expert from its latest state, as `PartialTrajectory` leaves it, unless a
        local folder has as many epochs. If a state has no rows, they are in the object of the expert, which is brought
        first: a folder without it would be trained from the beginning."""
        states = self._states(expert)
        best = max(states, default=0)
        if best <= self._local_epochs(expert):
            return
        with self.objects.brought(states[best]) as state:
            tensors, header = load_tensors(state, mend=MEND)
        rows = tensors.pop(ROWS, None)
        if rows is None:
            with self.objects.brought(self._object_name(expert)) as whole, replacing(self._local_file(expert)) as file:
                load_tensors(whole, mend=MEND)  # raises if it is not whole
                shutil.copyfile(whole, file)
        folder = create_temporary(self._local_folder(expert), folder=True)
        save_tensors(folder / "state.safetensors", tensors, header)
        if rows is not None:
            (folder / ROWS_FILE).write_bytes(rows.numpy().astype("<f4").tobytes())
        remove_folder(self._local_folder(expert))
        folder.rename(self._local_folder(expert))
        self._last_upload[expert] = time.monotonic(), best

    def _local_epochs(self, expert: int) -> int:
        """Number of epochs of an expert on this machine: of a state whose rows are there, too."""
        rows_of_all = self._local_file(expert).exists()
        with_rows = (each for each in folders(self.scratch, expert) if rows_of_all or (each / ROWS_FILE).exists())
        return max(map(state_epochs, with_rows), default=0)

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
        last_time, last_epochs = self._last_upload[expert]
        epochs = state_epochs(partial.folder)
        if epochs > last_epochs and (at_once or time.monotonic() - last_time >= SAVE_S):
            self._put_state(expert, partial.folder, stored_rows(partial.rows, partial.parameters)[: epochs + 1])
            self._last_upload[expert] = time.monotonic(), epochs

    def _put_state(self, expert: int, folder: Path, rows: Rows | None) -> None:
        """Upload the state from which training resumes, with the rows so far if no object has them; remove states of
        fewer epochs."""
        tensors, header = load_tensors(folder / "state.safetensors", mend=MEND)
        epochs = int(header["epochs"])
        if rows is not None:
            tensors[ROWS] = rows
        with tempfile.TemporaryDirectory(prefix="astdistill-") as temporary:
            file = Path(temporary, "state.safetensors")
            save_tensors(file, tensors, header, by_row=[ROWS] * (rows is not None))
            self._put(f"{expert:03d}{ENDING}/{epochs:04d}.safetensors", file.read_bytes())
        self._remove(name for saved_epochs, name in self._states(expert).items() if saved_epochs < epochs)

    def publish(self, expert: int, recipe_epochs: int, folder: Path) -> None:
        file = self._local_file(expert)
        with suppress(FileNotFoundError):  # another process of this machine has uploaded it
            data = file.read_bytes()
            tensors = RemoteTensors(file, lambda start, stop: data[start:stop])
            epochs = tensors.get_slice(ROWS).get_shape()[0] - 1
            name = f"{expert:03d}-{epochs:04d}.safetensors"
            if epochs == recipe_epochs and not self._is_shorter(file.name, epochs):
                name = file.name
            if not self._put(name, data):
                self._warn_about_kept(expert, name, tensors)
            if epochs == recipe_epochs:
                self._remove(self._states(expert).values())
            elif state_epochs(folder) == epochs:
                self._put_state(expert, folder, None)
            file.unlink()
            remove_folder(folder)

    def _is_shorter(self, name: str, epochs: int) -> bool:
        """Whether there is an object of that name with fewer epochs, as in a store that was copied from a folder."""
        return name in self._object_sizes(FRESH_S) and self._epochs_in_object(name) < epochs

    def _warn_about_kept(self, expert: int, name: str, tensors: RemoteTensors) -> None:
        """Warn that another process uploaded this expert first, and whether its content is the same."""
        comparison = "other bits than this one"
        if self._open_object(name).metadata().get(DIGESTS) == tensors.metadata().get(DIGESTS):
            comparison = "the same bits as this one"
        warn(f"Expert {expert} was saved by another process first; {self.folder / name} stays, with {comparison}.")

    def tidy(self, finished: Iterable[int]) -> None:
        done = set(finished)
        states = [each for name in self._object_sizes() if (each := STATE.fullmatch(name))]
        self._remove([each[0] for each in states if int(each["expert"]) in done])


class ReadAhead:
    """Reads parts of objects in a background thread before they are requested."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._cached: dict[tuple[str, int, int], bytes] = {}
        self._pending: Future[None] | None = None
        self._thread_local = threading.local()

    def begin(self, draw: Callable[[], object]) -> None:
        """Call `draw` in the thread, and keep what it reads until the next call of `begin`."""
        self._wait()
        self._cached.clear()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="astdistill-ahead")
        self._pending = self._thread.submit(self._run, draw)

    def _run(self, draw: Callable[[], object]) -> None:
        self._thread_local.now = True
        with suppress(Exception):  # the later read raises the error
            draw()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def read(self, name: str, start: int, stop: int, read: Callable[[], bytes]) -> bytes:
        """Return bytes that were read ahead, once; otherwise the result of `read()`."""
        if getattr(self._thread_local, "now", False):
            self._cached[name, start, stop] = data = read()
            return data
        self._wait()
        data = self._cached.pop((name, start, stop), None)
        if data is None:
            return read()
        return data


class RemoteTensors:
    """A safetensors object, used like a file opened by `safe_open`: its header is read at once, the rest on request.

    Raises InputError if the header is invalid.
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
    """A tensor of a `RemoteTensors` object; rows are read by one range request."""

    def __init__(self, tensors: RemoteTensors, entry: Mapping[str, Any]) -> None:
        self.tensors, self.type = tensors, str(entry["dtype"])
        self.kind = TYPES[self.type]
        self.shape = [int(size) for size in entry["shape"]]
        self.begin, self.end = map(int, entry["data_offsets"])
        if not self.shape or min(*self.shape, self.begin) < 0:
            raise ValueError("no tensor has such a shape or place")

    def get_shape(self) -> list[int]:
        return self.shape

    def get_dtype(self) -> str:
        return self.type

    def __getitem__(self, rows: slice) -> Rows:
        """Rows `start` … `stop` − 1. Raises InputError if the object ends before them."""
        kind, (count, *inner) = self.kind, self.shape
        first, last, _ = rows.indices(count)
        row_bytes = math.prod(inner) * kind.itemsize
        begin = self.tensors.start + self.begin
        data = self.tensors.read(begin + first * row_bytes, begin + last * row_bytes)
        if len(data) != (last - first) * row_bytes or self.end - self.begin != count * row_bytes:
            raise InputError(f"{self.tensors.path} is not a whole trajectory (it ends too early); {MEND}.")
        return torch.frombuffer(bytearray(data), dtype=kind).reshape(last - first, *inner)
