"""Objects in the cloud, through fsspec: their addresses, atomic creation of whole objects, and reads of byte ranges.
Nothing here is specific to dataset distillation."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .text import printable

if TYPE_CHECKING:
    PlainPath = Path
else:
    PlainPath = type(Path())

ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(/+(?P<rest>.*))?", re.DOTALL)
"""An address with a scheme, also in the form that `Path` makes of it; one letter and a colon are a drive."""
INSTALLS = {
    "s3": ("s3fs", "'astdistill[s3]'"),
    "gs": ("gcsfs", "gcsfs"),
    "abfs": ("adlfs", "adlfs"),
    "memory": ("", ""),
}
"""By scheme, the package that fsspec needs, and what to install with pip. These file systems support put-if-absent."""
MARKER = "astdistill.json"
"""An object at the top of an address, used to test that a second object does not replace the first."""
RETRIES = 5
"""Requests for an object that another writer is putting at the same time, before this is an error."""
_SYSTEMS: dict[tuple[int, str], Any] = {}
"""File systems of fsspec, by process and scheme: none survives a fork."""


class GoneError(InputError):
    """There is no object of that name, or no bucket."""


class Url(PlainPath):
    """An address such as s3://bucket/folder, as a path without a file system: parts, names and `/` work, file access
    does not."""

    def __str__(self) -> str:
        scheme, *parts = self.parts
        return f"{scheme}//{'/'.join(parts)}"

    @property
    def scheme(self) -> str:
        return self.parts[0].rstrip(":")


def path_or_url(value: str | Path) -> Path:
    """A path, or a Url if the value is an address with a scheme; file:// gives a path. Raises InputError for unknown
    schemes, and for an empty text, which pathlib reads as the current folder."""
    if value == "":
        raise InputError("'' names no folder; give one, for example 'experts', or '.' for the current one.")
    address = ADDRESS.fullmatch(str(value))
    if address is None:
        return Path(value)
    scheme, rest = address["scheme"].lower(), address["rest"] or ""
    if scheme in ("file", "local"):
        return Path("/", rest)
    if scheme not in INSTALLS:
        raise InputError(
            f"{scheme}://{rest} was given, but '{scheme}' is no scheme of a store; choose a folder, or one of "
            f"{', '.join(f'{each}://' for each in (*INSTALLS, 'file'))}."
        )
    if not rest.strip("/"):
        raise InputError(f"{scheme}:// names no bucket; write {scheme}://BUCKET/FOLDER.")
    return Url(f"{scheme}:/", *rest.split("/"))


class Objects:
    """The objects below an address, by names relative to it. Errors become an InputError that says what to do."""

    def __init__(self, url: Url) -> None:
        self.url = url

    @property
    def _system(self) -> Any:
        key = os.getpid(), self.url.scheme
        if key not in _SYSTEMS:
            _SYSTEMS[key] = _system(self.url)
        return _SYSTEMS[key]

    def _full_name(self, name: str) -> str:
        return f"{self.url}/{name}".rstrip("/")

    def check(self) -> set[str]:
        """The names directly below the address. Raises InputError unless objects can be listed and created here, and
        none replaces another: one request, or three at an address without the marker."""
        names = self.top()
        if MARKER not in names:
            self.check_writable()
        return names

    def check_writable(self) -> None:
        """Raise InputError unless objects can be created here, and none replaces another."""
        text = b'{"format": 1}\n'
        if self.put(MARKER, text) and self.put(MARKER, text):
            raise InputError(
                f"{self.url} lets a second object replace the first of the same name (it ignores If-None-Match: *), so "
                "that two writers could damage a store; take a server that has conditional writes, or a folder."
            )

    def top(self) -> set[str]:
        """The names directly below the address: of objects, and of prefixes that correspond to folders."""
        with self._input_errors(self.url):
            try:
                self._system.invalidate_cache()
                listed = self._system.ls(str(self.url), detail=False)
            except FileNotFoundError as error:
                if _error_code(error) == "NoSuchBucket":
                    raise
                return set()  # an empty bucket
        return {str(each).rstrip("/").rpartition("/")[2] for each in listed}

    def sizes(self, under: str = "") -> dict[str, int]:
        """The sizes in bytes of all objects below `under`, by name."""
        with self._input_errors(self.url):
            start = len(self._system._strip_protocol(str(self.url))) + 1
            self._system.invalidate_cache()
            listed = self._system.find(self._full_name(under), detail=True)
        return {path[start:]: int(info["size"]) for path, info in listed.items()}

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` … `stop` − 1 of an object, in one request; fewer where it ends before."""
        with self._input_errors(self.url / name):
            return self._system.cat_file(self._full_name(name), start=start, end=stop)

    def read_all(self, name: str) -> bytes:
        """All bytes of an object."""
        with self._input_errors(self.url / name):
            return self._system.cat_file(self._full_name(name))

    @contextmanager
    def brought(self, name: str) -> Iterator[Path]:
        """Download an object to a file of the same name for the block; in messages of InputErrors, the path of the file
        is replaced by the address of the object."""
        with tempfile.TemporaryDirectory(prefix="astdistill-") as folder:
            file = Path(folder, name.rpartition("/")[2])
            file.write_bytes(self.read_all(name))
            try:
                yield file
            except InputError as error:
                raise InputError(str(error).replace(str(file), self._full_name(name))) from error

    def put(self, name: str, data: bytes) -> bool:
        """Create a whole object unless there is one of that name. Returns whether it was created; False keeps the
        existing one."""
        with self._input_errors(self.url / name):
            for remaining in reversed(range(RETRIES)):
                try:
                    self._system.pipe_file(self._full_name(name), data, mode="create")
                    return True
                except OSError as error:
                    if _already_exists(error):
                        return False
                    if not remaining or _error_code(error) not in ("ConditionalRequestConflict", "OperationAborted"):
                        raise
        return False

    def replace(self, name: str, data: bytes) -> None:
        """Put a whole object, replacing one of that name."""
        with self._input_errors(self.url / name):
            self._system.pipe_file(self._full_name(name), data)

    def remove(self, name: str) -> None:
        """Remove an object if it exists."""
        with self._input_errors(self.url / name):
            try:
                self._system.rm_file(self._full_name(name))
            except FileNotFoundError:
                return

    @contextmanager
    def _input_errors(self, url: Url) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except FileNotFoundError as error:
            raise GoneError(_missing_message(url, error)) from error
        except Exception as error:  # each package behind fsspec raises other types
            raise InputError(_failure_message(url, error)) from error


