from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from astdistill.data.cache import Stored, cached
from astdistill.data.dataset import Dataset
from astdistill.data.digests import FileSet
from astdistill.data.loading import load_dataset
from astdistill.runtime.files import cache_folder


@pytest.fixture
def pets(tmp_path: Path, write_pictures: Callable[..., None]) -> Path:
    folder = tmp_path / "pets"
    for number, name in enumerate("ab"):
        write_pictures(folder / "train" / name, 4, seed=number)
        write_pictures(folder / "test" / name, 2, seed=10 + number)
    return folder


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one entry each time a source is decoded."""
    from astdistill.data import sources

    calls: list[str] = []
    original = sources.decoded

    def counted(*arguments: object) -> object:
        calls.append("decoded")
        return original(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(sources, "decoded", counted)
    return calls


def same(first: Dataset, second: Dataset) -> bool:
    return (
        first.fingerprint == second.fingerprint
        and torch.equal(first.train.whole(), second.train.whole())
        and torch.equal(first.test.whole(), second.test.whole())
    )


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ASTDISTILL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "astdistill"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "astdistill"


def test_pictures_are_decoded_once(pets: Path, decodings: list[str], cache: Path) -> None:
    first, second = load_dataset(str(pets)), load_dataset(str(pets))
    assert same(first, second)
    assert len(decodings) == 1
    (file,) = cache.glob("pets-*/train.npy")
    assert np.load(file).dtype == np.uint8
    assert not list(cache.glob(".pets-*.partial"))


def test_the_key_is_the_content_and_not_the_time_or_the_place(pets: Path, tmp_path: Path, decodings: list[str]) -> None:
    first = load_dataset(str(pets))
    for file in pets.rglob("*.png"):
        os.utime(file, (1, 1))
    shutil.copytree(pets, tmp_path / "elsewhere" / "pets")
    assert same(first, load_dataset(str(tmp_path / "elsewhere" / "pets")))
    assert len(decodings) == 1


def test_changed_bytes_are_read_anew_even_with_the_old_time(pets: Path, decodings: list[str]) -> None:
    first = load_dataset(str(pets))
    one, other = pets / "train/a/000.png", pets / "train/a/001.png"
    before = one.stat()
    shutil.copyfile(other, one)
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = load_dataset(str(pets))
    assert changed.fingerprint != first.fingerprint
    assert torch.equal(changed.train.whole()[0], changed.train.whole()[1])
    assert len(decodings) == 2


def test_settings_that_change_the_pixels_are_part_of_the_key(pets: Path, decodings: list[str]) -> None:
    load_dataset(str(pets))
    assert load_dataset(str(pets), size=16).shape == (3, 16, 16)
    assert load_dataset(str(pets), classes=["b", "a"]).classes == ("b", "a")
    assert len(decodings) == 3
    load_dataset(str(pets), per_class=2, whiten="zca", validation=0.5)
    assert len(decodings) == 3


@pytest.mark.parametrize("name", ["train.npy", "test.npy", "train-labels.npy", "data.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "foreign"])
def test_a_broken_cache_file_is_made_again(
    pets: Path, decodings: list[str], cache: Path, name: str, damage: str
) -> None:
    first = load_dataset(str(pets))
    (file,) = cache.glob(f"pets-*/{name}")
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[-5] ^= 1
    broken = {"cut": bytes(data[:-5]), "flipped": bytes(data), "emptied": b"", "foreign": b"something else altogether"}[
        damage
    ]
    file.unlink()
    file.write_bytes(broken)
    assert same(first, load_dataset(str(pets)))
    assert same(first, load_dataset(str(pets)))
    assert len(decodings) == 2


def test_nothing_is_left_behind_when_building_fails(cache: Path) -> None:
    def build() -> Stored:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        cached("x", "key", build)
    assert not list(cache.glob("*"))


def test_a_cache_that_cannot_be_written_costs_only_time(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decodings: list[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "file"))
    assert same(load_dataset(str(pets)), load_dataset(str(pets)))
    assert len(decodings) == 2


def test_large_whitenings_are_fitted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: Callable[..., torch.Tensor], cache: Path
) -> None:
    from astdistill.data import loading

    np.savez(tmp_path / "own.npz", images=pixels(30, 32, 32).numpy(), labels=np.arange(30) % 2)
    first = load_dataset(str(tmp_path / "own.npz"), whiten="zca")
    assert len(list(cache.glob("zca-*.safetensors"))) == 1
    monkeypatch.setattr(loading, "fit_zca", None)
    second = load_dataset(str(tmp_path / "own.npz"), whiten="zca")
    assert same(first, second)
    assert first.preprocessing.hash == second.preprocessing.hash


def test_content_depends_on_names_and_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    found = {
        FileSet([one, two], tmp_path).content(),
        FileSet([two, one], tmp_path).content(),
        FileSet([one, two]).content(),
        FileSet([one], tmp_path).content(),
    }
    assert len(found) == 4
