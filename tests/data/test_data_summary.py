"""What a data set says of its source: what was read, left out and guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch

from astdistill.data import dataset_from_tensors
from astdistill.data.dataset import Summary
from astdistill.data.digests import FileSet
from astdistill.data.hub import table_source
from astdistill.data.image_folders import tiny_imagenet, tiny_imagenet_files
from astdistill.data.loading import load_dataset
from astdistill.runtime.files import cache_folder


def test_a_folder_says_what_it_did_not_read(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    pets = tmp_path / "pets"
    for part in ("train", "test", "val"):
        for name in "ab":
            write_pictures(pets / part / name, 2)
    assert load_dataset(str(pets), size=8).summary == Summary(
        (
            "training part: folder train",
            "test part: folder test",
            "images of 8×8 pixels: short side resized, centre cropped",
        ),
        ("folder val, since folder test is the test part",),
    )
    for number in range(5):
        (pets / "train" / "a" / f"note{number}.txt").write_text("no picture")
    (pets / "train" / "a" / "empty").mkdir()
    for _ in range(2):  # also where the cache has the pictures already
        found = load_dataset(str(pets), size=8).summary
        assert found.left_out[1:] == ("5 files that are no pictures (note0.txt, note1.txt, note2.txt)",)


def test_a_test_part_that_was_set_aside_and_a_border_are_said(
    tmp_path: Path, write_pictures: Callable[..., None]
) -> None:
    for name in "ab":
        write_pictures(tmp_path / "flat" / name, 5, size=(28, 28), mode="L")
    assert load_dataset(str(tmp_path / "flat")).summary.read == (
        "training part: folder flat",
        "images of 28×28 padded to 32×32",
        "test part: 20% of the training images of every class, set aside",
    )


def table(labels: list[int], data: bytes = b"", **columns: list[int]) -> datasets.Dataset:
    cells = [{"bytes": data, "path": None} for _ in labels]
    features = datasets.Features(
        {"image": datasets.Image(), **{name: datasets.Value("int64") for name in ("label", *columns)}}
    )
    return datasets.Dataset.from_dict({"image": cells, "label": labels, **columns}, features=features)


def test_a_table_says_which_splits_and_columns_were_taken() -> None:
    splits = {
        "train": table([0, 1], fold=[3, 4]),
        "test": table([-1, -1], fold=[3, 4]),
        "valid": table([1, 0], fold=[3, 4]),
        "val": table([1, 0], fold=[3, 4]),
        "unsupervised": table([0, 0], fold=[3, 4]),
    }
    source = table_source("own", splits, FileSet([]), None, None)
    assert source.summary == Summary(
        ("training part: split train", "test part: split valid", "images: column image; labels: column label"),
        (
            "split test, which has no labels",
            "split val, since valid is the test part",
            "split unsupervised, which is neither the training part nor a test part",
        ),
    )
    assert {part: labels.tolist() for part, labels in source.labels.items()} == {"train": [0, 1], "test": [1, 0]}
    assert source.locate("test", 1) == "Image 1 of own, valid part"


def test_the_cache_keeps_the_words_of_a_table(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    write_pictures(tmp_path / "pictures", 1)
    data = (tmp_path / "pictures" / "000.png").read_bytes()
    (tmp_path / "table").mkdir()
    for part in ("train", "test", "val"):
        table([0, 1], data=data).to_parquet(tmp_path / "table" / f"{part}.parquet")
    first, again = (load_dataset(str(tmp_path / "table"), size=8).summary for _ in range(2))
    assert first == again
    assert first.left_out == ("split validation, since test is the test part",)
    (header,) = cache_folder().glob("table-*/data.json")
    whole = json.loads(header.read_text())
    for word in ("check", "summary"):  # as earlier versions wrote it, and as a disk may damage it
        header.write_text(json.dumps({name: value for name, value in whole.items() if name != word}))
        assert load_dataset(str(tmp_path / "table"), size=8).summary == first
        assert json.loads(header.read_text()) == whole, "it is built again"


def test_arrays_that_nobody_asked_for_are_named(tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> None:
    images, labels = pixels(6, 3, 10, 12).numpy(), np.arange(6) % 2
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_val=images, classes=["u", "v"])
    found = load_dataset(str(tmp_path / "a.npz")).summary
    assert found.read[0] == "arrays x_train, y_train"
    assert found.left_out == ("array x_val, which has no known name",)


def test_pictures_of_tiny_imagenet_without_labels_are_counted(
    tmp_path: Path, write_pictures: Callable[..., None]
) -> None:
    for wnid in ("n01", "n02"):
        write_pictures(tmp_path / "train" / wnid / "images", 1)
    write_pictures(tmp_path / "test" / "images", 3)
    write_pictures(tmp_path / "val" / "images", 1)
    picture = next((tmp_path / "val" / "images").iterdir()).name
    (tmp_path / "wnids.txt").write_text("n02\nn01\n")
    (tmp_path / "val" / "val_annotations.txt").write_text(f"{picture}\tn02\t0\t0\t1\t1\n")
    with tiny_imagenet(tmp_path, tiny_imagenet_files(tmp_path)) as source:
        assert source.summary.left_out == ("3 pictures of folder test, which have no labels",)
        assert list(source.fetch("test", [0])) == [(tmp_path / "val" / "images" / picture).read_bytes()]


def test_tensors_have_nothing_to_say(pixels: Callable[..., torch.Tensor]) -> None:
    labels = torch.arange(4) % 2
    assert dataset_from_tensors(pixels(4, 3, 8, 8), labels, pixels(4, 3, 8, 8), labels).summary == Summary()
