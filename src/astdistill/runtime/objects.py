"""Objects in the cloud, by fsspec: their addresses, whole objects that are put where there is none, and parts that are
read by range. No domain words here."""

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
"""An address with a scheme, also as a path has it that was made of it; one letter and a colon are a drive."""
INSTALLS = {
    "s3": ("s3fs", "'astdistill[s3]'"),
    "gs": ("gcsfs", "gcsfs"),
    "abfs": ("adlfs", "adlfs"),
    "memory": ("", ""),
}
"""By scheme, the package that fsspec needs for it, and what pip is told to install. These have put-if-absent."""
MARKER = "astdistill.json"
"""An object at the top of a place, by which it is found out that a second object does not replace the first."""
RETRIES = 5
"""Requests for one object that another writer is putting at the same moment, before this is an error."""
_SYSTEMS: dict[tuple[int, str], Any] = {}
"""fsspec's file systems, by process and scheme: none survives a fork."""


class GoneError(InputError):
    """There is no object of that name, or no bucket."""


class Url(PlainPath):
    """An address such as s3://bucket/folder, as a path without a file system: parts, names and `/` work, files do
    not."""

    def __str__(self) -> str:
        scheme, *rest = self.parts
        return f"{scheme}//{'/'.join(rest)}"

    @property
    def scheme(self) -> str:
        return self.parts[0].rstrip(":")


def place(value: str | Path) -> Path:
    """A path, or a Url where the value is an address with a scheme; file:// is a path. Raises InputError for schemes
    that are not known."""
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
    """What lies below an address, by names relative to it. What goes wrong is an InputError that says what to do."""

    def __init__(self, url: Url) -> None:
        self.url = url

    @property
    def _system(self) -> Any:
        key = os.getpid(), self.url.scheme
        if key not in _SYSTEMS:
            _SYSTEMS[key] = _system(self.url)
        return _SYSTEMS[key]

    def _at(self, name: str) -> str:
        return f"{self.url}/{name}".rstrip("/")

    def check(self) -> set[str]:
        """The names directly below the address. Raises InputError unless objects can be listed and put here, and none
        is put over another: one request, or three where nobody has put anything here before."""
        names = self.top()
        if MARKER not in names:
            self.check_writable()
        return names

    def check_writable(self) -> None:
        """Raise InputError unless objects can be put here, and none is put over another."""
        text = b'{"format": 1}\n'
        if self.put(MARKER, text) and self.put(MARKER, text):
            raise InputError(
                f"{self.url} lets a second object replace the first of the same name (it ignores If-None-Match: *), so "
                "that two writers could damage a store; take a server that has conditional writes, or a folder."
            )

    def top(self) -> set[str]:
        """The names directly below the address: of objects, and of what would be folders."""
        with self._saying(self.url):
            try:
                self._system.invalidate_cache()
                listed = self._system.ls(str(self.url), detail=False)
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return set()  # a bucket with nothing there
        return {str(each).rstrip("/").rpartition("/")[2] for each in listed}

    def sizes(self, under: str = "") -> dict[str, int]:
        """The bytes of every object below `under`, by name."""
        with self._saying(self.url):
            start = len(self._system._strip_protocol(str(self.url))) + 1
            self._system.invalidate_cache()
            listed = self._system.find(self._at(under), detail=True)
        return {path[start:]: int(about["size"]) for path, about in listed.items()}

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` … `stop` − 1 of an object, in one request; fewer where it ends before."""
        with self._saying(self.url / name):
            return self._system.cat_file(self._at(name), start=start, end=stop)

    def whole(self, name: str) -> bytes:
        """All bytes of an object."""
        with self._saying(self.url / name):
            return self._system.cat_file(self._at(name))

    @contextmanager
    def brought(self, name: str) -> Iterator[Path]:
        """An object as a file of the same name, for the block; what an InputError says of the file, it says of the
        object."""
        with tempfile.TemporaryDirectory(prefix="astdistill-") as folder:
            file = Path(folder, name.rpartition("/")[2])
            file.write_bytes(self.whole(name))
            try:
                yield file
            except InputError as error:
                raise InputError(str(error).replace(str(file), self._at(name))) from error

    def put(self, name: str, data: bytes) -> bool:
        """Put a whole object where there is none; whether that was done. False: there is one, which stays."""
        with self._saying(self.url / name):
            for left in reversed(range(RETRIES)):
                try:
                    self._system.pipe_file(self._at(name), data, mode="create")
                    return True
                except OSError as error:
                    if _is_there(error):
                        return False
                    if not left or _code(error) not in ("ConditionalRequestConflict", "OperationAborted"):
                        raise
        return False

    def replace(self, name: str, data: bytes) -> None:
        """Put a whole object, over one of that name if there is one."""
        with self._saying(self.url / name):
            self._system.pipe_file(self._at(name), data)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self._saying(self.url / name):
            try:
                self._system.rm_file(self._at(name))
            except FileNotFoundError:
                return

    @contextmanager
    def _saying(self, where: Url) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except FileNotFoundError as error:
            raise GoneError(_missing(where, error)) from error
        except Exception as error:  # every package behind fsspec raises types of its own
            raise InputError(_sentence(where, error)) from error


def _system(url: Url) -> Any:
    """fsspec's file system of an address. Raises InputError where its package is missing."""
    package, wanted = INSTALLS[url.scheme]
    if package and importlib.util.find_spec(package) is None:
        raise InputError(f"{url} needs the package {package}, which is missing; install it with: pip install {wanted}")
    import fsspec

    how: dict[str, Any] = {}
    if url.scheme == "s3":
        how = {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60}}
    return fsspec.filesystem(url.scheme, use_listings_cache=False, **how)


def _code(error: BaseException | None) -> str:
    """What S3 calls an error; '' where it does not say."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def _is_there(error: OSError) -> bool:
    """Whether an object was refused because one of that name is there; not every server says by which condition."""
    return isinstance(error, FileExistsError) or _code(error) in ("PreconditionFailed", "412")


def _missing(where: Url, error: FileNotFoundError) -> str:
    bucket = where.parts[1]
    if _code(error) == "NoSuchBucket":
        return f"There is no bucket '{bucket}' ({where}); make it, or correct the address."
    return f"There is no object {where}, or no bucket '{bucket}'; correct the address, or run the same command again."


def _sentence(where: Url, error: Exception) -> str:
    why = printable(f"{error}".partition("\n")[0])[:200] or type(error).__name__
    if isinstance(error, PermissionError):
        return (
            f"{where} may not be used ({why}); the rights to list, read and put objects are needed there: name the "
            "credentials that have them, for example by AWS_PROFILE, or another place."
        )
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
        return f"There are no credentials for {where} ({why}); name them, for example by AWS_PROFILE, or aws configure."
    return (
        f"{where} cannot be reached ({type(error).__name__}: {why}); check the network and, where the server is not "
        "Amazon's, AWS_ENDPOINT_URL. What is done is kept, and the same command goes on with it."
    )
