"""Arrays as other people store them: .npz of any naming, .npy, IDX, CIFAR's batches, SVHN's .mat files, MedMNIST, and
folders of save_to_disk."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from astdistill.data.dataset import Dataset
from astdistill.data.loading import load_dataset
from astdistill.runtime.errors import InputError

LABELS = np.arange(20) % 2
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
IMAGES[0, 0, 0, 0], IMAGES[1, 0, 0, 0] = 255, 0


def load(path: Path | str, **fields: Any) -> Dataset:
    return load_dataset(str(path), whiten="none", **fields)


def bytes_of(found: Dataset) -> np.ndarray:
    """The training images as bytes `[N, H, W, C]`."""
    return (found.train.whole() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def check(found: Dataset, images: np.ndarray = IMAGES, test: int = 6) -> None:
    """The set has these training images, classes in turn, and so many test images."""
    assert np.array_equal(bytes_of(found), images)
    assert found.train.labels.tolist() == (np.arange(len(images)) % 2).tolist()
    assert len(found.test) == test
    assert torch.equal(found.test.whole(), found.train.whole()[:test])


X, Y, X6, Y6 = IMAGES, LABELS, IMAGES[:6], LABELS[:6]


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("trainX", "trainY", "testX", "testY"),
        ("train_images", "train_labels", "val_images", "val_labels"),
        ("imgs_train", "labels_train", "imgs_test", "labels_test"),
        ("train_data", "train_targets", "test_data", "test_targets"),
        ("X_tr", "y_tr", "X_te", "y_te"),
        ("train", "train_labels", "test", "test_labels"),
        ("图像", "标签", "测试图像", "测试标签"),
        ("arr_0", "arr_1", "arr_2", "arr_3"),
        ("arr_0", "arr_2", "arr_1", "arr_3"),
        ("train_set_x", "train_set_y", "dev_set_x", "dev_set_y"),
    ],
)
def test_arrays_of_many_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    held = dict(zip(names, (X, Y, X6, Y6), strict=True))
    if names[0] == "arr_0":
        held = dict(sorted(held.items()))
    np.savez(tmp_path / "a.npz", **held)  # pyright: ignore[reportArgumentType]
    check(load(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (X, Y.astype(">i8")),
        (X, Y[:, None].astype(np.uint64)),
        (X, Y.astype(float)),
        (X, np.eye(2)[Y]),
        (X.astype(">u2"), Y),
        (X / 255, Y),
        ((X / 255).astype(">f4"), Y),
        ((X / 255).astype(np.longdouble), Y),
        ((X / 255).astype(np.float16), Y),
        (np.float32(X / 255) * np.float32(1.00001), Y),
        (X.astype(np.float32), Y),
        (X.astype(np.float64), Y),
        (X.astype(np.uint16) * 257, Y),
        (X.transpose(0, 3, 1, 2), Y),
        (X.transpose(1, 2, 3, 0), Y),
        (np.asfortranarray(X), Y),
    ],
)
def test_arrays_of_many_types(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images[:0], y_test=labels[:0])
    np.savez(tmp_path / "b.npz", images=images, labels=labels)
    found = load(tmp_path / "b.npz")
    assert found.classes == ("0", "1")
    assert (len(found.train), len(found.test)) == (16, 4)
    rows = {image.tobytes(): int(label) for image, label in zip(X, Y, strict=True)}
    assert [rows[image.tobytes()] for image in bytes_of(found)] == found.train.labels.tolist()


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (np.array([b"cat", b"dog"]), ("cat", "dog")),
        (np.array([["cat"], ["dog"]]), ("cat", "dog")),
        (np.array([["cat", "dog"]]), ("cat", "dog")),
        (np.array([7, 9]), ("7", "9")),
    ],
)
def test_class_names_of_many_forms(tmp_path: Path, names: np.ndarray, classes: tuple[str, str]) -> None:
    np.savez(tmp_path / "a.npz", images=X, labels=Y, classes=names)
    assert load(tmp_path / "a.npz").classes == classes


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (Y + 20230000, ("20230000", "20230001")),
        (Y + 2**40, (str(2**40), str(2**40 + 1))),
        (Y + 1, ("1", "2")),
        (Y * 2 - 1, ("-1", "1")),
        (np.array(["cat", "dog"])[Y], ("cat", "dog")),
        (np.array([b"cat", b"dog"])[Y], ("cat", "dog")),
        (Y.astype(bool), ("False", "True")),
    ],
)
def test_labels_are_numbered_at_once_and_it_is_said(
    tmp_path: Path, labels: np.ndarray, classes: tuple[str, str]
) -> None:
    np.savez(tmp_path / "a.npz", images=X, labels=labels)
    began = time.perf_counter()
    found = load(tmp_path / "a.npz")
    assert time.perf_counter() - began < 20
    assert found.classes == classes
    assert any("numbered 0..1 in sorted order" in line for line in found.summary.read)
    assert found.class_sizes() == [8, 8]


def test_depth_is_that_of_the_whole_set_and_said(tmp_path: Path) -> None:
    deep = X.astype(np.uint16) * 16
    np.savez(tmp_path / "a.npz", x_train=deep, y_train=Y, x_test=deep[:6] // 16, y_test=Y6)
    found = load(tmp_path / "a.npz")
    assert torch.equal(found.train.whole(), torch.tensor(np.rint(deep / 4095 * 255) / 255).float().permute(0, 3, 1, 2))
    assert float(found.test.whole().max()) < 0.07
    assert "4095 is white (12 bits)" in found.summary.guessed[0]
    with pytest.raises(InputError, match=r"beyond the white level of 255"):
        load(tmp_path / "a.npz", white_level=255)
    np.savez(tmp_path / "b.npz", images=(X > 128).astype(np.uint8), labels=Y)
    assert "largest value is 1, and 255 is white" in load(tmp_path / "b.npz").summary.guessed[0]
    assert float(load(tmp_path / "b.npz", white_level=1).train.whole().max()) == 1.0


def test_parts_and_arrays_that_are_not_used_are_said(tmp_path: Path) -> None:
    objects = np.array([{"pickled": 1}], dtype=object)
    np.savez(
        tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X6, y_test=Y6, x_val=X6, y_val=Y6, notes=objects, image_ids=Y
    )  # pyright: ignore[reportArgumentType]
    left_out = load(tmp_path / "a.npz").summary.left_out
    assert left_out[0].startswith("validation part x_val, y_val: not used")
    assert {line.split(",")[0] for line in left_out[1:]} == {"array notes", "array image_ids"}
    missing = np.where(np.arange(20) < 4, np.nan, Y)
    np.savez(tmp_path / "b.npz", images=X, labels=missing)
    found = load(tmp_path / "b.npz")
    assert found.summary.left_out == ("4 images of images, which have no label",)
    assert len(found.train) + len(found.test) == 16


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x_train": X}, r"holds x_train \(20×16×16×3, uint8\); it needs x_train and y_train"),
        ({"x_train": X, "y_train": Y, "x_test": X6}, "only one of x_test and y_test"),
        ({"X_train": X, "Y_train": Y, "X_test": X6}, "holds X_test, but no labels of the test part"),
        ({"X": X, "images": X, "y": Y}, "X and images, which could be the same thing"),
        ({"images": X, "fine_labels": Y, "coarse_labels": Y}, "fine_labels and coarse_labels, which could be"),
        (
            {"X": X / 127.5 - 1, "y": Y},
            r"lie in \[-1, 1\], not in \[0, 1\]; undo their normalisation: \(images \+ 1\) / 2",
        ),
        ({"X": (X / 255 - 0.485) / 0.229, "y": Y}, "undo their normalisation, or give uint8"),
        ({"X": X / 1.5, "y": Y}, "divide them by 255"),
        ({"X": X * np.float64("nan"), "y": Y}, "replace what is not a number"),
        ({"X": X > 128, "y": Y}, "of type bool"),
        ({"X": X, "y": np.random.default_rng(0).integers(0, 2, (20, 14))}, r"shape \(20, 14\), several per image"),
        ({"X": X, "y": np.array([{}] * 20, dtype=object)}, "array y, .* never unpickled"),
        ({"X": np.array([X[0], X[1, :4]], dtype=object), "y": Y[:2]}, "array X, .* never unpickled"),
        ({"X": np.uint8(3), "y": np.int64(1)}, "a single value"),
        ({"X": X, "y": Y / 2}, "no whole number"),
        ({"X": X, "y": np.full(20, np.nan)}, "holds no labels"),
        ({"X": X, "y": Y, "classes": np.array(["a"])}, "name every class"),
        ({"X": X.reshape(20, -1), "y": Y}, r"shape \(20, 768\)"),
        ({"x_train": X, "y_train": Y, "x_test": X6.astype(np.uint16) * 200, "y_test": Y6}, "store all images in one"),
        ({"x_train": X, "y_train": Y, "x_test": X6, "y_test": Y6 + 1}, "Class '2' has no training images"),
        ({"x_train": X, "y_train": Y, "x_test": X6[:, :8], "y_test": Y6}, "give both the same channels and size"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused_in_one_sentence(
    tmp_path: Path, arrays: dict[str, Any], sentence: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=sentence):
        load(tmp_path / "a.npz")


def test_broken_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, X=np.zeros((200, 16, 16, 3), np.uint8), y=np.arange(200) % 2)
    whole = path.read_bytes()
    for start in (60, 120):
        path.write_bytes(whole[:start] + b"\x55" * 40 + whole[start + 40 :])
        with pytest.raises(InputError, match=r"a\.npz.* cannot be read as an \.npz file"):
            load(path)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 28, 28)})
    labels = io.BytesIO()
    np.save(labels, Y)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("X.npy", head.getvalue())
        file.writestr("y.npy", labels.getvalue())
    with pytest.raises(InputError, match="array X, cannot be read"):
        load(path)


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    for name, sentence in {
        "a.pkl": "a pickle, which runs code",
        "a.pt": "a pickle, which runs code",
        "a.h5": "an HDF5 file",
        "cifar-10-python.tar.gz": "an archive",
    }.items():
        (tmp_path / name).write_bytes(b"\0")
        with pytest.raises(InputError, match=sentence):
            load(tmp_path / name)
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(InputError, match="give the folder that holds both"):
        load(tmp_path / "x.npy")


def test_folders_of_npy_and_npz_files(tmp_path: Path) -> None:
    for folder in ("npy", "npz", "one", "kmnist", "several"):
        (tmp_path / folder).mkdir()
    for name, array in {"X_train": X, "y_train": Y, "X_test": X6, "y_test": Y6}.items():
        np.save(tmp_path / "npy" / f"{name}.npy", array)
    for part, count in (("train", 20), ("test", 6)):
        np.savez(tmp_path / "npz" / f"{part}.npz", images=X[:count], labels=Y[:count])
        np.savez(tmp_path / "kmnist" / f"kmnist-{part}-imgs.npz", X[:count])
        np.savez(tmp_path / "kmnist" / f"kmnist-{part}-labels.npz", Y[:count])
    np.savez(tmp_path / "one" / "set.npz", x_train=X, y_train=Y, x_test=X6, y_test=Y6)
    for folder in ("npy", "npz", "one", "kmnist"):
        check(load(tmp_path / folder))
    for name in "ab":
        np.savez(tmp_path / "several" / f"{name}.npz", images=X, labels=Y)
    with pytest.raises(InputError, match=r"holds 2 \.npz files \(a\.npz, b\.npz\); name one"):
        load(tmp_path / "several")


def write_idx(path: Path, array: np.ndarray, zipped: bool) -> None:
    code = {"u1": 8, "i4": 12, "f4": 13}[array.dtype.str[1:]]
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    data += array.astype(array.dtype.newbyteorder(">")).tobytes()
    with gzip.open(path, "wb") if zipped else path.open("wb") as file:
        file.write(data)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("inside", ["", "MNIST/raw"])
def test_idx_files(tmp_path: Path, zipped: bool, inside: str) -> None:
    folder, grey, end = tmp_path / inside, X[..., 0], ".gz" * zipped
    folder.mkdir(parents=True, exist_ok=True)
    write_idx(folder / f"train-images-idx3-ubyte{end}", grey, zipped)
    write_idx(folder / f"train-labels-idx1-ubyte{end}", Y.astype(np.uint8), zipped)
    write_idx(folder / f"t10k-images-idx3-ubyte{end}", grey[:6], zipped)
    write_idx(folder / f"t10k-labels-idx1-ubyte{end}", Y6.astype(np.uint8), zipped)
    check(load(tmp_path), grey[..., None])
    check(load(folder / f"t10k-labels-idx1-ubyte{end}"), grey[..., None])


def test_idx_files_of_several_sets_and_broken_ones(tmp_path: Path) -> None:
    for called in ("emnist-letters", "emnist-digits"):
        for part, count in (("train", 20), ("test", 6)):
            write_idx(tmp_path / f"{called}-{part}-images-idx3-ubyte", X[:count, ..., 0], False)
            write_idx(tmp_path / f"{called}-{part}-labels-idx1-ubyte", (Y[:count] + 1).astype(np.uint8), False)
    with pytest.raises(InputError, match="IDX files of 2 sets; give a file of one of them: emnist-digits-test"):
        load(tmp_path)
    found = load(tmp_path / "emnist-letters-train-images-idx3-ubyte")
    assert found.classes == ("1", "2")
    assert found.name.endswith("-emnist-letters")
    assert any("rows and columns exchanged" in line for line in found.summary.read)
    path = tmp_path / "emnist-letters-train-images-idx3-ubyte"
    whole = path.read_bytes()
    for broken, sentence in {
        whole[:-1]: "says that it holds 5120 bytes",
        whole + b"\0": "but there are more",
        b"<html>" + whole: "is no IDX file",
        b"": "is no IDX file",
        b"\x1f\x8b" + whole: "cannot be read as an IDX file",
    }.items():
        path.write_bytes(broken)
        with pytest.raises(InputError, match=sentence):
            load(path)


CIFAR_NAMES = [b"airplane", b"automobile", *(f"class{number}".encode() for number in range(2, 10))]


def write_cifar(folder: Path, protocol: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10's layout: five batches and a test batch of ten images each, keys as bytes."""
    images = np.random.default_rng(1).integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(60) % 10
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{batch}" for batch in range(1, 6)), "test_batch"]):
        rows = slice(10 * number, 10 * number + 10)
        held = {b"data": images[rows].reshape(10, -1), b"labels": labels[rows].tolist(), b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(held, protocol=protocol))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({b"label_names": CIFAR_NAMES, b"num_vis": 3072}, protocol=protocol)
    )
    return images, labels


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_the_pickled_batches_of_cifar10(tmp_path: Path, protocol: int) -> None:
    images, labels = write_cifar(tmp_path / "cifar-10-batches-py", protocol)
    for place in (tmp_path, tmp_path / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py" / "data_batch_1"):
        found = load(place)
        assert (found.name, found.classes[:2], found.shape) == ("cifar10", ("airplane", "automobile"), (3, 32, 32))
        assert np.array_equal(bytes_of(found), images[:50].transpose(0, 2, 3, 1))
        assert found.train.labels.tolist() == labels[:50].tolist()
        assert found.test.labels.tolist() == labels[50:].tolist()
    (tmp_path / "cifar-10-batches-py" / "batches.meta").unlink()
    assert (load(tmp_path).name, load(tmp_path).classes[:2]) == ("cifar10", ("0", "1"))
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    assert load(tmp_path).summary.left_out == ("1 of 5 batches, which are not there",)


def test_the_batches_of_cifar100_and_their_coarse_labels(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (20, 3072), dtype=np.uint8)
    fine, coarse = [number % 4 for number in range(20)], [number % 2 for number in range(20)]
    for name in ("train", "test"):
        held = {
            "data": images,
            "fine_labels": np.array(fine, ">i4"),
            "coarse_labels": [np.int64(each) for each in coarse],
        }
        (tmp_path / name).write_bytes(pickle.dumps(held))
        rows = np.concatenate([np.array([coarse, fine], np.uint8).T, images], axis=1)
        (tmp_path / "binary").mkdir(exist_ok=True)
        (tmp_path / "binary" / f"{name}.bin").write_bytes(rows.tobytes())
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": list("abcd"), "coarse_label_names": ["u", "v"]}))
    (tmp_path / "binary" / "fine_label_names.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "binary" / "coarse_label_names.txt").write_text("u\nv\n")
    for folder in (tmp_path, tmp_path / "binary"):
        found = load(folder)
        assert (found.classes, found.train.labels.tolist()) == (tuple("abcd"), fine)
        assert found.summary.guessed == ("labels: fine_labels; --data.label-column coarse_labels takes the others",)
        other = load(folder, label_column="coarse_label")
        assert (other.classes, other.train.labels.tolist()) == (("u", "v"), coarse)
        assert np.array_equal(bytes_of(other), images.reshape(20, 3, 32, 32).transpose(0, 2, 3, 1))
    with pytest.raises(InputError, match="no labels 'middle'; it has fine_labels and coarse_labels"):
        load(tmp_path, label_column="middle")


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_nothing_in_a_batch_is_run(tmp_path: Path) -> None:
    write_cifar(tmp_path / "c")
    mark, path = tmp_path / "mark", tmp_path / "c" / "data_batch_1"
    whole = path.read_bytes()
    path.write_bytes(pickle.dumps({b"data": Planted(mark)}))
    with pytest.raises(InputError, match=r"data_batch_1 refers to (posix|nt)\.mkdir, which is not allowed"):
        load(tmp_path / "c")
    path.write_bytes(pickle.dumps({"data": np.array([Planted(mark)], dtype=object)}))
    with pytest.raises(InputError, match=r"data_batch_1 (refers to|holds)"):
        load(tmp_path / "c")
    assert not mark.exists()
    for broken in (
        whole[:500],
        b"",
        b"\x80\x02X\xff",
        pickle.dumps([1]),
        pickle.dumps({b"data": b"1", b"labels": [1]}),
    ):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"data_batch_1"):
            load(tmp_path / "c")


def test_the_mat_files_of_svhn(tmp_path: Path) -> None:
    labels = np.arange(20) % 10 + 1
    for part, count in (("train", 20), ("test", 10), ("extra", 20)):
        held = {"X": X[:count].transpose(1, 2, 3, 0), "y": labels[:count, None].astype(np.uint8)}
        savemat(tmp_path / f"{part}_32x32.mat", held)
    found = load(tmp_path)
    assert (found.classes, len(found.test)) == (tuple(map(str, range(10))), 10)
    assert np.array_equal(bytes_of(found), X)
    assert found.train.labels.tolist() == (labels % 10).tolist()
    assert found.summary.left_out == ("file extra_32x32.mat: further images",)
    assert "labels: 10 is the digit 0" in found.summary.read
    alone = load(tmp_path / "train_32x32.mat")
    assert alone.summary.left_out == ("file test_32x32.mat: give the folder to use it as the test part",)
    savemat(tmp_path / "own.mat", {"images": X.astype(float), "labels": (Y + 1).astype(float)})
    assert load(tmp_path / "own.mat").classes == ("1", "2")
    (tmp_path / "broken.mat").write_bytes(b"MATLAB 5.0" + bytes(200))
    with pytest.raises(InputError, match=r"broken\.mat cannot be read as a \.mat file"):
        load(tmp_path / "broken.mat")


def write_medmnist(path: Path, classes: int, channels: int, size: int = 28) -> None:
    random, held = np.random.default_rng(0), {}
    for part, count in (("train", 4 * classes), ("val", classes), ("test", 2 * classes)):
        shape = (count, size, size, 3) if channels == 3 else (count, size, size)
        held[f"{part}_images"] = random.integers(0, 256, shape, dtype=np.uint8)
        held[f"{part}_labels"] = (np.arange(count) % classes)[:, None].astype(np.uint8)
    np.savez(path, **held)


def test_medmnist_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTDISTILL_DATA", str(tmp_path))
    write_medmnist(tmp_path / "pathmnist.npz", 9, 3)
    write_medmnist(tmp_path / "organamnist_64.npz", 11, 1, 64)
    found = load("pathmnist")
    assert (found.name, found.shape, len(found.train), len(found.test)) == ("pathmnist", (3, 28, 28), 36, 18)
    assert (found.classes[0], found.classes[-1]) == ("adipose", "colorectal adenocarcinoma epithelium")
    assert found.summary.left_out[0].startswith("validation part val_images, val_labels: not used")
    assert load(tmp_path / "pathmnist.npz").fingerprint == found.fingerprint
    assert load("organamnist_64").classes[4:6] == ("kidney-left", "kidney-right")
    assert load("organamnist_64").shape == (1, 64, 64)
    write_medmnist(tmp_path / "breastmnist.npz", 3, 1)
    assert load(tmp_path / "breastmnist.npz").classes == ("0", "1", "2")


def test_medmnist_that_is_not_there_or_has_several_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASTDISTILL_DATA", raising=False)
    with pytest.raises(
        InputError, match=r"download bloodmnist_64\.npz of MedMNIST \(https://zenodo\.org/records/10519652\)"
    ):
        load("bloodmnist_64")
    monkeypatch.setenv("ASTDISTILL_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"there is no .*bloodmnist\.npz\); download"):
        load("bloodmnist")
    np.savez(tmp_path / "chestmnist.npz", train_images=X, train_labels=np.zeros((20, 14), np.uint8))
    for source in ("chestmnist", "chestmnist_64", str(tmp_path / "chestmnist.npz")):
        with pytest.raises(InputError, match="several labels to an image"):
            load(source)


def pictures(names: list[str] | None = None) -> datasets.Dataset:

    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    held = {"image": [Image.fromarray(image) for image in X], "label": Y.tolist()}
    return datasets.Dataset.from_dict(held, features=features)


def test_places_outside_a_saved_table_are_one_sentence_and_not_the_end_of_python(tmp_path: Path) -> None:
    """pyarrow takes the places that a file names as they are."""
    saved = pictures(["cat", "dog"])
    saved.save_to_disk(tmp_path / "set")
    (path,) = (tmp_path / "set").glob("*.arrow")
    lengths = [len(cell["bytes"]) for cell in saved.with_format("arrow")[:]["image"].to_pylist()]
    places = np.concatenate([[0], np.cumsum(lengths)]).astype("<i4").tobytes()
    whole = path.read_bytes()
    assert whole.count(places) == 1
    path.write_bytes(whole.replace(places, places[:-8] + np.array([2**30, 2**30 + 9], "<i4").tobytes()))
    with pytest.raises(
        InputError, match=r"set cannot be read as a folder of datasets\.save_to_disk \(.*; save it again"
    ):
        load(tmp_path / "set")


@pytest.mark.parametrize("absolute", [True, False])
def test_a_saved_set_reads_no_table_outside_its_folder(absolute: bool, tmp_path: Path) -> None:
    """The library opens whatever file or folder the lists of a saved set name."""
    pictures(["cat", "dog"]).save_to_disk(tmp_path / "private")
    pictures(["cat", "dog"]).save_to_disk(tmp_path / "set")
    (path,) = (tmp_path / "private").glob("*.arrow")
    state = tmp_path / "set/state.json"
    told = json.loads(state.read_text())
    told["_data_files"][0]["filename"] = {True: str(path), False: f"../private/{path.name}"}[absolute]
    state.write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"which lies outside it; a saved set reads only files of its own folder"):
        load(tmp_path / "set")
    (tmp_path / "both").mkdir()
    (tmp_path / "both/dataset_dict.json").write_text(json.dumps({"splits": ["../private"]}))
    with pytest.raises(InputError, match=r"names the file '\.\./private', which lies outside it"):
        load(tmp_path / "both")
    shutil.copytree(tmp_path / "private", tmp_path / "linked")
    (tmp_path / "linked" / path.name).unlink()
    (tmp_path / "linked" / path.name).symlink_to(path)
    with pytest.raises(InputError, match=f"names the file '{path.name}', which lies outside it"):
        load(tmp_path / "linked")


