"""No library is loaded that is not whole, or that another user could have written."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from astdistill.autodiff.native import build
from astdistill.autodiff.native.variants import Variant, is_intact, named_by_content

pytestmark = pytest.mark.skipif(
    build.library() is None or not hasattr(os, "geteuid"), reason="no C compiler on this machine, or no owners of files"
)
OTHER = 65534
as_root = pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root gives files away")


class Cache:
    """A cache of its own, whose compiler hands out a library that exists already and counts how often."""

    def __init__(self, folder: Path, right: bytes) -> None:
        self.folder, self.right, self.built = folder / "kernels", right, 0

    def compile(self, compiler: list[str], variant: Variant, to: Path) -> None:
        self.built += 1
        to.write_bytes(self.right)
        to.chmod(0o777)

    @property
    def library(self) -> Path:
        (path,) = self.folder.glob("*.so")
        return path

    def load(self) -> ctypes.CDLL:
        kernels = build.make()
        assert build.lanes(kernels) in (4, 8, 16)
        return kernels

    def is_right(self) -> bool:
        return self.library.read_bytes() == self.right and self.library.stat().st_mode & 0o777 == 0o644


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    kernels = build.library()
    assert kernels is not None
    made = Cache(tmp_path / "cache", Path(kernels._name).read_bytes())
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "compile_kernels", made.compile)
    monkeypatch.setattr(build, "BUNDLED", tmp_path / "no wheel")
    return made


def rewritten(path: Path, content: bytes) -> None:
    """Not in place: this process has the library loaded."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(0o644)
    new.replace(path)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    rewritten(path, bytes(content))


def cut(path: Path) -> None:
    rewritten(path, path.read_bytes()[:4000])


def emptied(path: Path) -> None:
    rewritten(path, b"")


def lengthened(path: Path) -> None:
    """Still a library that could be loaded."""
    rewritten(path, path.read_bytes() + b"planted")


def opened_to_all(path: Path) -> None:
    path.chmod(0o666)


def opened_to_the_group(path: Path) -> None:
    path.chmod(0o664)


def linked(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere.so"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def given_away(path: Path) -> None:
    os.chown(path, OTHER, OTHER)


@pytest.mark.parametrize(
    "spoil",
    [
        flipped,
        cut,
        emptied,
        lengthened,
        opened_to_all,
        opened_to_the_group,
        linked,
        pytest.param(given_away, marks=as_root),
    ],
)
def test_a_library_that_is_not_whole_or_not_ours_is_built_again(cache: Cache, spoil: Callable[[Path], None]) -> None:
    cache.load()
    cache.load()
    assert cache.built == 1
    spoil(cache.library)
    cache.load()
    assert cache.built == 2
    assert cache.is_right()
    assert not cache.library.is_symlink()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_folder_that_others_can_write_to_is_closed_and_emptied(cache: Cache, mode: int) -> None:
    cache.load()
    planted = cache.library.with_name("planted.so")
    planted.write_bytes(b"whatever")
    cache.folder.chmod(mode)
    cache.load()
    assert cache.built == 2
    assert cache.is_right()
    assert not planted.exists()
    assert cache.folder.stat().st_mode & 0o022 == 0


@as_root
def test_nothing_is_taken_from_a_folder_of_another_user(cache: Cache) -> None:
    cache.load()
    before = cache.library
    os.chown(cache.folder, OTHER, OTHER)
    kernels = cache.load()
    assert cache.built == 2
    assert Path(kernels._name).parent != cache.folder
    assert not Path(kernels._name).exists()
    assert cache.library == before
    assert "for this process alone" in build.described(kernels)


@pytest.mark.parametrize("place", ["cache", "cache/kernels"])
def test_where_no_folder_can_be_made_the_kernels_are_built_for_the_process(cache: Cache, place: str) -> None:
    path = cache.folder.parent.parent / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("a file in the way")
    cache.load()
    assert cache.built == 1
    assert path.read_text() == "a file in the way"


def test_a_linked_folder_is_not_trusted(cache: Cache) -> None:
    cache.load()
    elsewhere = cache.folder.with_name("elsewhere")
    cache.folder.rename(elsewhere)
    cache.folder.symlink_to(elsewhere)
    kernels = cache.load()
    assert cache.built == 2
    assert not Path(kernels._name).exists()


def test_what_a_killed_build_left_is_swept(cache: Cache) -> None:
    cache.folder.mkdir(parents=True)
    old, new = cache.folder / ".build-old", cache.folder / ".build-new"
    for left in (old, new):
        left.mkdir()
        (left / "new.so").write_bytes(b"half")
    then = time.time() - 2 * build.OLD_S
    os.utime(old, (then, then))
    cache.load()
    assert not old.exists()
    assert new.exists()


def test_the_umask_does_not_open_the_cache(cache: Cache) -> None:
    before = os.umask(0)
    try:
        cache.load()
    finally:
        os.umask(before)
    assert cache.folder.stat().st_mode & 0o077 == 0
    assert cache.is_right()


def test_the_wheels_kernels_come_first_unless_damaged(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = build.for_this_processor()
    path = named_by_content(tmp_path / "built", variant.name, cache.right)
    path.parent.mkdir()
    path.write_bytes(cache.right)
    monkeypatch.setattr(build, "BUNDLED", path.parent)
    assert build.described(cache.load()) == f"{variant.instructions} kernels of the wheel"
    assert cache.built == 0
    flipped(path)
    assert not is_intact(path)
    assert build.described(cache.load()) == f"{variant.instructions} kernels compiled here"
    assert cache.built == 1
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(build.KernelError, match="no C compiler"):
        build.make()


def test_the_processors_instructions_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, machine, name in (
        ("AVX512", "x86_64", "avx512"),
        ("AVX2", "x86_64", "avx2"),
        ("DEFAULT", "x86_64", "sse"),
        ("DEFAULT", "arm64", "neon"),
        ("SVE256", "aarch64", "neon"),
        ("DEFAULT", "ppc64le", "plain"),
    ):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda capability=capability: capability)
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        assert build.for_this_processor().name == name


def test_there_is_one_openmp_runtime() -> None:
    """The kernels name none of their own, and what they call is torch's."""
    kernels = build.library()
    assert kernels is not None
    if shutil.which("readelf") is None:
        pytest.skip("no readelf")
    needed = subprocess.run(["readelf", "-d", kernels._name], capture_output=True, text=True, check=True).stdout
    assert "libc.so" in needed
    assert "omp" not in needed
