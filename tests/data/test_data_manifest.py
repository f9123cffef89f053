"""Files that did not change are not read again, and every change is seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from problems import rows_read

from astdistill.data import cache as pixel_cache
from astdistill.data import digests
from astdistill.data.digests import FileSet, Manifest, read_notes, write_notes
from astdistill.data.loading import load_dataset
from astdistill.runtime.errors import InputError

TICK = 0.02
"""Seconds: several ticks of the clock by which files get their times."""


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of files each time all bytes of a source are read."""
    calls: list[int] = []
    original = FileSet.content

    def counted(self: FileSet) -> str:
        calls.append(len(self.files))
        return original(self)

    monkeypatch.setattr(FileSet, "content", counted)
    return calls


@pytest.fixture
def pets(tmp_path: Path, write_pictures: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes, written long enough ago for a file system whose clock is as fine as here."""
    folder = tmp_path / "pets"
    for number, name in enumerate("ab"):
        write_pictures(folder / "train" / name, 4, seed=number)
        write_pictures(folder / "test" / name, 2, seed=10 + number)
    monkeypatch.setattr(digests, "SETTLED", 0)
    time.sleep(TICK)
    return folder


def load(folder: Path) -> str:
    """The fingerprint; the next change of a file has another time."""
    found = load_dataset(str(folder)).fingerprint
    time.sleep(TICK)
    return found


def test_unchanged_files_are_read_once(pets: Path, reads: list[int]) -> None:
    assert load(pets) == load(pets) == load(pets)
    assert reads == [12]


def test_files_as_young_as_the_clock_is_coarse_are_read_again(
    pets: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could change once more within one tick and keep size and time."""
    monkeypatch.setattr(digests, "SETTLED", 2_000_000_000)
    assert load(pets) == load(pets)
    assert reads == [12, 12]
    monkeypatch.setattr(digests, "SETTLED", 0)
    assert load(pets) == load(pets)
    assert reads == [12, 12, 12]


def test_touched_files_are_read_again_and_the_manifest_follows(pets: Path, reads: list[int], cache: Path) -> None:
    first = load(pets)
    for time_of_change in (2 * 10**9, 10**9, 3 * 10**9):  # an older one is a change, too
        os.utime(pets / "train/a/000.png", ns=(time_of_change, time_of_change))
        time.sleep(TICK)
        assert load(pets) == load(pets) == first
    assert reads == [12] * 4
    assert len(list(cache.glob("pets-*/"))) == 1


def test_a_time_of_the_future_is_never_trusted(pets: Path, reads: list[int]) -> None:
    os.utime(pets / "train/a/000.png", ns=(4 * 10**18, 4 * 10**18))
    assert load(pets) == load(pets)
    assert reads == [12, 12]


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "replaced", "swapped"])
def test_every_change_is_seen(pets: Path, reads: list[int], change: str) -> None:
    first = load(pets)
    one, other = pets / "train/a/000.png", pets / "train/b/000.png"
    before = one.stat()
    if change == "added":
        (pets / "train/a/new.png").write_bytes(other.read_bytes())
    elif change == "removed":
        one.unlink()
    elif change == "renamed":
        one.rename(pets / "train/a/zzz.png")
    elif change == "replaced":  # as long as the old file, and older
        one.write_bytes(other.read_bytes()[: before.st_size].ljust(before.st_size, b"\0"))
        os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))
    else:  # two classes exchange a picture, each file with the time of the other
        kept = pets / "kept"
        one.rename(kept)
        other.rename(one)
        kept.rename(other)
    time.sleep(TICK)
    second = load(pets)
    assert second != first
    assert len(reads) == 2
    assert load(pets) == second
    assert len(reads) == 2


def test_a_time_that_was_put_back_does_not_hide_a_change(pets: Path, reads: list[int]) -> None:
    one = pets / "train/a/000.png"
    before, files = one.stat(), FileSet([one], pets)
    manifest = Manifest(pets / "notes.json", files)
    first = manifest.content()
    manifest.keep()
    one.write_bytes(bytes(before.st_size))
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = one.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert Manifest(pets / "notes.json", files).content() != first


