"""Data that cannot be read as they are, each one sentence with what to do; and what is read after all, and said."""

from __future__ import annotations

import errno
import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from astdistill.data import array_files, cache, cifar, decoding, description, image_folders, listing
from astdistill.data.dataset import Dataset, Split
from astdistill.data.decoding import file_bytes
from astdistill.data.digests import FileSet, tensor_digest
from astdistill.data.hub import any_file, parquet_folder
from astdistill.data.loading import file_here, load_dataset
from astdistill.data.mat_files import DEEPEST, read_mat
from astdistill.data.sources import HUB
from astdistill.data.survey import survey
from astdistill.data.tensors import dataset_from_tensors, dataset_from_torch
from astdistill.runtime.errors import InputError

Tree = Callable[..., str]
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
LABELS = [0, 1, 0, 1, 0, 1]


def read(source: Any, **fields: Any) -> Dataset:
    return load_dataset(source, whiten="none", **fields)


def check_refused(source: Any, sentence: str, **fields: Any) -> None:
    with pytest.raises(InputError, match=sentence):
        read(source, **fields)


def unreadable(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


# folders of pictures


def test_a_test_part_beside_the_classes_is_read_as_one_and_said(tree: Tree) -> None:
    tree(4, "cat", "dog")
    data = read(tree(2, "test/cat", "test/dog"))
    assert (data.classes, len(data.train), len(data.test)) == (("cat", "dog"), 8, 4)
    assert any("test as the test part of the classes beside it" in note for note in data.summary.guessed)


def test_a_folder_of_other_folders_is_a_class_though_it_speaks_of_a_test(tree: Tree) -> None:
    tree(4, "cat", "dog")
    assert read(tree(4, "blood test/a", "blood test/b")).classes == ("blood test", "cat", "dog")


def test_parts_inside_a_part_are_a_question(tree: Tree) -> None:
    tree(2, *(f"train/{part}/{name}" for part in ("train", "val") for name in ("cat", "dog")))
    check_refused(
        tree(2, "test/cat", "test/dog"), r"train holds train, val, which are parts again; name a folder below"
    )


def test_one_folder_is_not_both_parts(tree: Tree) -> None:
    where = tree(2, "day/cat", "day/dog", "night/cat", "night/dog")
    check_refused(where, "day cannot be the training part and the test part; name", train_part="day", test_part="day")


def test_several_training_parts_are_a_question_also_beside_a_named_test_part(tree: Tree) -> None:
    where = tree(2, *(f"{part}/{name}" for part in ("train", "training", "new") for name in ("cat", "dog")))
    check_refused(where, "train.*training", test_part="new")


def test_parts_inside_classes_are_read_or_are_a_question(tree: Tree) -> None:
    data = read(tree(2, "cat/train", "cat/val", "dog/train", "dog/val"))
    assert (len(data.train), len(data.test)) == (4, 4)
    assert "the validation part of every class as the test part, since there is no other" in data.summary.guessed
    check_refused(
        tree(2, "cat/day", "cat/night", "dog/night"),
        "class dog has no training part day; divide all alike",
        train_part="day",
        test_part="night",
    )
    check_refused(tree(2, "dog/train 2"), "train.*train 2", test_part="val")


def test_two_names_that_are_one_as_text_are_refused(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    for name in (os.fsdecode(b"\xe9"), "\\xe9"):
        try:
            write_pictures(tmp_path / "in" / "train" / name, 2)
        except OSError:
            pytest.skip("this file system has names of UTF-8 alone")
    check_refused(tmp_path / "in", r"Two class folders are both called \\xe9 when written as text; rename one of them")


def test_what_may_not_be_looked_at_is_named(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    where = Path(tree(2, "cat", "dog"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", unreadable)
        for look in (listing._identity, listing.kind_of):
            with pytest.raises(InputError, match=r"in cannot be read \(Permission denied\); change its permissions"):
                look(where)

    class Entry:
        name, path, is_dir = "cat", str(where / "cat"), unreadable

    with pytest.raises(InputError, match=r"cat cannot be read \(Permission denied\); change its permissions"):
        listing._kind(Entry())  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(Path, "iterdir", unreadable)
    with pytest.raises(InputError, match=r"in cannot be read .*; check its permissions, or give another --data"):
        array_files._file_names(where)


def test_a_picture_file_that_cannot_be_read_or_is_too_large_is_named(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Path(tree(2, "cat")) / "cat" / "000.png"
    with pytest.raises(InputError, match=r"none.png cannot be read \(No such file or directory\); check its perm"):
        file_bytes(picture.with_name("none.png"))
    for module in (decoding, image_folders):
        monkeypatch.setattr(module, "LARGEST_FILE", 1 << 20)
    picture.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(InputError, match=r"000.png is larger than 1 MiB; make it smaller, or take it out"):
        file_bytes(picture)
    with zipfile.ZipFile(picture.with_name("tiny.zip"), "w") as archive:
        archive.write(picture, "000.png")
        with pytest.raises(InputError, match=r"000.png in tiny.zip is larger than 1 MiB; take it out of the archive"):
            image_folders._unzipped(archive, "000.png", Path("tiny.zip"))


def test_a_file_that_went_away_while_it_was_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png"):
        FileSet([tmp_path / "gone.png"]).content()


# pictures


def write_png16(path: Path, array: np.ndarray, clear: int | None = None) -> None:
    """A grey PNG of 16 bits, one of whose values may be transparent."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 0, 0, 0, 0))
    seen = b"" if clear is None else chunk(b"tRNS", struct.pack(">H", clear))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + seen + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_transparent_pictures_of_16_bits_ask_for_a_background(tree: Tree) -> None:
    where = tree(3, "cat", "dog")
    array = np.arange(64).reshape(8, 8) * 1000
    write_png16(Path(where) / "cat" / "deep.png", array, clear=3000)
    check_refused(
        where,
        "has 16 bits and transparent pixels; save it with 8 bits, or set --data.background drop",
    )
    assert len(read(where, background="drop").train) > 0


def test_a_picture_whose_further_frames_are_broken_is_read(tree: Tree) -> None:
    where = tree(3, "cat", "dog")
    frames = [Image.fromarray(image) for image in IMAGES[:2]]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    whole = stream.getvalue()
    (Path(where) / "cat" / "moving.gif").write_bytes(whole[: whole.rindex(b"!\xf9") + 3])
    assert len(read(where).train) + len(read(where).test) == 7


def test_a_survey_stops_where_pictures_are_large(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astdistill.data.survey.MOST_BYTES", 300)
    config = read(tree(4, "train/cat", "train/dog", "test/cat", "test/dog")).config
    assert 1 <= len(survey(config).sizes) < 8


# tables


def table(labels: list[Any], feature: Any, **more: Any) -> datasets.Dataset:
    pictures = [Image.fromarray(image) for image in IMAGES[: len(labels)]]
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    return datasets.Dataset.from_dict({"image": pictures, "label": labels, **more}, features=features)


NUMBERS = datasets.Value("int64")
ANIMALS = datasets.ClassLabel(names=["cat", "dog"])


def test_parts_of_a_table_are_known_by_name_or_are_a_question() -> None:
    one = table(LABELS, NUMBERS)
    check_refused(
        datasets.DatasetDict({"a": one, "b": one}), "has no part called 'train', only a, b; name another source"
    )
    several = datasets.DatasetDict({"train_a": one, "train_b": one})
    check_refused(several, "several parts that could be the training part: train_a, train_b; name another source")
    data = read(datasets.DatasetDict({"train": one, "training": one, "test": one}))
    assert data.summary.left_out == ("split training, since train is the training part",)
    bare = one.remove_columns("label")
    data = read(datasets.DatasetDict({"train": one, "test": bare, "validation": one}))
    assert "split test, which has no labels" in data.summary.left_out


def test_labels_that_are_numbered_otherwise_in_the_test_part_are_matched_by_name() -> None:
    words = table(["dog", "cat"], datasets.Value("string"))
    data = read(datasets.DatasetDict({"train": table(LABELS, ANIMALS), "test": words}))
    assert data.classes == ("cat", "dog")
    assert data.test.labels.tolist() == [1, 0]


def test_a_picture_that_a_cell_names_is_read_or_named(tree: Tree) -> None:
    picture = Path(tree(1, "cat")) / "cat" / "000.png"
    assert any_file(str(picture)) == picture.read_bytes()
    with pytest.raises(InputError, match=r"A cell names the picture '.*none\.png', which is no file; check the path"):
        any_file(str(picture.with_name("none.png")))


def test_parquet_files_that_are_none_or_hidden_are_refused(tmp_path: Path) -> None:
    odd = tmp_path / "train.parquet"
    odd.mkdir()
    with pytest.raises(InputError, match=r"train\.parquet is no regular file, so .* holds no parquet files"):
        parquet_folder(tmp_path, [odd])
    hidden = tmp_path / ".train.parquet"
    hidden.touch()
    with pytest.raises(InputError, match=r"All parquet files of .* are hidden \(\.train\.parquet\); rename them"):
        parquet_folder(tmp_path, [hidden])


def test_parquet_files_whose_class_names_differ_are_refused(tmp_path: Path) -> None:
    for number, names in enumerate((["cat", "dog"], ["dog", "cat"])):
        part = table(LABELS, datasets.ClassLabel(names=names))
        part.to_parquet(str(tmp_path / f"train-0000{number}-of-00002.parquet"))
    check_refused(
        tmp_path, "class names of column label differ between train-00000-.* and train-00001-.*; write both with"
    )


def test_bytes_that_are_pictures_are_taken_for_them() -> None:
    stream = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(stream, "PNG")
    given = {"a": [stream.getvalue()] * 6, "b": [b"no picture"] * 6, "label": LABELS}
    features = datasets.Features({"a": datasets.Value("binary"), "b": datasets.Value("binary"), "label": NUMBERS})
    found = datasets.Dataset.from_dict(given, features=features)
    assert read(datasets.DatasetDict({"train": found, "test": found})).shape == (1, 8, 8)
    nothing = datasets.Dataset.from_dict({**given, "a": [None] * 6}, features=features)
    check_refused(datasets.DatasetDict({"train": nothing, "test": nothing}), "--data.image-column")


# arrays


def savez(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"x_train": IMAGES, "y_train": np.array(LABELS), **arrays})
    return path


def test_two_sets_in_one_folder_are_a_question(tmp_path: Path) -> None:
    for name in ("MNIST", "KMNIST"):
        (tmp_path / name / "raw").mkdir(parents=True)
        (tmp_path / name / "raw" / "train-images-idx3-ubyte").touch()
    check_refused(tmp_path, r"holds several data sets, .*/MNIST/raw and .*/KMNIST/raw; name one of them with --data")


def test_arrays_that_are_none_and_names_that_are_none_are_refused(tmp_path: Path) -> None:
    path = savez(tmp_path / "a.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_test", b"no array")
        archive.writestr("y_test", b"no array")
    check_refused(path, r"[xy]_test in .*a\.npz is not an array; write the file with numpy\.savez")
    path = savez(tmp_path / "b.npz", classes=np.ones((2, 2)))
    check_refused(path, r"class names classes of .* are float64 of shape \(2, 2\); give one text per class")


def test_arrays_of_no_known_name_are_counted(tmp_path: Path) -> None:
    more = {f"more{number}": np.zeros(2) for number in range(5)}
    data = read(savez(tmp_path / "a.npz", classes=np.array([["cat"], ["dog"]], dtype="U3"), **more))
    assert data.summary.left_out[0].startswith("5 arrays that have no known name (more0, more1, more2, …)")
    assert data.classes == ("cat", "dog")


def test_text_and_numbers_in_labels_of_two_parts_are_not_taken_for_one_another(tmp_path: Path) -> None:
    check_refused(
        savez(tmp_path / "a.npz", x_test=IMAGES, y_test=np.array(["0", "1"] * 3)),
        r"labels of a\.npz, y_train are a mixture of int and str; give one kind",
    )


def test_a_part_cannot_be_named_where_there_are_no_folders(tmp_path: Path) -> None:
    savez(tmp_path / "a.npz")
    check_refused(tmp_path, "--data.train-part", train_part="train")


def test_a_folder_that_is_called_as_a_set_of_the_hub_is_said(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(3, f"{HUB['mnist']}/train/a", f"{HUB['mnist']}/train/b", f"{HUB['mnist']}/test/a", f"{HUB['mnist']}/test/b")
    monkeypatch.chdir(tmp_path / "in")
    said = read(HUB["mnist"]).summary
    assert any(f"not the hub's {HUB['mnist']}" in words for words in (*said.read, *said.guessed, *said.left_out))


def write_batch(folder: Path, held: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "data_batch_1").write_bytes(pickle.dumps(held))


class Raw:
    """Pickled as numpy pickles an array, of a state that numpy never writes."""

    def __init__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), self.state  # pyright: ignore


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({b"data": np.zeros((6, 100), np.uint8)}, r"have shape \(6, 100\); give \[N, 3·S·S\], the channels one after"),
        ({b"labels": [0, 1]}, "data_batch_1 has 6 images but 2 labels; download it again"),
        ({b"labels": [[0, 1], [0]]}, "labels of .*data_batch_1 are no list of numbers"),
        ({b"data": np.zeros(6, "M8[s]")}, "data_batch_1 holds values of type M8"),
        ({b"data": Raw((1, (6, 3072), np.dtype("u1"), False, [b"x"]))}, "holds an array of Python objects; give CIF"),
    ],
)
def test_batches_that_are_none_of_cifars_are_refused(changed: dict[bytes, Any], sentence: str, tmp_path: Path) -> None:
    write_batch(tmp_path / "c", {b"data": np.zeros((6, 3072), np.uint8), b"labels": LABELS, **changed})
    check_refused(tmp_path / "c", sentence)


def test_class_names_of_cifar_that_are_no_list_are_refused(tmp_path: Path) -> None:
    write_batch(tmp_path / "c", {b"data": np.zeros((6, 3072), np.uint8), b"labels": LABELS})
    (tmp_path / "c" / "batches.meta").write_bytes(pickle.dumps({b"label_names": 3}))
    check_refused(tmp_path / "c", r"label_names of .*batches\.meta is no list of names; take the published file")
    with pytest.raises(InputError, match=r"c cannot be read .*check its permissions"):
        cifar._bytes(tmp_path / "c")


def mat(*elements: bytes) -> bytes:
    return b"MATLAB".ljust(124) + b"\0\1IM" + b"".join(elements)


def element(kind: int, held: bytes) -> bytes:
    return struct.pack("<II", kind, len(held)) + held + bytes(-len(held) % 8)


def matrix(kind: int, *parts: bytes) -> bytes:
    """An array of class `kind` called x, of one row and one column."""
    flags, shape = element(6, struct.pack("<II", kind, 0)), element(5, struct.pack("<ii", 1, 1))
    return element(14, flags + shape + element(1, b"x") + b"".join(parts))


def test_mat_files_that_end_too_early_or_go_too_deep_are_refused(tmp_path: Path) -> None:
    cells = matrix(6, element(9, struct.pack("<d", 1.0)))
    for _ in range(DEEPEST + 2):
        cells = matrix(1, cells)
    path = tmp_path / "a.mat"
    for held, why in (
        (mat(element(15, zlib.compress(b"abc"))), "a compressed element has no beginning"),
        (mat(matrix(6)), "an array ends before its values"),
        (mat(cells), "cells are nested too deeply"),
    ):
        path.write_bytes(held)
        with pytest.raises(InputError, match=rf"a\.mat cannot be read as a \.mat file \({why}\); download it again"):
            read_mat(path)
    with pytest.raises(InputError, match=r"cannot be read .*; check its permissions"):
        read_mat(tmp_path)


# tensors


def test_tensors_that_are_no_pictures_or_labels_are_refused() -> None:
    pictures, labels = torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    for images, given, sentence in (
        (pictures.bool(), labels, r"are bool; give uint8 0\.\.255, or floats in \[0, 1\]"),
        (pictures[0, 0], labels, r"have shape \(8, 8\); give \[N, C, H, W\], or \[N, H, W\] for grey images"),
        (pictures, torch.zeros(4, 2, 2), r"have shape \(4, 2, 2\); give one class per image"),
        (pictures, labels.double() * 1e300, r"reach 1e\+300; give whole numbers below 2\*\*63"),
    ):
        with pytest.raises(InputError, match=sentence):
            dataset_from_tensors(images, given, pictures, labels)


def test_pictures_of_16_bits_without_a_sign_are_read() -> None:
    pictures = torch.arange(4 * 64).reshape(4, 1, 8, 8)
    labels = torch.tensor([0, 1, 0, 1])
    wide, narrow = (
        dataset_from_tensors(each, labels, each, labels, whiten="none")
        for each in (pictures.to(torch.uint16), pictures.to(torch.uint8))
    )
    assert torch.equal(wide.train.whole(), narrow.train.whole())


def test_data_sets_in_memory_name_their_classes_themselves() -> None:
    part: Any = TensorDataset(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(InputError, match="classes selects classes of a named source"):
        load_dataset({"train": part, "test": part}, classes=["0"])
    part.classes = ["cat", "dog"]
    assert dataset_from_torch(Subset(part, range(4)), part).classes == ("cat", "dog")
    for _ in range(8):
        part = Subset(part, range(4))
    assert dataset_from_torch(part, part).classes == ("0", "1"), "names are looked for a few data sets deep"


def test_a_data_set_is_one_line_with_its_held_out_images() -> None:
    data = load_dataset("digits", validation=0.2, per_class=10)
    assert data.validation is not None
    assert f"test, {len(data.validation)} validation images of" in repr(data)


def test_test_images_are_looked_for_among_training_images_where_both_are_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures, labels = torch.rand(8, 1, 8, 8), torch.tensor([0, 1] * 4)
    data = dataset_from_tensors(pictures, labels, pictures, labels, whiten="none")
    assert description._count_duplicates(data) == 8
    away = Split(torch.empty(8, 1, 8, 8, device="meta"), labels)
    assert description._cpu_tensor(away) is None
    monkeypatch.setattr(description, "COMPARED", 100)
    assert description._count_duplicates(data) == 0


# the cache


def test_a_cache_that_cannot_be_written_or_is_of_another_version_is_gone_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[int] = []

    def statistics() -> cache.Stored:
        built.append(1)
        return cache.Stored({"mean": torch.ones(2)})

    assert cache.cached("x", "key", statistics).tensors["mean"].tolist() == [1.0, 1.0]
    assert cache.cached("x", "key", statistics).tensors["mean"].tolist() == [1.0, 1.0]
    assert len(built) == 1, "the second time it is found"
    monkeypatch.setattr(cache, "_checksum", lambda *_: "of another version")
    monkeypatch.setattr(cache, "save_tensors", unreadable)
    assert cache.cached("x", "key", statistics).tensors["mean"].tolist() == [1.0, 1.0]
    assert len(built) == 2, "it is built again"
    said = " ".join("".join(capsys.readouterr()).split())
    assert "cannot be written (Permission denied); going on without it." in said


def test_a_file_of_the_cache_is_found_on_this_machine_or_the_cache_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "0123.bytes"
    with pytest.raises(InputError, match=r"0123\.bytes is not on .*; put the cache where all nodes see it"):
        file_here(path, None)
    path.touch()
    assert file_here(path, None) == path


def test_a_single_number_has_a_digest_of_its_own() -> None:
    digests = {tensor_digest(torch.tensor(value)) for value in (1.0, 2.0)}
    assert len(digests) == 2
    assert tensor_digest(torch.tensor(1.0)) in digests
