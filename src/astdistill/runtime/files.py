"""Files that are whole or absent: atomic writes, locks, JSON, tensors, and folders to write to. No domain words
here."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import InputError
from .text import printable

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
        # A name whose bytes are no UTF-8 has halves of signs in it, which are written out.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Nothing; writes `value` as indented JSON, whole or not at all, with lists of numbers on one line each."""
    text = json.dumps(value, indent=2)
    write_text(path, NUMBERS.sub(lambda numbers: f"[{' '.join(numbers[1].split())}]", text) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError naming the file when it is absent, broken, or holds anything
    else."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}; check the path, or make it first.") from error
    except (ValueError, OSError) as error:
        why = printable(str(error))[:200]
        raise InputError(f"{path} cannot be read as JSON ({why}); restore it or move it away and run again.") from error
    if isinstance(value, dict):
        return value
    raise InputError(
        f"{path} was not written by astdistill (it holds no JSON object); restore it or move it away and run again."
    )


DEEPEST = 50
"""Lists and objects inside one another in a JSON file; ours have up to ten."""
LONGEST_NUMBER = 40
"""Letters of a number there."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, for numbers that no float or 64-bit integer holds,
    and for values that lie deeper in one another than anybody needs."""
    try:
        value = json.loads(text, parse_int=_whole_number, parse_float=_finite_number, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("its values lie too deep in one another") from None
    below, depth = [value], 0
    while below := [inner for each in below for inner in _inside(each)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError("its values lie too deep in one another")
    return value


def _inside(value: Any) -> Iterable[Any]:
    """What a list or an object holds of lists and objects."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return ()
    return [inner for inner in value if isinstance(inner, dict | list)]


def _whole_number(text: str) -> int:
    if len(text) > LONGEST_NUMBER or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text[:LONGEST_NUMBER]} is too large")
    return int(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:LONGEST_NUMBER]} is too large")
    return number


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write named tensors and JSON metadata to one safetensors file, whole or not at all."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    header = {name: json.dumps(value) for name, value in (metadata or {}).items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, metadata=header)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a file that `save_tensors` wrote. Raises InputError naming a broken file."""
    try:
        with safe_open(path, framework="pt") as file:
            header = {name: parse_json(value) for name, value in (file.metadata() or {}).items()}
            # A copy lies where torch would put it: the last bits of a matrix product can depend on the alignment of
            # its factors.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, header  # noqa: SIM118  (it is no dictionary)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}; check the path, or make it first.") from error
    except (SafetensorError, OSError) as error:
        raise _no_tensors(path, error) from error
    except ValueError as error:
        raise InputError(
            f"{path} was not written by astdistill (its header holds other words than JSON); name a file of a run."
        ) from error
    except Exception as error:  # a header of other types than the library looks for
        raise _no_tensors(path, error) from error


def _no_tensors(path: Path, error: Exception) -> InputError:
    why = printable(str(error).partition("\n")[0])[:200]
    return InputError(
        f"{path} is not a whole safetensors file ({why}); name another, or move it away and run what wrote it again."
    )


@contextmanager
def reading(path: Path, what: str, remedy: str) -> Iterator[None]:
    """What the block takes out of `path` is of the kinds that it wants, or an InputError says that the file does not
    hold `what`, and the `remedy`."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        why = printable(f"{type(error).__name__}: {error}".partition("\n")[0])[:200]
        raise InputError(f"{path} does not hold {what} ({why}); {remedy}.") from error


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON line; numbers that are not finite become the strings 'nan' and 'inf', since JSON has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = dict(value)
    for name, number in value.items():
        if isinstance(number, float) and not math.isfinite(number):
            line[name] = str(number)
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(path: Path, sound: Callable[[dict[str, Any]], object] = bool) -> list[dict[str, Any]]:
    """The JSON objects in the lines of a file, one each, as far as they are `sound`, which may say so by raising.

    A last line that a kill cut short is left out; others that are damaged are, too, and are told of.
    """
    if not path.exists():
        return []
    raw = path.read_bytes().split(b"\n")
    read = [_line(each, sound) for each in raw]
    lost = [number for number, (line, each) in enumerate(zip(read, raw[:-1], strict=False), 1) if each and line is None]
    if lost:
        words = f"line {lost[0]}"
        if len(lost) > 1:
            words = f"{len(lost)} lines, the first of them {lost[0]},"
        warn(f"{path}: {words} cannot be read and was left out; all else is as it was written.")
    return [line for line in read if line is not None]


def _line(text: bytes, sound: Callable[[dict[str, Any]], object]) -> dict[str, Any] | None:
    """The object of one line; None where there is none, or an unsound one."""
    try:
        value = parse_json(text)
        if isinstance(value, dict) and sound(value) is not False:
            return value
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return None


def warn(text: str) -> None:
    """Tell the user something that stops nobody."""
    with suppress(OSError):  # nobody may be reading it
        print(f"astdistill: {printable(text)}", file=sys.stderr)


def rewrite_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON-lines file, for a resumed run that drops what was logged after its checkpoint."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def cache_folder() -> Path:
    """`$ASTDISTILL_CACHE`, else `$XDG_CACHE_HOME/astdistill`, else `~/.cache/astdistill`, else a folder for this user
    among the temporary ones. It may not exist yet."""
    own = os.environ.get("ASTDISTILL_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "astdistill"
    try:
        return Path.home() / ".cache" / "astdistill"
    except RuntimeError:  # a user without an entry in passwd, and no HOME, as containers have them
        return _homeless_cache()


def _homeless_cache() -> Path:
    """A folder of this user's own among the temporary ones; a new one where somebody else has made that of the
    name."""
    folder = Path(tempfile.gettempdir()) / f"astdistill-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    made = folder.lstat()
    if stat.S_ISDIR(made.st_mode) and made.st_uid == os.getuid() and not made.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix="astdistill-"))


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