def test_a_file_that_changes_while_it_is_read_is_not_noted(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, original = pets / "train/a/000.png", FileSet.content

    def overtaken(self: FileSet) -> str:
        found = original(self)
        os.utime(one, ns=(1, 1))
        return found

    manifest = Manifest(pets / "notes.json", FileSet([one], pets))
    with monkeypatch.context() as patch:
        patch.setattr(FileSet, "content", overtaken)
        manifest.content()
    manifest.keep()
    assert not read_notes(pets / "notes.json")


def test_a_copy_elsewhere_is_the_same_content(pets: Path, tmp_path: Path, reads: list[int]) -> None:
    first = load(pets)
    shutil.copytree(pets, tmp_path / "elsewhere" / "pets")
    time.sleep(TICK)
    assert load(tmp_path / "elsewhere" / "pets") == first == load(pets)
    assert reads == [12, 12]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1, "notes": {"a": 3}}', '{"format": 1, "notes": []}']
)
def test_a_damaged_manifest_is_made_again(pets: Path, reads: list[int], cache: Path, text: str) -> None:
    first = load(pets)
    for name in ("pets-*.manifest.json", "pets-*/seal.json"):
        (file,) = cache.glob(name)
        file.write_text(text)
    assert load(pets) == load(pets) == first
    assert reads == [12, 12]


def test_a_digit_that_changed_in_a_manifest_is_noticed(pets: Path, reads: list[int], cache: Path) -> None:
    first = load(pets)
    (file,) = cache.glob("pets-*.manifest.json")
    (content,) = read_notes(file).values()
    file.write_text(file.read_text().replace(content[:8], "00000000"))
    assert load(pets) == first
    assert len(reads) == 2


def test_a_cache_that_can_only_be_read(
    pets: Path, reads: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not bind a superuser, so the system's refusal is played."""
    first = load(pets)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(cache))

    for module, name in ((pixel_cache, "lock"), (pixel_cache, "write_json"), (digests, "write_json")):
        monkeypatch.setattr(module, name, refuse)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert load(pets) == first
    assert len(reads) == 1
    os.utime(pets / "train/a/000.png", ns=(1, 1))
    assert load(pets) == load(pets) == first
    assert len(reads) == 3
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_a_cache_that_went_away_is_made_again(pets: Path, reads: list[int], cache: Path) -> None:
    first = load(pets)
    shutil.rmtree(cache)
    assert load(pets) == load(pets) == first
    assert len(reads) == 2


def test_arrays_that_nobody_touched_are_not_checked_again(
    pets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_cache, "SEALED", 0)
    chosen = {"memory": "disk", "whiten": "none", "validation": 0.25}
    first = load_dataset(str(pets), **chosen)
    read = rows_read(monkeypatch)
    again = load_dataset(str(pets), **chosen)
    assert read == []
    assert again.fingerprint == first.fingerprint
    (file,) = cache.glob("pets-*/train.npy")
    os.utime(file, ns=(1, 1))
    assert load_dataset(str(pets), **chosen).fingerprint == first.fingerprint
    assert sum(read) == 12


def test_an_entry_sealed_too_soon_is_checked_again(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_cache, "SEALED", 10**15)
    load_dataset(str(pets), memory="disk", whiten="none")
    read = rows_read(monkeypatch)
    load_dataset(str(pets), memory="disk", whiten="none")
    assert sum(read) == 12


def test_verify_reads_every_byte(pets: Path, reads: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that changes a bit changes no time: only `verify` finds that."""
    monkeypatch.setattr(pixel_cache, "SEALED", 0)
    first = load_dataset(str(pets), whiten="none").fingerprint
    (file,) = cache.glob("pets-*/train.npy")
    (stamp,) = read_notes(file.parent / "seal.json")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    original = FileSet.stamp
    with monkeypatch.context() as patch:
        patch.setattr(FileSet, "stamp", lambda self: original(self) if self.folder == pets else digests.Stamp(stamp, 0))
        damaged = load_dataset(str(pets), whiten="none")
        assert damaged.fingerprint == first
        assert len(reads) == 1
        mended = load_dataset(str(pets), whiten="none", verify=True)
    assert len(reads) == 2
    assert mended.fingerprint == first
    assert not torch.equal(damaged.train.whole(), mended.train.whole())


def test_two_processes_at_once(pets: Path, tmp_path: Path) -> None:
    code = (
        "# forked\nimport sys; from astdistill.data import digests, load_dataset; digests.SETTLED = 0; "
        f"print(*[load_dataset({str(pets)!r}, per_class=count).fingerprint for count in (1, 2, 3, 4)])"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(set(said)) == 1
    assert len(set(said[0].split())) == 4
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".tmp", ".partial")]


def test_the_latest_notes_are_kept(tmp_path: Path) -> None:
    for number in range(digests.NOTES + 5):
        write_notes(tmp_path / "notes.json", {str(number): "x"})
    assert list(read_notes(tmp_path / "notes.json")) == [str(number) for number in range(5, digests.NOTES + 5)]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png cannot be read"):
        FileSet([tmp_path / "gone.png"]).stamp()