def test_sets_of_hugging_face_in_memory_and_saved(tmp_path: Path) -> None:
    whole = pictures(["cat", "dog"])
    both = datasets.DatasetDict({"train": whole, "test": whole.select(range(6))})
    both.save_to_disk(tmp_path / "both")
    whole.save_to_disk(tmp_path / "one")
    for found in (load(tmp_path / "both"), load_dataset(both, whiten="none")):
        assert found.classes == ("cat", "dog")
        check(found)
    for found in (load(tmp_path / "one"), load_dataset(whole, whiten="none")):
        assert (found.classes, len(found.train), len(found.test)) == (("cat", "dog"), 16, 4)
    assert load_dataset(both, size=8, first_classes=2).shape == (3, 8, 8)
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"broken")
    with pytest.raises(InputError, match=r"one cannot be read as a folder of datasets\.save_to_disk"):
        load(tmp_path / "one")
    own = whole.with_transform(lambda batch: batch)
    assert "transform" in load_dataset(own).summary.left_out[0]
    (tmp_path / "secret.png").write_bytes(b"x")
    cells = [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 4
    cell = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"image": cell, "label": datasets.Value("int64")})
    datasets.Dataset.from_dict({"image": cells, "label": [0, 1] * 2}, features=features).save_to_disk(
        tmp_path / "named"
    )
    with pytest.raises(InputError, match=r"secret\.png', which is no file in"):
        load(tmp_path / "named")
    for strange in (X, [X, Y], {"train": X}, None, 3):
        with pytest.raises(InputError, match="is no data source; give a name"):
            load_dataset(strange)


