"""Files that are whole or absent, and are what was written: atomic writes, digests, locks, JSON, tensors, and folders
to write to. No domain words here."""

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
from .objects import Url, place
from .owners import TAG, new_tag, owner_alive
from .text import printable

if TYPE_CHECKING:
    from torch import Tensor

NUMBERS = re.compile(r'\[\n\s+([^][{}"]+)\n\s+\]')
"""A list of plain values in indented JSON; a line break never stands inside a string there."""


DIGESTS = "digests"
"""The word under which a safetensors file of ours has the digests of its contents."""
OURS = re.compile(rf"\..+\.{TAG}\.tmp")
FORMERLY = re.compile(
    r"\.(config|provenance|state|synthetic|last|best|scores|recipe|[0-9]+)\..+\.[a-z0-9_]{8}\.tmp"
    r"|\..+-[0-9a-f]{12}\.(npy\.[0-9]+\.tmp|partial)"
)
"""Names of temporary files and folders: today's; and those of the first version, in runs, stores and the cache."""
ABANDONED_S = 86400.0
"""Seconds without a change after which a temporary file of a process that cannot be asked is removed."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a file system says that has no locks."""
_SWEPT: set[tuple[int, str]] = set()
"""By process and path, the folders whose left-over temporary files have been removed."""
_TAKEN: dict[str, tuple[int, Path, int]] = {}
"""By path, folders that a process (its number) has for itself: the file that says so, by name and open, so that no
later file is taken for it."""


