"""Files that are whole or absent: atomic writes, locks, JSON, tensors, and folders to write to. No domain words
here."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from .errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:
    fcntl = None


NUMBERS = re.compile(r'\[\n\s+([^][{}"]+)\n\s+\]')
"""A list of plain values in indented JSON; a line break never stands inside a string there."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it when it does
    not."""
    temporary = beside(path)
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            # mkstemp, and safetensors after it, give 0600, which would hide results from the rest of a group.
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def beside(path: Path, folder: bool = False) -> Path:
    """A new file, or folder, beside `path`, of a temporary name. An OSError names `path`, which is what the user asked
    for."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            return Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        error.filename = str(path)
        raise
    os.close(handle)
    return Path(name)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What the system says in the block, a full disk for example, is an OSError that names a file, `path` where it
    names none."""
    try:
        yield
    except SafetensorError as error:  # which says it in an exception of its own
        if (code := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise


@contextmanager
def lock(path: Path, wait: bool) -> Iterator[bool]:
    """Hold `path` against other processes for the block; yields whether it is held. The system frees it when a process
    dies.

    With `wait`, returns once the lock is free; without, yields False at once when another process has it. Where the
    system has no `fcntl` (Windows), always yields True.
    """
    if fcntl is None:
        yield True
        return
    flags = fcntl.LOCK_EX
    if not wait:
        flags |= fcntl.LOCK_NB
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, flags)
        except BlockingIOError:
            yield False
            return
        yield True


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Nothing; writes `value` as indented JSON, whole or not at all, with lists of numbers on one line each."""
    text = json.dumps(value, indent=2)
    write_text(path, NUMBERS.sub(lambda numbers: f"[{' '.join(numbers[1].split())}]", text) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError naming the file when it is absent, broken, or holds anything
    else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}; check the path, or make it first.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}); restore it or move it away and run again."
        ) from error
    if isinstance(value, dict):
        return value
    raise InputError(
        f"{path} was not written by astdistill (it holds no JSON object); restore it or move it away and run again."
    )


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write named tensors and JSON metadata to one safetensors file, whole or not at all."""
    from safetensors.torch import save_file  # imports torch, which nobody needs who reads JSON alone

    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    header = {name: json.dumps(value) for name, value in (metadata or {}).items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, metadata=header)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a file that `save_tensors` wrote. Raises InputError naming a broken file."""
    try:
        with safe_open(path, framework="pt") as file:
            header = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            # A copy lies where torch would put it: the last bits of a matrix product can depend on the alignment of
            # its factors.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, header  # noqa: SIM118  (it is no dictionary)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}; check the path, or make it first.") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} was not written by astdistill (its header holds other words than JSON); name a file of a run."
        ) from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}); "
            f"name another, or move it away and run what wrote it again."
        ) from error


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON line; numbers that are not finite become the strings 'nan' and 'inf', since JSON has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = dict(value)
    for name, number in value.items():
        if isinstance(number, float) and not math.isfinite(number):
            line[name] = str(number)
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole JSON lines of a file; a line cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def rewrite_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON-lines file, for a resumed run that drops what was logged after its checkpoint."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def cache_folder() -> Path:
    """`$ASTDISTILL_CACHE`, else `$XDG_CACHE_HOME/astdistill`, else `~/.cache/astdistill`. It may not exist yet."""
    own = os.environ.get("ASTDISTILL_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "astdistill"


def check_folder(path: Path, flag: str, file: bool = False) -> None:
    """Raise InputError where `path`, which `flag` names and which need not be there, is a file or would lie in one.

    With `file`, `path` is to become a file, and only has to lie in a folder.
    """
    if not file and path.exists() and not path.is_dir():
        raise InputError(f"{flag} {path} is a file; name a folder.")
    for place in path.parents:
        if place.exists() and not place.is_dir():
            raise InputError(f"{flag} {path} would lie in {place}, which is a file; name a folder.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block ends well, remove it when it does not.

    Raises InputError, before the block runs, unless `path` is absent or an empty folder.
    """
    if path.is_dir() and any(path.iterdir()):
        raise InputError(
            f"--out {path} is there already and is not an empty folder; name a new one, for example --out {path}-2"
        )
    check_folder(path, "--out")
    temporary = beside(path, folder=True)
    try:
        with naming(path):
            yield temporary
            temporary.chmod(0o755)  # mkdtemp gives 0700; see `replacing`
            if path.exists():
                path.rmdir()  # an empty folder, which not every system lets a rename replace
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