@pytest.mark.parametrize(
    "names",
    [
        ("Xtrain", "ytrain", "Xtest", "ytest"),
        ("trainx", "trainy", "testx", "testy"),
        ("xtr", "ytr", "xte", "yte"),
        ("trX", "trY", "teX", "teY"),
        ("imgtrain", "lbltrain", "imgtest", "lbltest"),
        ("traindata", "trainlabels", "testdata", "testlabels"),
    ],
)
def test_parts_that_are_written_in_one_word(tmp_path: Path, names: tuple[str, ...]) -> None:
    arrays: dict[str, Any] = dict(zip(names, (X, Y, X6, Y6), strict=True))
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    found = load(tmp_path)
    check(found)
    assert not found.summary.guessed
    np.savez(tmp_path / "reversed.npz", **dict(reversed(arrays.items())))
    check(load(tmp_path / "reversed.npz"))


def test_no_order_makes_training_images_of_what_may_be_a_test_part(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", btest2=X6, otest2=Y6, first=X, second=Y)
    found = load(tmp_path / "a.npz")
    check(found)
    assert "btest2 are those of the test part, by their names" in found.summary.guessed
    np.savez(tmp_path / "b.npz", suite=X6, first=X, labs_a=Y6, labs_b=Y)
    check(load(tmp_path / "b.npz"))
    np.savez(tmp_path / "c.npz", atest1=X6, btest2=X, labs_a=Y6, labs_b=Y)
    with pytest.raises(InputError, match="which all seem to be of a test part; call the arrays x_train"):
        load(tmp_path / "c.npz")


COARSE = np.arange(20) // 10


def test_a_choice_of_labels_and_images_is_honoured(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=X, labels=Y, coarse_labels=COARSE, dx=1 - Y)
    found = load(tmp_path / "a.npz", label_column="coarse_labels")
    assert found.class_sizes() == [8, 8]
    assert found.summary.read[0] == "arrays images, coarse_labels"
    assert "array labels, since --data.label-column coarse_labels was asked for" in found.summary.left_out
    assert load(tmp_path / "a.npz", label_column="dx").summary.read[0] == "arrays images, dx"
    with pytest.raises(InputError, match=r"There is no label array 'coarse' in .* Known: coarse_labels, dx, images"):
        load(tmp_path / "a.npz", label_column="coarse")
    np.savez(tmp_path / "b.npz", images=X[::-1], x=X, fine_labels=Y, coarse_labels=COARSE)
    with pytest.raises(InputError, match=r"could be the same thing; name one of them with --data.image-column"):
        load(tmp_path / "b.npz")
    found = load(tmp_path / "b.npz", image_column="x", label_column="fine_labels")
    assert found.summary.read[0] == "arrays x, fine_labels"


def test_a_choice_of_labels_is_that_of_both_parts(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X6, y_test=Y6, coarse_train=COARSE, coarse_test=1 - Y6, other=Y
    )
    found = load(tmp_path / "a.npz", label_column="coarse_train")
    assert found.summary.read[0] == "arrays x_train, coarse_train, x_test, coarse_test"
    assert found.test.labels.tolist() == (1 - Y6).tolist()
    assert load(tmp_path / "a.npz", label_column="y_test").train.labels.tolist() == Y.tolist()


@pytest.mark.parametrize("fields", [{"label_column": "breed"}, {"image_column": "photo"}])
def test_columns_are_refused_where_there_are_none(tmp_path: Path, fields: dict[str, str]) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(5):
            Image.fromarray(X[number]).save(tmp_path / f"pets/{name}/{number}.png")
    ((flag, value),) = fields.items()
    for source in ("digits", tmp_path / "pets"):
        with pytest.raises(InputError, match=f"--data.{flag.replace('_', '-')} {value} names a column .* leave it out"):
            load(source, **fields)


def test_cifar_has_no_choice_of_images(tmp_path: Path) -> None:
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 0, 1]}
    for source in (tmp_path, tmp_path / "data_batch_1"):
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, 2))
        with pytest.raises(InputError, match=r"--data.image-column photo names a column .* CIFAR's batches"):
            load(source, image_column="photo")