@contextmanager
def replacing(path: Path, stays: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it when it does not.

    With `stays`, a file that another process has put at `path` meanwhile is kept where `stays(path)` says so.
    """
    temporary = beside(path)
    try:
        with naming(path):
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(mode)  # safetensors gives 0600, which would hide results from the rest of a group
            check_taken(path)
            if stays is None or not (_linked(temporary, path) or stays(path)):
                temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _linked(temporary: Path, path: Path) -> bool:
    """Give the file its name, whole, if nothing has that name; whether that was done. Of several processes one does
    it."""
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


def beside(path: Path, folder: bool = False) -> Path:
    """A new file, or folder, beside `path`, of a temporary name that says whose it is; who may read it follows from the
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
    """`sweep`, unless this process has done so before."""
    if (os.getpid(), str(folder.absolute())) not in _SWEPT:
        sweep(folder)


def sweep(folder: Path) -> None:
    """Remove temporary files and folders of ours in `folder` that no process is writing any more: of dead processes of
    this machine, and those that nobody has changed for a day."""
    _SWEPT.add((os.getpid(), str(folder.absolute())))
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if OURS.fullmatch(path.name) or FORMERLY.fullmatch(path.name):
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
    """Remove a folder that another process may rename at the same time: either finds it whole, or not at all."""
    aside = folder.with_name(f".{folder.name}.{new_tag()}.tmp")
    with suppress(OSError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def abandoned(path: Path) -> bool:
    """Whether the process that a name belongs to is gone; where that cannot be known, whether nothing has changed for a
    day. Raises OSError where there is no such file."""
    alive = owner_alive(path.name)
    if alive is not None:
        return not alive
    newest = max(each.stat().st_mtime for each in (path, *path.glob("*")))
    return time.time() - newest > ABANDONED_S


def take(folder: Path, by: Path) -> None:
    """Let nothing be written to `folder` from now on unless the file `by` is there, the same as now."""
    _TAKEN[_absolute(folder)] = os.getpid(), by, os.open(by, os.O_RDONLY)


def give_back(folder: Path) -> None:
    """Undo `take`."""
    taken = _TAKEN.pop(_absolute(folder), None)
    if taken is not None:
        os.close(taken[2])


def check_taken(path: Path) -> None:
    """Raise FolderGoneError where `path` lies in a folder that this process had for itself, and has no more."""
    if not _TAKEN:
        return
    place = _absolute(path)
    for folder, (pid, by, handle) in list(_TAKEN.items()):
        if pid != os.getpid() or not (place == folder or place.startswith(folder + os.sep)):
            continue
        try:
            ours = os.path.samestat(by.stat(), os.fstat(handle))
        except OSError as error:
            raise FolderGoneError(
                f"{folder} was deleted or moved while this process was writing to it, so nothing more is written; move "
                "it back, or begin anew, with the same command."
            ) from error
        if not ours:
            raise FolderGoneError(
                f"Another process has taken over {folder}, so this one writes nothing more to it; let that one end, or "
                "name another --out."
            )


def _absolute(path: Path) -> str:
    return os.path.abspath(path)


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

    With `wait`, returns once the lock is free; without, yields False at once when another process has it. Raises
    OSError with one of `NO_LOCKS` where the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        path.touch()  # here, so that who may open it follows from the umask
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
    """Raise InputError where opening `path` could wait for ever or give bytes without an end, and replacing it would
    take a device away: where it is, or links to, a pipe, a device or a socket. What is not there is left to whoever
    opens it."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path} is a pipe, device or socket, not a file; name another, or take it away.")


def open_tensors(path: Path) -> Any:
    """A safetensors file, to be closed as a context. Raises InputError for what is no regular file, FileNotFoundError
    and SafetensorError as `safe_open` does."""
    check_regular(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:  # a name whose bytes are no UTF-8, which the library does not take
        with path.open("rb") as file:
            return safe_open(f"/proc/self/fd/{file.fileno()}", framework="pt")
    return safe_open(path, framework="pt")


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


def fingerprint(values: Tensor) -> str:
    """32 hexadecimal digits of the bytes of a CPU tensor, by XXH3: against flipped bits, at some 30 GB a second."""
    import torch  # not needed by those who read JSON alone

    return xxhash.xxh3_128_hexdigest(values.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _digests(
    plain: Mapping[str, Tensor], header: Mapping[str, str], tensors: Mapping[str, str | list[str]]
) -> dict[str, Any]:
    """Those of the tensors, and one of everything else in the file."""
    shapes = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in plain.items()}
    return {"tensors": tensors, "header": header_digest(shapes, header, tensors)}


def header_digest(shapes: Mapping[str, Any], header: Mapping[str, str], tensors: Mapping[str, Any]) -> str:
    """A digest of all that a file says of itself: types and shapes by name, metadata, digests of the tensors."""
    words = {name: value for name, value in header.items() if name != DIGESTS}
    return xxhash.xxh3_128_hexdigest(json.dumps([shapes, words, tensors], sort_keys=True).encode())


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
    by_row: Collection[str] = (),
    stays: Callable[[Path], bool] | None = None,
) -> None:
    """Write named tensors and JSON metadata to one safetensors file, whole or not at all, with digests of all of it;
    tensors in `by_row` have one for each row, so that a row can be checked alone. For `stays` see `replacing`."""
    from safetensors.torch import save_file  # imports torch, which nobody needs who reads JSON alone

    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    header = {name: json.dumps(value) for name, value in (metadata or {}).items() if name != DIGESTS}
    sums: dict[str, str | list[str]] = {name: fingerprint(tensor) for name, tensor in plain.items()}
    sums |= {name: [fingerprint(row) for row in plain[name]] for name in by_row}
    header[DIGESTS] = json.dumps(_digests(plain, header, sums))
    with replacing(path, stays) as temporary:
        save_file(plain, temporary, metadata=header)


MEND = "move it away and run what wrote it again"


def load_tensors(path: Path, mend: str = MEND) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a file that `save_tensors` wrote. Raises InputError naming a broken file, and one
    whose contents are not what was written; `mend` says what to do then."""
    try:
        with open_tensors(path) as file:
            words = file.metadata() or {}
            header = {name: parse_json(value) for name, value in words.items()}
            # A copy lies where torch would put it: the last bits of a matrix product can depend on the alignment of
            # its factors.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (it is no dictionary)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}; check the path, or make it first.") from error
    except (SafetensorError, OSError) as error:
        raise _no_tensors(path, error, mend) from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"{path} was not written by astdistill (its header holds other words than JSON); name a file of a run."
        ) from error
    except Exception as error:  # a header of other types than the library looks for
        raise _no_tensors(path, error, mend) from error
    sealed, sums = has_digests(words), header.pop(DIGESTS, None)
    if sealed and (wrong := _altered(tensors, words, sums)):
        raise InputError(f"{path} was changed after it was written: {wrong} no longer has its digest; {mend}.")
    return tensors, header


def stated_digests(path: Path) -> dict[str, Any]:
    """The digests of the tensors by name, as a file that `save_tensors` wrote states them; empty where it states none.

    Its header alone is read, without torch, and nothing is checked: see `load_tensors`. Raises OSError, ValueError and
    SafetensorError for any other file.
    """
    check_regular(path)
    with safe_open(path, framework="np") as file:
        words = file.metadata() or {}
    return dict(parse_json(words[DIGESTS])["tensors"]) if DIGESTS in words else {}


def has_digests(words: Mapping[str, str]) -> bool:
    """Whether the metadata of a file have digests, be it under a name that was damaged; files of earlier versions have
    none."""
    return DIGESTS in words or any(text.startswith('{"tensors": ') for text in words.values())


def _altered(tensors: Mapping[str, Tensor], words: Mapping[str, str], sums: Any) -> str:
    """What of a file has another digest than the file says; empty for an undamaged one."""
    if not isinstance(sums, Mapping) or not isinstance(sums.get("tensors"), Mapping):
        return "its list of digests"
    said: Mapping[str, Any] = sums["tensors"]
    if said.keys() != tensors.keys() or _digests(tensors, words, dict(said)) != sums:
        return "its header"
    for name, tensor in tensors.items():
        if not isinstance(said[name], list):
            if fingerprint(tensor) != said[name]:
                return f"'{name}'"
        elif (row := altered_row(tensor, said[name])) is not None:
            return f"row {row} of '{name}'"
    return ""


def altered_row(rows: Tensor, wanted: Collection[str]) -> int | None:
    """The first of `rows` that does not have its digest in `wanted`, counted from 0; None where all have."""
    if len(rows) != len(wanted):
        return min(len(rows), len(wanted))
    pairs = enumerate(zip(rows, wanted, strict=True))
    return next((number for number, (row, digest) in pairs if fingerprint(row) != digest), None)


def _no_tensors(path: Path, error: Exception, mend: str) -> InputError:
    why = printable(str(error).partition("\n")[0])[:200]
    return InputError(f"{path} is not a whole safetensors file ({why}); name another, or {mend}.")


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
    """Append one JSON line; numbers that are not finite become the strings 'nan' and 'inf', since JSON has none.

    Raises InputError for a link: a stranger's folder could have one to any file of the user's.
    """
    check_taken(path)
    check_regular(path)
    if path.is_symlink():
        raise InputError(f"{path} is a link to {path.readlink()}, which is not written to; put the file itself there.")
    path.parent.mkdir(parents=True, exist_ok=True)
    line = dict(value)
    for name, number in value.items():
        if isinstance(number, float) and not math.isfinite(number):
            line[name] = str(number)
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(path: Path, valid: Callable[[dict[str, Any]], object] = bool) -> list[dict[str, Any]]:
    """The JSON objects in the lines of a file, one each, that are `valid`, which may also raise.

    A last line that a kill cut short is left out; others that are damaged are, too, and are told of.
    """
    if not path.exists():
        return []
    check_regular(path)
    raw = path.read_bytes().split(b"\n")
    read = [_line(each, valid) for each in raw]
    lost = [number for number, (line, each) in enumerate(zip(read, raw[:-1], strict=False), 1) if each and line is None]
    if lost:
        words = f"line {lost[0]}"
        if len(lost) > 1:
            words = f"{len(lost)} lines, the first of them {lost[0]},"
        warn(f"{path}: {words} cannot be read and was left out; all else is as it was written.")
    return [line for line in read if line is not None]


def _line(text: bytes, valid: Callable[[dict[str, Any]], object]) -> dict[str, Any] | None:
    """The object of one line; None where there is none, or an invalid one."""
    try:
        value = parse_json(text)
        if isinstance(value, dict) and valid(value) is not False:
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
        return Path(os.path.expanduser(own))
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

    With `file`, `path` is to become a file, and only has to lie in a folder. Addresses in the cloud, names that no file
    can have and links to nothing are refused, too.
    """
    try:
        nameable = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        nameable = False
    if not nameable:
        raise InputError(f"{flag} {str(path)!r} holds signs that no name can have; name another folder.")
    if isinstance(address := place(path), Url):
        raise InputError(
            f"{flag} {address} is an address; name a folder. Only --experts.store and --mirror may be one."
        )
    if not file and path.exists() and not path.is_dir():
        raise InputError(f"{flag} {path} is a file; name a folder.")
    if path.is_symlink() and not path.exists():
        raise InputError(f"{flag} {path} is a link to nothing; make the folder that it names, or name another.")
    for folder in path.parents:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{flag} {path} would lie in {folder}, which is a file; name a folder.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block ends well, remove it when it does not.

    Raises InputError, before the block runs, unless `path` is absent or an empty folder.
    """
    _check_empty(path)
    check_folder(path, "--out")
    temporary = beside(path, folder=True)
    try:
        with naming(path):
            yield temporary
            if path.exists():
                path.rmdir()  # an empty folder, which not every system lets a rename replace
            temporary.replace(path)
    except OSError:
        _check_empty(path)  # another process may have been faster
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_empty(path: Path) -> None:
    if path.is_dir() and any(path.iterdir()):
        raise InputError(
            f"--out {path} is there already and is not an empty folder; name a new one, for example --out {path}-2"
        )
