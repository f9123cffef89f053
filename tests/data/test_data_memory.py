"""Three ways to hold the images, and the same batches from each: for every layout that can be read."""

from __future__ import annotations

import errno
import io
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from folders import write_parquet
from PIL import Image
from problems import rows_read

from astdistill.data import cache as pixel_cache
from astdistill.data import decoding, digests, loading, preprocessing
from astdistill.data import storage as holdings
from astdistill.data import storage as memory
from astdistill.data.dataset import LARGEST_SIDE, DataConfig, Dataset, Split
from astdistill.data.loading import load_dataset
from astdistill.data.preprocessing import fit_standard, fit_zca
from astdistill.data.storage import ByteImages, MappedImages, float_images, held_bytes, residence
from astdistill.data.tensors import dataset_from_tensors
from astdistill.runtime import progress
from astdistill.runtime.errors import InputError
from astdistill.runtime.worker import TensorPickler, TensorUnpickler, nameless_file

Build = Callable[[Path], str]


def pictures(folder: Path) -> str:
    """Class folders, one grey picture among those in colour."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 9), ("val", 3)):
        for name in "ab":
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                shape = (8, 8) if number == 2 else (8, 8, 3)
                Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(
                    folder / part / name / f"{number}.png"
                )
    return str(folder)


def parquet(folder: Path) -> str:
    write_parquet(folder, classes=3, count=5, image="img", label="label", test=2)
    return str(folder)


def tiny_imagenet(folder: Path) -> str:
    draw, lines = np.random.default_rng(0), []
    for wnid in ("n01443537", "n02124075"):
        for number, place in enumerate((f"train/{wnid}/images", f"train/{wnid}/images", "val/images")):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
                folder / place / f"{wnid}_{number}.JPEG"
            )
        lines.append(f"{wnid}_2.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("n01443537\nn02124075\n")
    return str(folder)


def tiny_imagenet_zip(folder: Path) -> str:
    tiny_imagenet(folder / "tiny-imagenet-200")
    path = folder / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((folder / "tiny-imagenet-200").rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return str(path)


def npz(folder: Path) -> str:
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    np.savez(
        folder / "own.npz", x_train=images[:30], y_train=np.arange(30) % 3, x_test=images[30:], y_test=np.arange(10) % 3
    )
    return str(folder / "own.npz")


LAYOUTS: dict[str, Build] = {
    "pictures": pictures,
    "parquet": parquet,
    "tiny imagenet": tiny_imagenet,
    "tiny imagenet, zip": tiny_imagenet_zip,
    "npz": npz,
    "digits": lambda _: "digits",
}


def splits(dataset: Dataset) -> list[Split]:
    return [split for split in (dataset.train, dataset.test, dataset.validation) if split is not None]


def assert_same(first: Dataset, second: Dataset, exact: bool = True) -> None:
    """The same set, in any order and any part of it, to the last bit or to rounding."""

    def close(one: torch.Tensor, two: torch.Tensor) -> None:
        torch.testing.assert_close(one, two, atol=0 if exact else 1e-5, rtol=0)

    assert first.fingerprint == second.fingerprint
    assert first.preprocessing.hash == second.preprocessing.hash
    assert (first.shape, first.classes, first.class_sizes()) == (second.shape, second.classes, second.class_sizes())
    for one, two in zip(splits(first), splits(second), strict=True):
        close(one.whole(), two.whole())
        order = torch.randperm(len(one), generator=torch.Generator().manual_seed(0))[: len(one) * 2 // 3]
        for rows in (None, order):
            for left, right in zip(one.batches(4, rows), two.batches(4, rows), strict=True):
                close(left.images, right.images)
                assert torch.equal(left.labels, right.labels)
        few = order.sort(descending=True).values[:3]
        close(one.batch(few), two.select(few).whole())
        close(one.select(order).batch(few[:0]), two.select(order).batch(few[:0]))
        chosen = torch.arange(len(order)).flip(0)[:2]
        close(one.select(order).batch(chosen), two.select(order).batch(chosen))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("whiten", ["none", "standard"])
def test_every_layout_gives_the_same_bits_from_bytes_and_from_disk(layout: str, whiten: str, tmp_path: Path) -> None:
    source = LAYOUTS[layout](tmp_path / "set")
    held = {kind: load_dataset(source, whiten=whiten, memory=kind) for kind in ("auto", "float32", "uint8", "disk")}
    assert isinstance(held["auto"].train.images, torch.Tensor)
    for split in splits(held["uint8"]):
        assert isinstance(split.images, ByteImages)
        assert split.images.pixels.dtype == torch.uint8
    for split in splits(held["disk"]):
        assert isinstance(split.images, MappedImages)
        assert split.images.path.is_relative_to(tmp_path / "cache")
    for kind in ("auto", "uint8", "disk"):
        assert_same(held["float32"], held[kind])


@pytest.mark.parametrize("layout", ["pictures", "npz"])
def test_whitened_batches_are_the_same_up_to_rounding(layout: str, tmp_path: Path) -> None:
    source = LAYOUTS[layout](tmp_path / "set")
    plain = load_dataset(source, whiten="zca", memory="float32")
    for kind in ("uint8", "disk"):
        assert_same(plain, load_dataset(source, whiten="zca", memory=kind), exact=False)


@pytest.mark.parametrize("layout", ["pictures", "parquet", "npz"])
def test_chosen_classes_and_held_out_images_are_rows_of_the_same_file(layout: str, tmp_path: Path) -> None:
    source = LAYOUTS[layout](tmp_path / "set")
    wanted: dict[str, Any] = {"classes": (1, 0), "per_class": 4, "validation": 0.25}
    first, second = (load_dataset(source, memory=kind, **wanted) for kind in ("float32", "disk"))
    assert second.validation is not None
    assert_same(first, second)


def test_tensors_in_memory_can_be_put_on_disk(pixels: Callable[..., torch.Tensor], cache: Path) -> None:
    images, labels = pixels(20, 3, 8, 8), torch.arange(20) % 2
    first, second = (
        dataset_from_tensors(images, labels, images[:4], labels[:4], name="a b", memory=kind)
        for kind in ("float32", "disk")
    )
    assert_same(first, second)
    again = dataset_from_tensors(images, labels, images[:4], labels[:4], name="a b", memory="disk")
    assert_same(first, again)
    assert len(list(cache.glob("a_b-*.npy"))) == 2
    assert not [path for path in cache.iterdir() if path.suffix == ".tmp"]


def test_bytes_held_in_memory_are_our_own_copy(pixels: Callable[..., torch.Tensor]) -> None:
    images, labels = pixels(20, 3, 8, 8), torch.arange(20) % 2
    held = dataset_from_tensors(images, labels, images[:4], labels[:4], memory="uint8")
    before = held.train.whole()
    images.zero_()
    assert torch.equal(held.train.whole(), before)


@pytest.mark.parametrize("count", [30, 200], ids=["fewer images than values", "more"])
@pytest.mark.parametrize("kind", ["none", "standard", "zca"])
def test_block_by_block_is_all_at_once(
    count: int, kind: str, pixels: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (holdings, preprocessing):
        monkeypatch.setattr(module, "BLOCK", 16)
    monkeypatch.setattr(holdings, "VALUES", 75 * 7)
    images = pixels(count, 3, 5, 5)
    fitted = {"none": lambda _: preprocessing.Preprocessing.none((3, 5, 5)), "standard": fit_standard, "zca": fit_zca}[
        kind
    ](images)
    assert torch.equal(float_images(images, fitted, "cpu"), fitted.apply(images.to(torch.float32).div_(255)))


GB = 1 << 30


@pytest.mark.parametrize(
    ("host", "images", "whiten", "where"),
    [
        (16 * GB, 60_000, "zca", "float32"),
        (16 * GB, 500_000, "standard", "uint8"),
        (16 * GB, 500_000, "zca", "uint8"),
        (16 * GB, 5_000_000, "none", "disk"),
        (1 * GB, 60_000, "standard", "uint8"),
    ],
)
def test_auto_goes_by_size_and_the_machines_memory(
    host: int, images: int, whiten: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "host_bytes", lambda: host)
    assert residence("auto", images, (3, 32, 32), whiten, "cpu") == where
    for asked in ("float32", "uint8", "disk"):
        assert residence(asked, images, (3, 32, 32), whiten, "cpu") == asked


@pytest.mark.parametrize(
    ("images", "whiten", "where"),
    [
        (60_000, "none", "uint8"),
        (60_000, "standard", "uint8"),
        (60_000, "zca", "float32"),
        (5_000_000, "zca", "uint8"),
        (10**8, "none", "disk"),
    ],
)
def test_on_an_accelerator_bytes_come_first_but_for_zca(
    images: int, whiten: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass
    class Card:
        total_memory: int = 80 * GB

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card())
    assert residence("auto", images, (3, 32, 32), whiten, "cuda") == where


def test_a_containers_limit_is_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.host_bytes()
    group = tmp_path / "sys/fs/cgroup/own"
    for folder in (group, tmp_path / "proc/self"):
        folder.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/own/inner\n")
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    for text, found in (("max\n", None), ("123456789\n", 123456789), (f"{1 << 62}\n", None)):
        (group / "memory.max").write_text(text)
        machine = memory.host_bytes()
        assert machine == found if found else machine >= whole
    assert [held_bytes(where, 10, (3, 2, 2)) for where in ("float32", "uint8", "disk")] == [480, 120, 0]


def test_loading_reads_blocks_and_keeps_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more rows at once than a block, and room for pixels only in files."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 20)):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
                    tmp_path / part / name / f"{number:02d}.png"
                )
    read = rows_read(monkeypatch)

    def refuse(*shape: int) -> NoReturn:
        raise AssertionError(f"room for {shape} was made in memory")

    class Small(pixel_cache.PixelAllocator):
        def keep(self, pixels: Any, path: Path) -> None:
            assert pixels.data_ptr() in [made[0].data_ptr() for made in self._allocated], (
                "the pixels are to lie in the file already"
            )
            super().keep(pixels, path)

    monkeypatch.setattr(pixel_cache, "in_memory", refuse)
    monkeypatch.setattr(pixel_cache, "PixelAllocator", Small)
    monkeypatch.setattr(preprocessing, "EXACT_ROWS", 7)
    monkeypatch.setattr(digests, "DIGESTED", 7 * 192)
    monkeypatch.setattr(preprocessing, "SUMMED", 5 * 192)
    for whiten in ("standard", "zca"):
        found = load_dataset(str(tmp_path), memory="disk", whiten=whiten, validation=0.25)
        assert max(read) == 7
        assert sum(read) >= 120
        assert all(isinstance(split.images, MappedImages) for split in splits(found))


def test_workers_are_sent_the_path_and_not_the_images(tmp_path: Path) -> None:
    dataset = load_dataset(LAYOUTS["parquet"](tmp_path / "set"), memory="disk", per_class=4)
    text = io.BytesIO()
    with nameless_file() as shared:
        TensorPickler(text, shared).dump(dataset)
        shared.flush()
        sent = len(text.getvalue()) + os.fstat(shared.fileno()).st_size
        assert_same(dataset, TensorUnpickler(io.BytesIO(text.getvalue()), shared.fileno()).load())
    assert sent < dataset.train.images.shape.numel() / 4


def test_a_full_disk_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = LAYOUTS["pictures"](tmp_path / "set")
    plain = load_dataset(source)
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "other"))

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert_same(plain, load_dataset(source))
    assert not [path for path in (tmp_path / "other").iterdir() if path.suffix != ".lock"]
    with pytest.raises(
        InputError, match=r"set cannot be kept in .*No space left.*ASTDISTILL_CACHE, or set --data\.memory uint8\.$"
    ):
        load_dataset(source, memory="disk")
    assert not [path for path in (tmp_path / "other").iterdir() if path.suffix != ".lock"]


def test_what_a_kill_left_in_the_cache_is_swept_away(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LAYOUTS["pictures"](tmp_path / "set")

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pixel_cache, "write_json", stop)
        patch.setattr(pixel_cache.shutil, "rmtree", lambda *_, **__: None)  # as after a kill
        with pytest.raises(KeyboardInterrupt):
            load_dataset(source)
    (left,) = cache.glob(".set-*.partial")
    (left / "train.npy").write_bytes(b"half")
    first = load_dataset(source, memory="disk")
    assert not left.exists()
    assert_same(first, load_dataset(source, memory="float32"))


def test_a_file_of_something_else_is_no_pixel_file(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.arange(5))
    with pytest.raises(ValueError, match="holds int64 of shape"):
        MappedImages(tmp_path / "labels.npy")


def test_rows_of_rows_are_read_in_their_order(tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> None:
    images = pixels(20, 1, 3, 3)
    pixel_cache.write_pixels(images, tmp_path / "a.npy")
    file, rows = MappedImages(tmp_path / "a.npy"), torch.tensor([7, 3, 3, 19, 0])
    assert torch.equal(file[rows], images[rows])
    assert torch.equal(file.select(rows)[:], images[rows])
    assert torch.equal(file.select(rows).select(torch.tensor([4, 1]))[torch.tensor([1, 0])], images[[3, 0]])
    assert torch.equal(file.select(rows)[1:3], images[[3, 3]])
    assert file.select(rows).digest() == digests.tensor_digest(images[rows])
    file[:].zero_()
    assert torch.equal(file[:], images)


def test_nothing_is_said_of_a_small_whitening_and_one_line_of_a_large_one(
    pixels: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    said = io.StringIO()
    monkeypatch.setattr(progress.Output, "console", Console(file=said, width=300))
    progress.be_quiet(False)
    fit_zca(pixels(20, 3, 4, 4))
    assert said.getvalue() == ""
    monkeypatch.setattr(preprocessing, "TOLD", 48)
    fit_zca(pixels(20, 3, 4, 4))
    assert said.getvalue().startswith("Fitting ZCA: 20 images of 48 values, a matrix of 48×48; about ")
    assert said.getvalue().count("\n") == 1
    progress.be_quiet(True)
    fit_zca(pixels(20, 3, 4, 4))
    assert said.getvalue().count("\n") == 1


def test_the_cost_of_zca_grows_as_its_operations_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "_measure_seconds", lambda operation: operation() is None or 1.0)
    side = preprocessing.TRIED
    assert preprocessing.zca_cost(1024, side).seconds == 2
    assert preprocessing.zca_cost(10 * 1024 + 1, 4 * side).seconds == 11 * 4**2 + 4**3
    at_64_px = preprocessing.zca_cost(100_000, 64 * 64 * 3).memory
    assert 5.25 * 8 * 12288**2 < at_64_px < 7e9


@pytest.mark.parametrize(
    ("memory", "images", "free", "sentence"),
    [
        ("float32", 12, 16, ""),
        ("float32", 12, 15, "take 9.2 kB of memory as float32, and 8.6 kB are free; end other programs, or choose --data.memory uint8 or disk."),
        ("uint8", 12, 4, ""),
        ("uint8", 12, 3, "take 2.3 kB of memory as uint8, and 1.7 kB are free; end other programs, or choose --data.memory disk."),
        ("disk", 12, 0, ""),
    ],
)  # fmt: skip
def test_images_that_do_not_fit_are_refused_before_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str, images: int, free: int, sentence: str
) -> None:
    """Pictures of 192 values; `free` is in quarters of a byte per value."""
    for part, count in (("train", 8), ("test", 4)):
        for number in range(count):
            place = tmp_path / "own" / part / f"class{number % 2}" / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(place)
    load_dataset(str(tmp_path / "own"), memory="disk", whiten="none")  # decoded, and in files of the cache
    monkeypatch.setattr(loading, "free_memory", lambda: free * images * 192 // 4)
    for name in ("float_images", "byte_images", "fit_standard"):
        if sentence:
            monkeypatch.setattr(loading, name, lambda *_: pytest.fail("it was begun"))
    if not sentence:
        load_dataset(str(tmp_path / "own"), memory=memory)
        return
    with pytest.raises(InputError, match=f"The 12 images of own {re.escape(sentence)}"):
        load_dataset(str(tmp_path / "own"), memory=memory)


def test_free_memory_that_is_not_known_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda: None)
    assert len(load_dataset("digits", per_class=6, memory="float32").train) == 60


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("source", ["digits", "own"])
def test_a_size_without_room_is_refused_before_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, resize: str
) -> None:
    """Arrays in memory, and pictures where the disk of the cache has no room either."""
    if source == "own":
        source = str(tmp_path / "own")
        for number in range(4):
            place = tmp_path / "own" / f"class{number % 2}" / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(place)
    monkeypatch.setattr(decoding, "UNCHECKED", 1000)
    monkeypatch.setattr(decoding, "free_memory", lambda: 12_400)
    monkeypatch.setattr(pixel_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * 12_287))
    monkeypatch.setattr(pixel_cache.np.lib.format, "open_memmap", lambda *_, **__: pytest.fail("it was allocated"))
    sentence = r"images of 64×64 pixels take .*B of memory, and 12 kB are free; choose a smaller --data.size, or fewer"
    with pytest.raises(InputError, match=sentence):
        load_dataset(source, size=64, resize=resize, whiten="none")


def test_the_largest_size_is_that_of_a_picture() -> None:
    assert LARGEST_SIDE**2 <= decoding.MOST_PIXELS
    with pytest.raises(ValueError, match="choose 8192 or less"):
        DataConfig(size=100_000)