def test_names_of_images_are_none_of_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=X, labels=Y, names=np.array([f"{number}.png" for number in range(20)]))
    found = load(tmp_path / "a.npz")
    assert found.classes == ("0", "1")
    assert found.summary.left_out == ("array names, which has a name for every image, not for every class",)
    np.savez(tmp_path / "b.npz", images=X, labels=Y, names=np.array(["cat", "dog"]))
    assert load(tmp_path / "b.npz").classes == ("cat", "dog")
    each = np.arange(20)
    np.savez(tmp_path / "c.npz", x_train=X, y_train=each, x_test=X, y_test=each, names=np.array([*map(str, each + 5)]))
    assert load(tmp_path / "c.npz").classes[0] == "5"


def test_images_whose_number_could_be_either_end_are_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=X[:16, :, :, 0], labels=Y[:16])
    (said,) = load(tmp_path / "a.npz").summary.guessed
    assert said.startswith("images as [N, H, W], which by its shape (16, 16, 16) could be [H, W, N]")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("class_to_idx.json", b'{"cat": 0}'),
        ("label_to_idx.txt", b"cat 0"),
        ("train.idx", b"0\t1"),
        ("x-idx3-ubyte", b"none"),
        ("test_32x32.mat", b"x" * 600),
        ("test_32x32.mat", b"x" * 126 + b"IM" + b"x" * 600),
        ("train", b"x"),
        ("train.bin", b"x"),
        ("raw/all.npz", b"PK"),
        ("raw/a.npy", b"x"),
    ],
)
def test_files_beside_class_folders_that_are_only_called_like_arrays(tmp_path: Path, name: str, content: bytes) -> None:
    for part in ("train", "test"):
        for each in ("cat", "dog"):
            place = tmp_path / "set" / f"{part}_set" / each
            place.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(X[number]).save(place / f"{number}.png")
    (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
    for each in (name, "meta", "test", "fine_label_names.txt", "test.bin"):
        (tmp_path / "set" / each).write_bytes(content)
    found = load(tmp_path / "set")
    assert (found.classes, found.class_sizes()) == (("cat", "dog"), [4, 4])
    assert any("files that are no pictures" in said or "folder raw, which" in said for said in found.summary.left_out)


def stray_objects(place: Path) -> None:
    np.save(place / "features.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


STRAYS: dict[str, Callable[[Path], Any]] = {
    "npy": lambda place: np.save(place / "features.npy", np.zeros((12, 5), np.float32)),
    "objects": stray_objects,
    "npz": lambda place: np.savez(place / "embedding.npz", a=np.zeros((12, 5)), b=np.zeros(3)),
    "damaged": lambda place: (place / "x.npz").write_bytes(b"PK and no more"),
    "mat": lambda place: savemat(place / "train_32x32.mat", {"f": np.zeros((12, 5))}),
}


@pytest.mark.parametrize("kind", STRAYS)
@pytest.mark.parametrize("labels", ["labels.csv", "list.txt"])
def test_arrays_that_are_no_set_beside_labelled_pictures(tmp_path: Path, kind: str, labels: str) -> None:
    """Before, they were refused, and the pictures were not read. Without labels of the pictures they still are."""
    for number in range(12):
        Image.fromarray(X[number]).save(tmp_path / f"{number}.png")
    STRAYS[kind](tmp_path)
    with pytest.raises(InputError, match=r"it needs x_train|never unpickled|cannot be read as an .npz"):
        load(tmp_path)
    sign = "," if labels.endswith("csv") else " "
    (tmp_path / labels).write_text("".join(f"{number}.png{sign}{'ab'[number % 2]}\n" for number in range(12)))
    found = load(tmp_path)
    assert found.classes == ("a", "b")
    assert any(said.startswith("the pictures, not the array files beside them (") for said in found.summary.guessed)
    (tmp_path / "test.txt").write_text("0.png\n1.png\n")
    if labels.endswith("csv"):
        assert len(load(tmp_path, test_part="test.txt").test) == 2


def test_pictures_beside_arrays_that_are_a_set_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=X, labels=Y)
    Image.fromarray(X[0]).save(tmp_path / "preview.png")
    assert "1 picture beside the arrays (preview.png)" in load(tmp_path).summary.left_out


def test_the_file_that_an_idx_folder_has_besides(tmp_path: Path) -> None:
    for name, array in {"train-images-idx3-ubyte": X[..., 0], "train-labels-idx1-ubyte": Y}.items():
        (tmp_path / name).write_bytes(idx_bytes(array.astype(np.uint8)))
    (tmp_path / "class_to_idx.json").write_text("{}")
    assert len(load(tmp_path).train) == 16
    (tmp_path / "samples").mkdir()
    Image.fromarray(X[0]).save(tmp_path / "samples/a.png")
    assert "folders of pictures beside the arrays (samples)" in load(tmp_path).summary.left_out


def test_sentences_name_idx_files_and_the_folder_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "digits"
    place.mkdir()
    arrays = {"train-images-idx3": X[..., 0], "train-labels-idx1": Y, "t10k-images-idx3": X6[..., 0]}
    for name, array in (arrays | {"t10k-labels-idx1": Y6[:5]}).items():
        (place / f"{name}-ubyte").write_bytes(idx_bytes(array.astype(np.uint8)))
    monkeypatch.chdir(place)
    with pytest.raises(InputError, match=r"^digits, t10k-images-idx3-ubyte has 6 images but 5 labels"):
        load(".")


def test_an_empty_source_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", images=X, labels=Y)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--data is empty; name a data set, a folder or a file, or '.'"):
        load("")


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("part", ["test", "val"])
def test_arrays_of_the_test_part_alone_are_refused_unless_they_are_named(tmp_path: Path, part: str) -> None:
    file, images, labels = tmp_path / "a.npz", f"x_{part}", f"y_{part}"
    np.savez(file, **{images: IMAGES, labels: LABELS})
    only = rf"holds only the test part \({images}, {labels}\); add x_train and y_train, or take"
    with pytest.raises(InputError, match=only):
        load(file)
    assert len(load(file, image_column=images, label_column=labels).train) == 16
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / f"{images}.npy", IMAGES)
    np.save(tmp_path / "npy" / f"{labels}.npy", LABELS)
    with pytest.raises(InputError, match=only):
        load(tmp_path / "npy")


