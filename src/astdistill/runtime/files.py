"""Atomic file writes, digests, locks, JSON, tensors, and output folders. Nothing here is specific to dataset
distillation."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import xxhash
from safetensors import SafetensorError, safe_open

from .errors import FolderGoneError, InputError
from .objects import Url, path_or_url
from .owners import TAG, new_tag, owner_alive
from .text import printable

if TYPE_CHECKING:
    from torch import Tensor

NUMBERS = re.compile(r'\[\n\s+([^][{}"]+)\n\s+\]')
"""A list of plain values in indented JSON, in which no string contains a line break."""


DIGESTS = "digests"
"""The metadata key of the digests in a safetensors file of this package."""
TEMPORARY = re.compile(rf"\..+\.{TAG}\.tmp")
LEGACY_TEMPORARY = re.compile(
    r"\.(config|provenance|state|synthetic|last|best|scores|recipe|[0-9]+)\..+\.[a-z0-9_]{8}\.tmp"
    r"|\..+-[0-9a-f]{12}\.(npy\.[0-9]+\.tmp|partial)"
)
"""Names of temporary files and folders: the current form, and those of the first version, in runs, stores and the
cache."""
ABANDONED_S = 86400.0
"""Seconds without a change after which a temporary file is removed if its process cannot be checked."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Error codes of a file system without locks."""
_SWEPT: set[tuple[int, str]] = set()
"""Folders whose leftover temporary files have been removed, by process and path."""
_TAKEN: dict[str, tuple[int, Path, int]] = {}
"""Folders reserved by a process, by path: the number of the process, the file that marks the reservation, and its open
descriptor, which distinguishes it from a later file of that name."""


