"""Tables as strangers write them: labels of any kind, pictures as bytes, paths and lists, and parts by file name."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from astdistill.data.dataset import Dataset
from astdistill.data.hub import parquet_file
from astdistill.data.loading import load_dataset
from astdistill.data.parquet import split_files
from astdistill.runtime.errors import InputError


def png(number: int) -> bytes:
    """A grey picture whose pixels are its number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def cells(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"bytes": png(first + number), "path": None} for number in range(count)]


def write(path: Path, **columns: Any) -> Path:
    """A parquet file as pandas writes it; `image` holds the pictures 0, 1, 2, … unless it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values())))
    pd.DataFrame({"image": cells(count), **columns}).to_parquet(path)
    return path.parent


def read(folder: Path, **fields: Any) -> Dataset:
    return load_dataset(str(folder), whiten="none", **fields)


def by_number(found: Dataset) -> dict[int, str]:
    """The class of each picture, of both parts, by its pixels."""
    return {
        round(float(images[row, 0, 0, 0]) * 255): found.classes[label]
        for part in (found.train, found.test)
        for images in [part.whole()]
        for row, label in enumerate(part.labels.tolist())
    }


@pytest.mark.parametrize(
    ("column", "labels", "names"),
    [
        ("label", ["cat", "dog"], ["cat", "dog"]),
        ("class", ["dog", "cat"], ["dog", "cat"]),
        ("target", [7.0, 3.0], ["7", "3"]),
        ("y", [True, False], ["True", "False"]),
        ("Category", pd.Categorical(["b", "a"]), ["b", "a"]),
        ("class_name", [b"b", b"a"], ["b", "a"]),
        ("label", pd.Categorical([5, 3]), ["5", "3"]),
        ("label", [1, 2], ["1", "2"]),
        ("labels", [20230001, 19991231], ["20230001", "19991231"]),
        ("species", ["Iris", "Rosa"], ["Iris", "Rosa"]),
        ("label", np.array([4, 200], dtype=np.uint8), ["4", "200"]),
        ("label", [[3], [1]], ["3", "1"]),
        ("label", ["10", "9"], ["10", "9"]),
    ],
)
@pytest.mark.parametrize("beside", [{}, {"fold": [0, 1, 2] * 4}, {"__index_level_0__": [*range(12)]}, {"id": [0] * 12}])
def test_labels_of_any_kind(
    tmp_path: Path, column: str, labels: Any, names: list[str], beside: dict[str, list[int]]
) -> None:
    given = labels if isinstance(labels, pd.Categorical) else pd.Series(list(labels))
    found = read(write(tmp_path / "set/train.parquet", **{column: pd.Series(given).iloc[[0, 1] * 6].array}, **beside))
    assert by_number(found) == {number: names[number % 2] for number in range(12)}
    order = sorted(names, key=lambda name: (len(name), name) if name.isdecimal() else (0, name))
    assert found.classes == tuple(order)


def test_a_shuffled_frame_keeps_its_labels(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": cells(20), "label": ["cat", "dog"] * 10}).sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "train.parquet")
    assert "__index_level_0__" in pyarrow.parquet.read_schema(tmp_path / "train.parquet").names
    assert by_number(read(tmp_path)) == {number: ["cat", "dog"][number % 2] for number in range(20)}


def test_missing_labels_are_left_out_and_said(tmp_path: Path) -> None:
    labels: list[Any] = ["cat", "dog"] * 6
    labels[3] = labels[8] = None
    labels[5] = ""
    found = read(write(tmp_path / "train.parquet", label=labels))
    assert by_number(found) == {n: ["cat", "dog"][n % 2] for n in range(12) if n not in (3, 5, 8)}
    assert found.summary.left_out == ("3 images of split train without a label (such as rows 3, 5, 8)",)
    numbers = pd.array([0, 1, None] * 4, dtype="Int64")
    assert read(write(tmp_path / "numbers/train.parquet", label=numbers)).classes == ("0", "1")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([["cat"], ["cat", "dog"]], r"column label hold several values to an image"),
        ([[0, 1], [1, 0]], r"column label hold several values to an image"),
        ([0.5, 1.25], r"column label hold 0.5, which is no whole number"),
        ([{"a": 1}, {"a": 2}], r"column label hold several values to an image"),
        ([None, None], r"Column label of set, train part, holds no labels"),
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), r"column label are of type datetime"),
        ([-1, 0, 1], r"Label -1 of set, column label occurs with 0..1"),
        (["cat"], r"The data have fewer than two classes \(cat\); at least two"),
    ],
)
def test_labels_that_are_none_are_refused_by_name(tmp_path: Path, labels: Any, sentence: str) -> None:
    count = 12 // len(labels)
    with pytest.raises(InputError, match=sentence):
        read(write(tmp_path / "set/train.parquet", label=list(labels) * count, fold=[0, 1] * 6))


def test_no_column_of_numbers_is_taken_for_a_label(tmp_path: Path) -> None:
    folder = write(tmp_path / "set/train.parquet", fold=[0, 1] * 5, name=["a", "b"] * 5)
    with pytest.raises(
        InputError, match=r"set has no label column called like one .*fold \(whole numbers\), name \(te"
    ):
        read(folder)
    assert read(folder, label_column="name").classes == ("a", "b")


def test_text_names_the_numbers(tmp_path: Path) -> None:
    columns = {"label": [3, 1] * 6, "label_name": ["dog", "cat"] * 6}
    found = read(write(tmp_path / "train.parquet", **columns))
    assert found.classes == ("cat", "dog")
    assert by_number(found) == {number: ["dog", "cat"][number % 2] for number in range(12)}
    assert "class names: column label_name" in found.summary.read
    other = {"label": [0, 1] * 6, "label_name": ["dog", "cat", "cup"] * 4}
    with pytest.raises(InputError, match="several columns that could be the label: label, label_name; name one"):
        read(write(tmp_path / "other/train.parquet", **other))


def test_parts_are_mapped_by_class_name(tmp_path: Path) -> None:
    for part, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        labels = [names.index(name) for name in ("cat", "dog")] * 3
        first = 100 * (part == "test")
        table = datasets.Dataset.from_dict({"image": cells(6, first), "label": labels}, features=features)
        table.to_parquet(tmp_path / f"{part}.parquet")
    found = read(tmp_path)
    assert found.classes == ("cat", "dog")
    assert by_number(found) == {base + n: ["cat", "dog"][n % 2] for base in (0, 100) for n in range(6)}


def test_parts_with_other_classes(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", label=["cat", "dog"] * 3)
    write(tmp_path / "test.parquet", label=["dog", "cup"])
    with pytest.raises(InputError, match="Class 'cup' has no training images"):
        read(tmp_path)
    write(tmp_path / "test.parquet", label=["dog", "dog"])
    assert read(tmp_path).test.labels.tolist() == [1, 1]
    write(tmp_path / "test.parquet", label=[1, 0])
    with pytest.raises(InputError, match=r"column label are a mixture of int and str"):
        read(tmp_path)


LISTS = np.arange(64).reshape(8, 8) * 4


@pytest.mark.parametrize(
    ("array", "scale"),
    [
        (LISTS, 1),
        (LISTS.astype(np.uint8), 1),
        (LISTS / 252, 255 / 252),
        (LISTS.astype(np.float32), 1),
        (LISTS * 16, 255 / 4095 * 16),
        (LISTS.reshape(64), 1),
        (np.stack([LISTS] * 3), 1),
        (np.stack([LISTS] * 3, axis=2), 1),
        (LISTS[None], 1),
        (LISTS[..., None], 1),
        (LISTS > 100, 0),
    ],
)
@pytest.mark.parametrize("column", ["image", "pixels"])
def test_nested_lists_are_pictures(tmp_path: Path, array: np.ndarray, scale: float, column: str) -> None:
    frame = pd.DataFrame({column: [array.tolist() for _ in range(10)], "label": [0, 1] * 5})
    if array.dtype == np.uint8:
        kind = pa.list_(pa.list_(pa.uint8()))
        table = pa.table({column: pa.array(frame[column].tolist(), type=kind), "label": frame["label"].tolist()})
        pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    else:
        frame.to_parquet(tmp_path / "train.parquet")
    pixels = (read(tmp_path).train.whole() * 255).round()
    expected = torch.from_numpy(np.where(LISTS > 100, 255, 0) if not scale else np.rint(LISTS * scale))
    assert pixels.shape[1] == (3 if 3 in array.shape else 1)
    assert torch.equal(pixels[3, -1], expected.float())


def test_one_scale_for_the_whole_set(tmp_path: Path) -> None:
    bright, dark = LISTS * 100, LISTS
    columns = {"label": [0, 1] * 5, "image": [bright.tolist(), dark.tolist()] * 5}
    found = read(write(tmp_path / "train.parquet", **columns))
    tops = [int((found.train.whole()[found.train.labels == label] * 255).round().max()) for label in (0, 1)]
    assert tops == [round(25200 / 65535 * 255), 1]
    assert found.summary.guessed == ("integer lists reach 25200, so 65535 is white (otherwise: --data.white-level)",)


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ([[1, 2], [3]], "its lists have shape"),
        ([1, 2, 3], "its 3 numbers in a row are no square"),
        ([[-1, 2], [3, 4]], "go down to -1"),
        ([[None, 2.5], [3, 4]], "no numbers"),
        (np.zeros((4, 4, 4)).tolist(), r"which could be \[H, W, C\] or \[C, H, W\]"),
        (np.zeros((2, 2, 2, 2)).tolist(), "its lists have shape"),
        ([["a", "b"], ["c", "d"]], "its values are of type"),
    ],
)
def test_lists_that_are_no_pictures(tmp_path: Path, cell: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=rf"Image 0 of .*, train part cannot be read as an image \(.*{sentence}"):
        read(write(tmp_path / "train.parquet", label=[0, 1] * 5, image=[cell] * 10))


def test_hugging_face_arrays_are_pictures(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Array3D((3, 8, 8), "uint8"), "label": datasets.Value("int64")})
    pictures = np.arange(10 * 192, dtype=np.uint8).reshape(10, 3, 8, 8)
    datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 5}, features=features).to_parquet(
        tmp_path / "train.parquet"
    )
    datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 5}, features=features).to_parquet(
        tmp_path / "test.parquet"
    )
    assert np.array_equal((read(tmp_path).test.whole() * 255).round().numpy(), pictures)


def placed(folder: Path, names: Sequence[Any], **more: Any) -> Path:
    """A table whose cells name pictures, and the pictures 0, 1, … in `imgs/`."""
    (folder / "imgs").mkdir(parents=True)
    for number in range(10):
        (folder / "imgs" / f"{number}.png").write_bytes(png(number))
    write(folder / "train.parquet", label=[0, 1] * 5, image=list(names), **more)
    return folder


@pytest.mark.parametrize(
    "form", ["imgs/{}.png", "./imgs/{}.png", "{}/imgs/{}.png", "imgs\\{}.png", "imgs/../imgs/{}.png"]
)
@pytest.mark.parametrize("as_cells", [False, True])
def test_paths_beside_the_file(tmp_path: Path, form: str, as_cells: bool) -> None:
    folder = tmp_path / "set"
    texts = [form.format(*([folder] * (form.count("{}") - 1)), number) for number in range(10)]
    names: Any = [{"bytes": None, "path": text} for text in texts] if as_cells else texts
    found = read(placed(folder, names))
    assert by_number(found) == {number: str(number % 2) for number in range(10)}
    (folder / "imgs/3.png").write_bytes(png(99))  # a changed picture is a changed set
    assert 99 in by_number(read(folder))


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "{}/secret.png",
        "link.png",
        "out/secret.png",
        "pipe.png",
        "/dev/zero",
        "imgs/77.png",
        "file://x",
    ],
)
@pytest.mark.parametrize("as_cells", [False, True])
def test_no_other_file_is_opened(tmp_path: Path, name: str, as_cells: bool) -> None:
    (tmp_path / "secret.png").write_bytes(png(200))
    names: list[Any] = [f"imgs/{number}.png" for number in range(10)]
    names[4] = name.format(tmp_path)
    folder = placed(tmp_path / "set", [{"bytes": None, "path": text} for text in names] if as_cells else names)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(InputError, match=r"A cell names the picture '.*', which is no file in .*set or below it"):
        read(folder)


def test_an_empty_cell_is_named(tmp_path: Path) -> None:
    pictures: list[Any] = cells(10)
    pictures[6] = {"bytes": None, "path": None}
    pictures[7] = None
    with pytest.raises(InputError, match=r"Image 6 of .*, train part cannot be read as an image"):
        read(write(tmp_path / "train.parquet", label=[0, 1] * 5, image=pictures))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("mnist_train.parquet", "mnist_test.parquet"),
        ("pets-train-00000-of-00001.parquet", "pets-test-00000-of-00001.parquet"),
        ("train.parquet", "dev.parquet"),
        ("Train.parquet", "eval.parquet"),
        ("TRAINING.parquet", "Testing.parquet"),
        ("trn.parquet", "tst.parquet"),
        ("data/train-00000-of-00001-a1b2c3d4e5f6.parquet", "data/validation-00000-of-00001-0f9e8d7c.parquet"),
        ("train_data/0.parquet", "holdout/0.parquet"),
        ("all.parquet", "test.parquet"),
        ("[x]{y}train*.parquet", "[x]{y}test*.parquet"),
    ],
)
def test_parts_by_file_name(tmp_path: Path, train: str, test: str) -> None:
    folder = tmp_path / "set [1]"
    write(folder / train, label=[0, 1] * 5)
    write(folder / test, label=[0, 1] * 3, image=cells(6, 100))
    found = read(folder)
    assert (len(found.train), len(found.test)) == (10, 6)
    assert float(found.test.whole().min()) * 255 == pytest.approx(100)


def test_several_sets_of_one_part_are_a_question(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("mnist_train.parquet", "svhn_train.parquet", "test.parquet")]
    with pytest.raises(InputError, match=r"several sets of training files \(mnist_train, svhn_train\)"):
        split_files(tmp_path, files)
    with pytest.raises(InputError, match=r"several sets of validation files \(dev, val\)"):
        split_files(tmp_path, [tmp_path / name for name in ("train.parquet", "dev.parquet", "val.parquet")])
    with pytest.raises(InputError, match=r"holds training files in several folders \(\., small\); name one"):
        split_files(tmp_path, [tmp_path / "a.parquet", tmp_path / "small/b.parquet"])


def test_hidden_and_foreign_files_are_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path / "set/train.parquet", label=[0, 1] * 5)
    write(tmp_path / "set/.ipynb_checkpoints/train-checkpoint.parquet", label=[1, 0] * 5)
    write(tmp_path / "set/.cache/x/train.parquet", label=[1, 0] * 5)
    write(tmp_path / "set/notes.parquet", label=[1, 0] * 5)
    os.mkfifo(tmp_path / "set/pipe.parquet")
    found = read(tmp_path / "set")
    assert len(found.train) + len(found.test) == 10
    assert found.summary.left_out == (
        "parquet files that belong to no part: notes.parquet",
        "2 hidden or system files and folders (.cache, .ipynb_checkpoints)",
        "1 link to nothing, pipe, device or socket (pipe.parquet)",
    )


def test_files_of_a_part_that_differ(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", label=[0, 1] * 5)
    write(tmp_path / "train-1.parquet", target=[0, 1] * 5)
    with pytest.raises(
        InputError, match=r"train-0.parquet has the columns image, label and train-1.parquet has image, t"
    ):
        read(tmp_path)
    write(tmp_path / "train-1.parquet", label=["a", "b"] * 5)
    with pytest.raises(InputError, match="columns of different types"):
        read(tmp_path)
    named = [{"bytes": png(50), "path": "a.png"}] * 10
    write(tmp_path / "train-1.parquet", label=np.array([0, 1] * 5, dtype=np.int8), image=named)
    assert sorted(by_number(read(tmp_path))) == [*range(10), 50]


def test_a_column_says_the_part(tmp_path: Path) -> None:
    parts = ["train"] * 8 + ["Test"] * 3 + ["val"]
    found = read(write(tmp_path / "all.parquet", label=["a", "b"] * 6, split=parts))
    assert (len(found.train), len(found.test)) == (8, 3)
    assert by_number(found) == {number: "ab"[number % 2] for number in range(11)}
    assert "parts: column split" in found.summary.read
    assert found.summary.left_out == ("split validation, since test is the test part",)
    other = read(write(tmp_path / "other/all.parquet", label=["a", "b"] * 6, split=["north", "south"] * 6))
    assert len(other.train) + len(other.test) == 12


def test_a_column_of_parts_opens_no_other_files(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(200))
    names = [f"imgs/{number}.png" for number in range(9)] + ["../secret.png"]
    with pytest.raises(InputError, match=r"which is no file in .*set or below it"):
        read(placed(tmp_path / "set", names, split=["train"] * 6 + ["test"] * 4))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"image": ["a cat"] * 10}, "A cell names the picture 'a cat', which is no file in"),
        ({"image": [b"GIF"] * 10}, "Image 0 of set, train part cannot be read as an image"),
        ({"image": [1] * 10}, r"set has no image column; it has image \(whole numbers\), label"),
        ({f"pixel{n}": [0] * 10 for n in range(20)} | {"image": [0] * 10}, r"pixel6 .* and 14 more\. Name the image"),
    ],
)
def test_refusals_name_the_cause(tmp_path: Path, columns: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read(write(tmp_path / "set/train.parquet", **columns, label=[0, 1] * 5))


def test_parts_with_other_columns_and_no_regular_file(tmp_path: Path) -> None:
    write(tmp_path / "set/train.parquet", label=[0, 1] * 5)
    pd.DataFrame({"picture": cells(2), "label": [0, 1]}).to_parquet(tmp_path / "set/test.parquet")
    with pytest.raises(InputError, match=r"no image column 'image' in set, test part\. .*Known: label, picture"):
        read(tmp_path / "set")
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes/train.parquet")
    with pytest.raises(InputError, match=r"holds no parquet files and no pictures, but 1 link to nothing, pipe"):
        read(tmp_path / "pipes")


def test_a_single_file_is_a_table(tmp_path: Path) -> None:
    """Also where its name speaks of a part: there is no other. What lies beside it is not looked at."""
    write(tmp_path / "pets_test.parquet", label=["cat", "dog"] * 5)
    write(tmp_path / "other.parquet", label=[0, 1] * 5)
    found = read(tmp_path / "pets_test.parquet")
    assert (found.name, found.classes, len(found.train), len(found.test)) == ("pets_test", ("cat", "dog"), 8, 2)


PARTED = ["train"] * 6 + ["test"] * 4


@pytest.mark.parametrize(
    ("last", "told"),
    [(["unlabeled"] * 2, "'unlabeled'"), ([None] * 2, "no value"), (["query", "gallery"], "'query', 'gallery'")],
)
def test_rows_of_no_part_are_left_out_and_counted(tmp_path: Path, last: list[str | None], told: str) -> None:
    found = read(write(tmp_path / "set/all.parquet", label=[0, 1] * 6, split=PARTED + last))
    assert (len(found.train), len(found.test)) == (6, 4)
    assert set(by_number(found)) == set(range(10))
    assert found.summary.left_out == (f"2 rows of no part, where column split has {told}",)
    assert "parts: column split" in found.summary.read
    table = datasets.Dataset.from_pandas(pd.read_parquet(tmp_path / "set/all.parquet"))
    in_memory = load_dataset(table, whiten="none")
    assert (len(in_memory.train), len(in_memory.test)) == (6, 4)


def test_a_part_column_without_test_rows_leaves_the_others_out(tmp_path: Path) -> None:
    found = read(write(tmp_path / "set/all.parquet", label=[0, 1] * 10, split=["train"] * 15 + ["extra"] * 5))
    assert len(found.train) + len(found.test) == 15
    assert found.summary.left_out == ("5 rows of no part, where column split has 'extra'",)


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("data_split", PARTED, "test, train"),
        ("dataset", PARTED, "test, train"),
        ("is_test", [value == "test" for value in PARTED], "False, True"),
        ("split", [0] * 6 + [1] * 4, "0, 1"),
        ("split", ["a"] * 6 + ["test"] * 4, "a, test"),
    ],
)
def test_a_column_that_may_tell_parts_is_said(tmp_path: Path, column: str, values: list[Any], told: str) -> None:
    found = read(write(tmp_path / "set/all.parquet", label=[0, 1] * 5, **{column: values}))
    assert len(found.train) + len(found.test) == 10
    (said,) = found.summary.guessed
    assert said.startswith(f"all rows as one part, though column {column} ({told}) could tell")
    assert "a column called split" in said


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", list(range(30))),
        ("test_score", [0.1, 0.5, 0.9] * 10),
        ("score_of_test", list(range(30))),
        ("source", ["web", "test"] * 15),
        ("set", list(range(30))),
        ("split", ["train"] * 30),
    ],
)
def test_other_columns_are_no_parts(tmp_path: Path, column: str, values: list[Any]) -> None:
    found = read(write(tmp_path / "set/all.parquet", label=[0, 1] * 15, **{column: values}))
    assert not found.summary.guessed
    assert len(found.train) + len(found.test) == 30


def picture_tree(place: Path, *extra: str) -> list[str]:
    """Grey pictures in train/ and test/, two classes each, and in further folders; their paths."""
    paths = [
        f"{part}/{name}/{number}.png"
        for part, count in (("train", 6), ("test", 3), *((each, 2) for each in extra))
        for name in ("cat", "dog")
        for number in range(count)
    ]
    for number, path in enumerate(paths):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(png(number))
    return paths


@pytest.mark.parametrize("start", ["", "./", "sets/"])
def test_the_folders_of_named_pictures_tell_the_parts(tmp_path: Path, start: str) -> None:
    paths = picture_tree(tmp_path / "set" / start, "extra")
    table = pd.DataFrame(
        {"file_name": [start + path for path in paths], "label": [path.split("/")[1] for path in paths]}
    )
    table.to_parquet(tmp_path / "set/metadata.parquet")
    found = read(tmp_path / "set")
    assert (len(found.train), len(found.test)) == (12, 6)
    assert {"parts: the folders in column file_name", "split train: metadata.parquet"} <= set(found.summary.read)
    assert "4 rows of no part, where the folders in column file_name has" in found.summary.left_out[0]
    assert sorted(by_number(found)) == list(range(18))


def test_class_folders_called_like_parts_by_a_word_tell_none(tmp_path: Path) -> None:
    paths = [f"{name}/{number}.png" for name in ("test_tubes", "training_shoes") for number in range(10)]
    for number, path in enumerate(paths):
        (tmp_path / "set" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / path).write_bytes(png(number))
    table = pd.DataFrame({"file_name": paths, "label": [path.split("/")[0] for path in paths]})
    table.to_parquet(tmp_path / "set/metadata.parquet")
    assert read(tmp_path / "set").class_sizes() == [8, 8]


@pytest.mark.parametrize("columns", [{"width": [1, 2]}, {"path": ["x", "y"], "clip": [[0.1], [0.2]]}])
def test_a_table_without_pictures_beside_class_folders_is_left_out(tmp_path: Path, columns: dict[str, Any]) -> None:
    picture_tree(tmp_path / "set")
    pd.DataFrame(columns).to_parquet(tmp_path / "set/stats.parquet")
    found = read(tmp_path / "set")
    assert (len(found.train), len(found.test), found.classes) == (12, 6, ("cat", "dog"))
    assert "parquet files without a column of pictures and one of labels: stats.parquet" in found.summary.left_out


def test_a_table_without_pictures_beside_one_with(tmp_path: Path) -> None:
    picture_tree(tmp_path / "set")
    pd.DataFrame({"width": [1, 2]}).to_parquet(tmp_path / "set/stats.parquet")
    found = read(write(tmp_path / "set/pictures.parquet", label=[0, 1] * 5))
    assert len(found.train) + len(found.test) == 10
    assert "parquet files without a column of pictures and one of labels: stats.parquet" in found.summary.left_out


@pytest.mark.parametrize("kind", [int, float, bool])
@pytest.mark.parametrize("columns", [("mel", "nv", "dx"), ("type", "nv", "bcc"), ("class_0", "class_1", "class_2")])
def test_one_hot_columns_of_which_one_is_called_like_a_label(
    tmp_path: Path, kind: type, columns: tuple[str, ...]
) -> None:
    """Before, the classes of the others were one class, or one of the columns was asked for as the label."""
    cells = {name: [kind(row % 3 == number) for row in range(12)] for number, name in enumerate(columns)}
    place = write(tmp_path / "set/train.parquet", **cells)
    label = next(name for name in columns if name in ("dx", "type", "class_0"))
    only = rf"set tells the class by zeros and ones in the columns {', '.join(columns)}, of which {label} is called"
    with pytest.raises(InputError, match=only):
        read(place)
    assert len(read(place, label_column=label).classes) == 2
    cells[columns[1]][0] = kind(not cells[columns[1]][0])  # flags of which several or none marks a row
    if columns[0] != "class_0":
        assert len(read(write(tmp_path / "other/train.parquet", **cells)).classes) == 2


def test_other_tables_beside_parquet_files_are_told(tmp_path: Path) -> None:
    write(tmp_path / "set/train.parquet", label=[0, 1] * 5)
    (tmp_path / "set/labels.csv").write_text("file_name,label\n")
    assert "1 table beside the parquet files (labels.csv)" in read(tmp_path / "set").summary.left_out


def test_features_beside_labelled_pictures_are_left_out(tmp_path: Path) -> None:
    """Before, a column x of five numbers was refused as a picture. Flat squares are pictures, as before."""
    (tmp_path / "set").mkdir()
    for number in range(10):
        (tmp_path / "set" / f"{number}.png").write_bytes(png(number))
    (tmp_path / "set/labels.csv").write_text("".join(f"{number}.png,{'ab'[number % 2]}\n" for number in range(10)))
    found = read(write(tmp_path / "set/emb.parquet", image=[[0.5] * 5] * 10, label=[0, 1] * 5))
    assert found.classes == ("a", "b")
    assert "parquet files without a column of pictures and one of labels: emb.parquet" in found.summary.left_out
    found = read(write(tmp_path / "set/emb.parquet", image=[[n] * 64 for n in range(10)], label=[0, 1] * 5))
    assert found.classes == ("0", "1")


def test_a_broken_table_beside_class_folders_is_refused(tmp_path: Path) -> None:
    picture_tree(tmp_path / "set")
    (tmp_path / "set/stats.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"stats\.parquet cannot be read"):
        read(tmp_path / "set")


def test_endings_of_tables_in_capitals(tmp_path: Path) -> None:
    write(tmp_path / "set/TRAIN.PARQUET", label=[0, 1] * 5)
    assert len(read(write(tmp_path / "set/TEST.PARQUET", label=[0, 1])).test) == 2


def test_what_lies_beside_a_table_that_holds_its_pictures_is_not_read(tmp_path: Path) -> None:
    """Also with plain bytes or lists and labels of text."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set/disk.img").write_bytes(b"x" * 1000)
    names = ["cat", "dog"] * 5
    images = {"bytes": [png(n) for n in range(10)], "lists": [[[n] * 8] * 8 for n in range(10)], "structs": cells(10)}
    for kind, image in images.items():
        write(tmp_path / f"set/{kind}.parquet", image=image, label=names)
        assert not parquet_file(tmp_path / f"set/{kind}.parquet").pictures
    write(tmp_path / "set/named.parquet", image=[png(0)] * 10, picture=["disk.img"] * 10, label=names)
    assert not parquet_file(tmp_path / "set/named.parquet").pictures
    assert parquet_file(tmp_path / "set/named.parquet", "picture").pictures


def test_flat_lists_are_said(tmp_path: Path) -> None:
    found = read(write(tmp_path / "set/train.parquet", image=[[n] * 9216 for n in range(10)], label=[0, 1] * 5))
    assert found.train.shape == (1, 96, 96)
    assert "10 flat lists of numbers as grey pictures of 96×96 (otherwise: store them as [H, W, C])" in (
        found.summary.guessed
    )


@pytest.mark.parametrize("whole", [False, True])
def test_lists_whose_parts_differ_in_white_are_refused(tmp_path: Path, whole: bool) -> None:
    kind, dark = (int, 1 / 255 / 255) if whole else (float, 1 / 255)
    values = [[[kind(number * 25)] * 8] * 8 for number in range(1, 11)]
    write(tmp_path / "set/train.parquet", image=values, label=[0, 1] * 5)
    tested = [[[cell * dark for cell in row] for row in image] for image in values]
    place = write(tmp_path / "set/test.parquet", image=tested, label=[0, 1] * 5)
    with pytest.raises(InputError, match="the test part would be 255 times darker; store both parts with the same"):
        read(place)