def test_files_of_the_test_part_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "idx").mkdir()
    write_idx(tmp_path / "idx" / "t10k-images-idx3-ubyte", IMAGES[..., 0], False)
    write_idx(tmp_path / "idx" / "t10k-labels-idx1-ubyte", LABELS.astype(np.uint8), False)
    with pytest.raises(InputError, match=r"holds only the test part \(t10k-images-idx3-ubyte, t10k-labels"):
        load(tmp_path / "idx")
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "test.npz", images=IMAGES, labels=LABELS)
    with pytest.raises(InputError, match=r"holds only the test part \(test.npz\); add a file of training images"):
        load(tmp_path / "npz")
    assert len(load(tmp_path / "npz" / "test.npz").train) == 16
    np.savez(tmp_path / "npz" / "test.npz", x_train=IMAGES, y_train=LABELS)
    assert len(load(tmp_path / "npz").train) == 16


def test_the_test_part_of_svhn_alone_is_refused_unless_it_is_named(tmp_path: Path) -> None:
    """Before, it was trained on. Its further images alone are training images."""
    held = {"X": np.moveaxis(IMAGES, 0, -1), "y": LABELS.reshape(-1, 1) + 1}
    for name in ("test", "extra"):
        (tmp_path / name).mkdir()
        savemat(tmp_path / name / f"{name}_32x32.mat", held)
    file = tmp_path / "test/test_32x32.mat"
    only = rf"holds no training part, only test_32x32\.mat; add train_32x32\.mat, or take .* --data {file}"
    with pytest.raises(InputError, match=only):
        load(tmp_path / "test")
    assert len(load(file).train) == len(load(tmp_path / "extra").train) == 16
    savemat(tmp_path / "test/extra_32x32.mat", held)
    with pytest.raises(InputError, match=r"only extra_32x32\.mat and test_32x32\.mat; add train_32x32\.mat"):
        load(tmp_path / "test")