def _system(url: Url) -> Any:
    """fsspec's file system of an address. Raises InputError if its package is missing."""
    package, install = INSTALLS[url.scheme]
    if package and importlib.util.find_spec(package) is None:
        raise InputError(f"{url} needs the package {package}, which is missing; install it with: pip install {install}")
    import fsspec

    options: dict[str, Any] = {}
    if url.scheme == "s3":
        options = {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60}}
    return fsspec.filesystem(url.scheme, use_listings_cache=False, **options)


def _error_code(error: BaseException | None) -> str:
    """The error code of S3; '' if there is none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def _already_exists(error: OSError) -> bool:
    """Whether an object was refused because one of that name exists; servers differ in the condition that they
    report."""
    return isinstance(error, FileExistsError) or _error_code(error) in ("PreconditionFailed", "412")


def _missing_message(url: Url, error: FileNotFoundError) -> str:
    bucket = url.parts[1]
    if _error_code(error) == "NoSuchBucket":
        return f"There is no bucket '{bucket}' ({url}); make it, or correct the address."
    return f"There is no object {url}, or no bucket '{bucket}'; correct the address, or run the same command again."


def _failure_message(url: Url, error: Exception) -> str:
    reason = printable(f"{error}".partition("\n")[0])[:200] or type(error).__name__
    if isinstance(error, PermissionError):
        return (
            f"{url} may not be used ({reason}); the rights to list, read and put objects are needed there: name the "
            "credentials that have them, for example by AWS_PROFILE, or another place."
        )
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
        return (
            f"There are no credentials for {url} ({reason}); name them, for example by AWS_PROFILE, or aws configure."
        )
    return (
        f"{url} cannot be reached ({type(error).__name__}: {reason}); check the network and, where the server is not "
        "Amazon's, AWS_ENDPOINT_URL. Finished work is kept, and the same command resumes it."
    )