@contextmanager
def replacing(path: Path, stays: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` if the block succeeds, remove it otherwise.

    With `stays`, a file that another process has written to `path` meanwhile is kept if `stays(path)` is true.
    """
    temporary = create_temporary(path)
    try:
        with naming(path):
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(mode)  # safetensors sets 0600, which would hide results from the rest of a group
            check_taken(path)
            if stays is None or not (_link_if_absent(temporary, path) or stays(path)):
                temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _link_if_absent(temporary: Path, path: Path) -> bool:
    """Give the file the name `path` atomically, unless that exists. Returns whether it did; of several processes one
    succeeds."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (*NO_LOCKS, errno.EPERM, errno.EMLINK):
            raise
        if path.exists():  # a file system without links
            return False
        os.replace(temporary, path)
    return True


def create_temporary(path: Path, folder: bool = False) -> Path:
    """Create a file, or folder, next to `path`, whose temporary name identifies this process; permissions follow the
    umask. An OSError names `path`, which is what the user asked for.

    The first call for a folder removes what killed processes have left there.
    """
    check_taken(path)
    check_regular(path)
    temporary = path.with_name(f".{path.name}.{new_tag()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(path.parent)
        if folder:
            temporary.mkdir()
        else:
            temporary.touch(exist_ok=False)
    except OSError as error:
        error.filename = str(path)
        raise
    return temporary


def sweep_once(folder: Path) -> None:
    """Call `sweep`, unless this process has done so for this folder."""
    if (os.getpid(), str(folder.absolute())) not in _SWEPT:
        sweep(folder)


def sweep(folder: Path) -> None:
    """Remove temporary files and folders of this package in `folder` that no process writes any more: those of ended
    processes of this machine, and those that have not changed for a day."""
    _SWEPT.add((os.getpid(), str(folder.absolute())))
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if TEMPORARY.fullmatch(path.name) or LEGACY_TEMPORARY.fullmatch(path.name):
                _remove_abandoned(path)


def _remove_abandoned(path: Path) -> None:
    with suppress(OSError):
        if not abandoned(path):
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder that another process may rename at the same time: that process finds it complete or absent."""
    aside = folder.with_name(f".{folder.name}.{new_tag()}.tmp")
    with suppress(OSError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def abandoned(path: Path) -> bool:
    """Whether the process that a name belongs to has ended; if that cannot be known, whether nothing has changed for a
    day. Raises OSError if there is no such file."""
    alive = owner_alive(path.name)
    if alive is not None:
        return not alive
    newest = max(each.stat().st_mtime for each in (path, *path.glob("*")))
    return time.time() - newest > ABANDONED_S


def take(folder: Path, by: Path) -> None:
    """From now on, refuse writes to `folder` unless the file `by` exists and is the same file as now."""
    _TAKEN[_absolute(folder)] = os.getpid(), by, os.open(by, os.O_RDONLY)


def give_back(folder: Path) -> None:
    """Undo `take`."""
    taken = _TAKEN.pop(_absolute(folder), None)
    if taken is not None:
        os.close(taken[2])


def check_taken(path: Path) -> None:
    """Raise FolderGoneError if `path` lies in a folder that this process had reserved with `take` and has lost."""
    if not _TAKEN:
        return
    target = _absolute(path)
    for folder, (pid, by, handle) in list(_TAKEN.items()):
        if pid != os.getpid() or not (target == folder or target.startswith(folder + os.sep)):
            continue
        try:
            unchanged = os.path.samestat(by.stat(), os.fstat(handle))
        except OSError as error:
            raise FolderGoneError(
                f"{folder} was deleted or moved while this process was writing to it, so nothing more is written; move "
                "it back, or begin anew, with the same command."
            ) from error
        if not unchanged:
            raise FolderGoneError(
                f"Another process has taken over {folder}, so this one writes nothing more to it; let that one end, or "
                "name another --out."
            )


def _absolute(path: Path) -> str:
    return os.path.abspath(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make every OSError in the block, for example of a full disk, name a file: `path`, unless it names one already.
    Errors of the system that safetensors reports become an OSError, too."""
    try:
        yield
    except SafetensorError as error:  # how safetensors reports errors of the system
        if (code := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise


@contextmanager
def lock(path: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock on `path` against other processes for the block; yields whether it is held. The system releases it
    when the process dies.

    With `wait`, block until the lock is free; without, yield False at once if another process has it. Raises OSError
    with one of `NO_LOCKS` if the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        path.touch()  # created here, so that its permissions follow the umask
        held = filelock.FileLock(path, fallback_to_soft=False)
        try:
            held.acquire(blocking=wait)
        except filelock.Timeout:
            yield False
            return
        except NotImplementedError as error:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(path)) from error
    try:
        yield True
    finally:
        with suppress(OSError):  # the folder may be gone
            held.release()


def check_regular(path: Path) -> None:
    """Raise InputError if `path` is, or links to, a pipe, a device or a socket: opening it could block for ever or give
    endless bytes, and replacing it would remove a device. A path that does not exist is accepted."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path} is a pipe, device or socket, not a file; name another, or take it away.")


def open_tensors(path: Path) -> Any:
    """A safetensors file, to be used as a context manager. Raises InputError if it is not a regular file, OSError if it
    cannot be opened, and SafetensorError as `safe_open` does."""
    check_regular(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:  # the library does not accept names that are not UTF-8
        with path.open("rb") as file:
            return _safe_open(f"/proc/self/fd/{file.fileno()}")
    return _safe_open(path)


def _safe_open(path: str | Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except RuntimeError as error:  # torch opens the file again, and another process may have removed it meanwhile
        raise OSError(str(error)) from error


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        # File names that are not UTF-8 contain surrogates, which are written as escapes.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all, with lists of numbers on one line each."""
    text = json.dumps(value, indent=2)
    write_text(path, NUMBERS.sub(lambda numbers: f"[{' '.join(numbers[1].split())}]", text) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError naming the file if it is absent, broken, or holds anything else."""
    check_regular(path)
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
"""Maximum nesting of lists and objects in a JSON file; files of this package have up to ten levels."""
LONGEST_NUMBER = 40
"""Maximum number of characters of a number in a JSON file."""


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text. Raises ValueError for invalid JSON, for numbers that no float or 64-bit integer holds, and for
    values nested deeper than `DEEPEST`."""
    try:
        value = json.loads(text, parse_int=_whole_number, parse_float=_finite_number, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    level, depth = [value], 0
    while level := [inner for each in level for inner in _children(each)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError("its values are nested too deeply")
    return value


def _children(value: Any) -> Iterable[Any]:
    """The lists and objects directly inside a list or an object."""
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


def fingerprint(values: Tensor) -> str:
    """The XXH3 hash of the bytes of a CPU tensor, 32 hexadecimal digits: it detects flipped bits, at some 30 GB a
    second."""
    import torch  # imported here, because reading JSON does not need it

    return xxhash.xxh3_128_hexdigest(values.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _digests(
    plain: Mapping[str, Tensor], header: Mapping[str, str], tensors: Mapping[str, str | list[str]]
) -> dict[str, Any]:
    """The digests of the tensors, and one of everything else in the file."""
    shapes = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in plain.items()}
    return {"tensors": tensors, "header": header_digest(shapes, header, tensors)}


def header_digest(shapes: Mapping[str, Any], header: Mapping[str, str], tensors: Mapping[str, Any]) -> str:
    """A digest of the header of a file: types and shapes by name, metadata, digests of the tensors."""
    metadata = {name: value for name, value in header.items() if name != DIGESTS}
    return xxhash.xxh3_128_hexdigest(json.dumps([shapes, metadata, tensors], sort_keys=True).encode())


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
    by_row: Collection[str] = (),
    stays: Callable[[Path], bool] | None = None,
) -> None:
    """Write named tensors and JSON metadata to one safetensors file, whole or not at all, with digests of all of it.
    Tensors in `by_row` have one digest for each row, so that a single row can be verified. For `stays` see
    `replacing`."""
    from safetensors.torch import save_file  # imports torch, which reading JSON does not need

    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    header = {name: json.dumps(value) for name, value in (metadata or {}).items() if name != DIGESTS}
    digests: dict[str, str | list[str]] = {name: fingerprint(tensor) for name, tensor in plain.items()}
    digests |= {name: [fingerprint(row) for row in plain[name]] for name in by_row}
    header[DIGESTS] = json.dumps(_digests(plain, header, digests))
    with replacing(path, stays) as temporary:
        save_file(plain, temporary, metadata=header)


MEND = "move it away and run the command that wrote it again"


def load_tensors(path: Path, mend: str = MEND) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a file that `save_tensors` wrote. Raises InputError for a broken file, and for
    one whose contents have changed since it was written; `mend` says what to do then."""
    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
            header = {name: parse_json(value) for name, value in metadata.items()}
            # Cloned, so that torch chooses the alignment: the last bits of a matrix product can depend on that of its
            # factors.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (it is no dictionary)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}; check the path, or make it first.") from error
    except (SafetensorError, OSError) as error:
        raise _broken_file(path, error, mend) from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"{path} was not written by astdistill (its header is not JSON); name a file of a run."
        ) from error
    except Exception as error:  # a header with types that the library does not expect
        raise _broken_file(path, error, mend) from error
    sealed, stated = has_digests(metadata), header.pop(DIGESTS, None)
    if sealed and (altered := _altered(tensors, metadata, stated)):
        raise InputError(f"{path} was changed after it was written: {altered} does not match its digest; {mend}.")
    return tensors, header


def stated_digests(path: Path) -> dict[str, Any]:
    """The digests of the tensors by name, as stated in a file that `save_tensors` wrote; empty if it states none.

    Only the header is read, without torch, and nothing is verified: see `load_tensors`. Raises OSError, ValueError and
    SafetensorError for any other file.
    """
    check_regular(path)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
    return dict(parse_json(metadata[DIGESTS])["tensors"]) if DIGESTS in metadata else {}


def has_digests(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata of a file contain digests, even under a damaged key; files of earlier versions have none."""
    return DIGESTS in metadata or any(text.startswith('{"tensors": ') for text in metadata.values())


def _altered(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], stated: Any) -> str:
    """The part of a file that does not match its stated digest; empty for an undamaged file."""
    if not isinstance(stated, Mapping) or not isinstance(stated.get("tensors"), Mapping):
        return "its list of digests"
    digests: Mapping[str, Any] = stated["tensors"]
    if digests.keys() != tensors.keys() or _digests(tensors, metadata, dict(digests)) != stated:
        return "its header"
    for name, tensor in tensors.items():
        if not isinstance(digests[name], list):
            if fingerprint(tensor) != digests[name]:
                return f"'{name}'"
        elif (row := altered_row(tensor, digests[name])) is not None:
            return f"row {row} of '{name}'"
    return ""


def altered_row(rows: Tensor, expected: Collection[str]) -> int | None:
    """Index of the first of `rows` whose digest differs from `expected`; None if all match."""
    if len(rows) != len(expected):
        return min(len(rows), len(expected))
    pairs = enumerate(zip(rows, expected, strict=True))
    return next((number for number, (row, digest) in pairs if fingerprint(row) != digest), None)


def _broken_file(path: Path, error: Exception, mend: str) -> InputError:
    why = printable(str(error).partition("\n")[0])[:200]
    return InputError(f"{path} is not a whole safetensors file ({why}); name another, or {mend}.")


@contextmanager
def reading(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn errors of the block about values in `path` into an InputError that says that the file does not hold `what`,
    with the `remedy`."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        why = printable(f"{type(error).__name__}: {error}".partition("\n")[0])[:200]
        raise InputError(f"{path} does not hold {what} ({why}); {remedy}.") from error


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON line; numbers that are not finite become the strings 'nan' and 'inf', since JSON has none.

    Raises InputError for a symbolic link: in a downloaded folder it could point to any file of the user.
    """
    check_taken(path)
    check_regular(path)
    if path.is_symlink():
        raise InputError(f"{path} is a link to {path.readlink()}, which is not written to; put a regular file there.")
    path.parent.mkdir(parents=True, exist_ok=True)
    line = dict(value)
    for name, number in value.items():
        if isinstance(number, float) and not math.isfinite(number):
            line[name] = str(number)
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(path: Path, valid: Callable[[dict[str, Any]], object] = bool) -> list[dict[str, Any]]:
    """The JSON objects in the lines of a file, one each, that are `valid`, which may also raise.

    A last line that a kill cut short is left out silently; other damaged lines are left out with a warning.
    """
    if not path.exists():
        return []
    check_regular(path)
    raw = path.read_bytes().split(b"\n")
    parsed = [_parse_line(each, valid) for each in raw]
    lost = [
        number for number, (line, each) in enumerate(zip(parsed, raw[:-1], strict=False), 1) if each and line is None
    ]
    if lost:
        damaged = f"line {lost[0]}"
        if len(lost) > 1:
            damaged = f"{len(lost)} lines, the first of them {lost[0]},"
        warn(f"{path}: {damaged} cannot be read and was skipped; the rest is intact.")
    return [line for line in parsed if line is not None]


def _parse_line(text: bytes, valid: Callable[[dict[str, Any]], object]) -> dict[str, Any] | None:
    """The object in one line; None if there is none, or an invalid one."""
    try:
        value = parse_json(text)
        if isinstance(value, dict) and valid(value) is not False:
            return value
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return None


def warn(text: str) -> None:
    """Print a warning on the standard error."""
    with suppress(OSError):  # the standard error may be closed
        print(f"astdistill: {printable(text)}", file=sys.stderr)


def rewrite_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON-lines file, for a resumed run that drops what was logged after its checkpoint."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def cache_folder() -> Path:
    """`$ASTDISTILL_CACHE`, else `$XDG_CACHE_HOME/astdistill`, else `~/.cache/astdistill`, else a folder of this user in
    the temporary directory. It may not exist yet."""
    chosen = os.environ.get("ASTDISTILL_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "astdistill"
    try:
        return Path.home() / ".cache" / "astdistill"
    except RuntimeError:  # no HOME, and no entry in passwd, as in some containers
        return _temporary_cache()


def _temporary_cache() -> Path:
    """A folder of this user in the temporary directory; a new one if another user has created the usual name."""
    folder = Path(tempfile.gettempdir()) / f"astdistill-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix="astdistill-"))


def check_folder(path: Path, flag: str, file: bool = False) -> None:
    """Raise InputError if `path`, the value of `flag`, is a file or would lie in one; it need not exist.

    With `file`, `path` is to become a file, and only has to lie in a folder. Addresses in the cloud, names that no file
    can have and broken links are refused, too.
    """
    try:
        nameable = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        nameable = False
    if not nameable:
        raise InputError(f"{flag} {str(path)!r} holds characters that no path can have; name another folder.")
    if isinstance(address := path_or_url(path), Url):
        raise InputError(
            f"{flag} {address} is an address; name a folder. Only --experts.store and --mirror may be one."
        )
    if not file and path.exists() and not path.is_dir():
        raise InputError(f"{flag} {path} is a file; name a folder.")
    if path.is_symlink() and not path.exists():
        raise InputError(f"{flag} {path} is a broken link; make the folder that it names, or name another.")
    for folder in path.parents:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{flag} {path} would lie in {folder}, which is a file; name a folder.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; rename it to `path` if the block succeeds, remove it otherwise.

    Raises InputError, before the block runs, unless `path` is absent or an empty folder.
    """
    _check_empty(path)
    check_folder(path, "--out")
    temporary = create_temporary(path, folder=True)
    try:
        with naming(path):
            yield temporary
            if path.exists():
                path.rmdir()  # an empty folder; not every system lets a rename replace it
            temporary.replace(path)
    except OSError:
        _check_empty(path)  # another process may have been faster
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_empty(path: Path) -> None:
    if path.is_dir() and any(path.iterdir()):
        raise InputError(
            f"--out {path} exists already and is not an empty folder; name a new one, for example --out {path}-2"
        )
