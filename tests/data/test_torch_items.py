"""Torch data sets of every shape of item, iterable ones, loaders and lists: the same set, or one sentence."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data import Dataset as TorchDataset

from astdistill.data.dataset import Dataset
from astdistill.data.loading import load_dataset
from astdistill.data.tensors import dataset_from_tensors, dataset_from_torch
from astdistill.runtime.errors import InputError

IMAGES = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 2
ARRAYS = IMAGES.permute(0, 2, 3, 1).numpy()
Named = namedtuple("Named", ["label", "image"])


@dataclass
class Record:
    y: int
    x: torch.Tensor


class Listed(TorchDataset[Any]):
    def __init__(self, item: Callable[[int], Any], count: int = 12, classes: Any = None) -> None:
        self.item, self.count = item, count
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Any:
        if row >= self.count:
            raise IndexError(row)
        return self.item(row)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return ((IMAGES[row], int(LABELS[row])) for row in range(12))


def png(row: int) -> bytes:
    stream = BytesIO()
    Image.fromarray(ARRAYS[row]).save(stream, "PNG")
    return stream.getvalue()


def plain(**more: Any) -> Dataset:
    return dataset_from_tensors(IMAGES, LABELS, IMAGES, LABELS, whiten="none", **more)


KINDS: dict[str, Any] = {
    "pair": Listed(lambda row: (IMAGES[row], int(LABELS[row]))),
    "list": Listed(lambda row: [IMAGES[row], LABELS[row]]),
    "label first": Listed(lambda row: (int(LABELS[row]), IMAGES[row])),
    "triple": Listed(lambda row: (IMAGES[row], LABELS[row], torch.tensor([row, 1]))),
    "index first": Listed(lambda row: (row, IMAGES[row], int(LABELS[row]))),
    "dictionary": Listed(lambda row: {"id": row, "image": IMAGES[row], "label": int(LABELS[row])}),
    "other names": Listed(
        lambda row: {"pixel_values": IMAGES[row], "labels": int(LABELS[row]), "mask": IMAGES[row, 0]}
    ),
    "webdataset": Listed(lambda row: {"__key__": str(row), "png": png(row), "cls": int(LABELS[row])}),
    "named tuple": Listed(lambda row: Named(int(LABELS[row]), IMAGES[row])),
    "dataclass": Listed(lambda row: Record(int(LABELS[row]), IMAGES[row])),
    "picture": Listed(lambda row: (Image.fromarray(ARRAYS[row]), int(LABELS[row]))),
    "array": Listed(lambda row: (ARRAYS[row], np.int64(LABELS[row]))),
    "big-endian": Listed(lambda row: (ARRAYS[row].astype(">i2"), int(LABELS[row]))),
    "stream": Stream(),
    "list of pairs": [(IMAGES[row], int(LABELS[row])) for row in range(12)],
    "generator": lambda: ((IMAGES[row], int(LABELS[row])) for row in range(12)),
    "loader": DataLoader(TensorDataset(IMAGES, LABELS), batch_size=5),
    "shuffled loader": DataLoader(TensorDataset(IMAGES, LABELS), batch_size=5, shuffle=True, drop_last=True),
    "loader of dictionaries": DataLoader(
        Listed(lambda row: {"image": IMAGES[row], "label": LABELS[row]}), batch_size=5
    ),
    "loader of a stream": DataLoader(Stream(), batch_size=5),
    "loader without batches": DataLoader(Stream(), batch_size=None),
    "loader with its own collation": DataLoader(
        TensorDataset(IMAGES, LABELS),
        batch_size=5,
        collate_fn=lambda items: {"image": [item[0] for item in items], "label": [item[1] for item in items], "n": 5},
    ),
    "subset": Subset(TensorDataset(IMAGES, LABELS), range(12)),
    "concatenated": ConcatDataset([TensorDataset(IMAGES[:5], LABELS[:5]), TensorDataset(IMAGES[5:], LABELS[5:])]),
}
GUESSED = {"index first", "other names", *(kind for kind in KINDS if "loader" in kind)} - {"loader without batches"}
"""Those of which something is said that could be otherwise."""


@pytest.mark.parametrize("kind", KINDS)
def test_items_of_every_shape_are_the_same_set(kind: str) -> None:
    parts = [KINDS[kind]() if kind == "generator" else KINDS[kind] for _ in range(2)]
    found = dataset_from_torch(*parts, whiten="none")
    assert found.fingerprint == plain().fingerprint
    assert torch.equal(found.test.whole(), plain().test.whole())
    assert bool(found.summary.guessed) == (kind in GUESSED)


def test_text_labels_and_far_numbers() -> None:
    words = Listed(lambda row: (IMAGES[row], ("dog", "cat")[int(LABELS[row])]))
    found = dataset_from_torch(words, words, whiten="none")
    assert (found.classes, found.train.labels.tolist()) == (("cat", "dog"), [1, 0] * 6)
    assert "text, numbered 0..1 in sorted order (cat, dog)" in found.summary.read[0]
    far = Listed(lambda row: (IMAGES[row], 20230000 + int(LABELS[row])))
    assert dataset_from_torch(far, far).classes == ("20230000", "20230001")
    assert dataset_from_tensors(IMAGES, LABELS + 20230000, IMAGES, LABELS + 20230000).classes == (
        "20230000",
        "20230001",
    )
    text = ["a", "b"] * 6
    assert dataset_from_tensors(IMAGES, text, IMAGES, np.array(text)).classes == ("a", "b")
    mixed = Listed(lambda row: (IMAGES[row], ("dog", 1)[int(LABELS[row])]))
    with pytest.raises(InputError, match=r"label of image 1 of Listed .* is 1; the labels before it are text"):
        dataset_from_torch(mixed, mixed)


def test_class_names_of_the_parts_are_matched_by_name() -> None:
    def part(names: list[str]) -> Listed:
        return Listed(lambda row: (IMAGES[row], names.index(("ant", "bee")[int(LABELS[row])])), classes=names)

    found = dataset_from_torch(part(["ant", "bee"]), part(["bee", "ant"]), whiten="none")
    assert (found.classes, found.test.labels.tolist()) == (("ant", "bee"), LABELS.tolist())
    found = dataset_from_torch(Subset(part(["ant", "none", "bee"]), range(12)), part(["ant", "bee"]), whiten="none")
    assert (found.classes, found.test.labels.tolist()) == (("ant", "bee"), LABELS.tolist())
    assert found.summary.left_out == ("1 classes that have a name but no images (none)",)
    with pytest.raises(InputError, match="of class 'bee', which the training part does not have"):
        dataset_from_torch(Listed(lambda row: (IMAGES[row], 0), classes=["ant"]), part(["ant", "bee"]))
    joined = ConcatDataset([part(["ant", "bee"]), part(["bee", "ant"])])
    with pytest.raises(InputError, match="joins data sets of different classes"):
        dataset_from_torch(joined, joined)


def test_columns_may_be_named() -> None:
    views = Listed(lambda row: {"left": IMAGES[row], "right": IMAGES[row].flip(2), "kind": int(LABELS[row]), "age": 7})
    with pytest.raises(InputError, match="have the entries left, right, kind, age, of which none is called label"):
        dataset_from_torch(views, views)
    found = dataset_from_torch(views, views, whiten="none", image_column="right", label_column="kind")
    assert torch.equal(found.train.whole(), plain().train.whole().flip(3))
    with pytest.raises(InputError, match=r"no label column 'kin'.*Did you mean 'kind'"):
        dataset_from_torch(views, views, label_column="kin")


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (Listed(lambda row: IMAGES[row]), "Item 0 of .* is a Tensor; give pairs"),
        (TensorDataset(IMAGES), "is a tuple of 1; give pairs"),
        (Listed(lambda row: (IMAGES[row], row, int(LABELS[row]))), "is an index of the images, not a label"),
        (Listed(lambda row: (IMAGES[row], torch.eye(2)[LABELS[row]])), "labels are whole numbers"),
        (Listed(lambda row: (IMAGES[row] / 127.5 - 1, 0)), r"undo their normalisation: \(images \+ 1\) / 2"),
        (Listed(lambda row: (IMAGES[row].float(), 0)), "divide them by 255"),
        (Listed(lambda row: ({"image": IMAGES[row]}, 0)), "give Pillow pictures, arrays or tensors"),
        (Listed(lambda row: dict([("image", IMAGES[row]), ("label", 0)][: 2 - (row > 0)])), "Item 1 of .* has no entry 'label'"),
        (Listed(lambda row: {"jpg": b"no picture", "cls": 0}), "bytes that cannot be read as a picture"),
        (iter(()), "holds no images"),
        (DataLoader(Listed(lambda row: 0, 0)), "holds no images"),
        (7, "is a int, which has no items"),
        ({"train": KINDS["pair"]}, "is a dict of train; give one of these"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_sentence(part: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        dataset_from_torch(part, KINDS["pair"])


def test_a_loader_that_samples_is_read_as_it_gives() -> None:
    weights = WeightedRandomSampler([1.0] * 12, 40, generator=torch.Generator().manual_seed(0))
    found = dataset_from_torch(DataLoader(TensorDataset(IMAGES, LABELS), 8, sampler=weights), KINDS["pair"])
    assert len(found.train) == 40
    assert "the batches of the loader" in found.summary.guessed[0]


class Turned(DataLoader[Any]):
    """A loader that gives something else than its data set does."""

    def __iter__(self) -> Any:
        return ((images, 1 - labels) for images, labels in super().__iter__())


DATA = TensorDataset(IMAGES, LABELS)
LOADERS: dict[str, Callable[[range], DataLoader[Any]]] = {
    "batches of a subset": lambda rows: DataLoader(
        DATA, batch_sampler=BatchSampler(SubsetRandomSampler(rows), 3, False)
    ),
    "batches in order": lambda rows: DataLoader(DATA, batch_sampler=[[row] for row in rows]),
    "batches of the first": lambda rows: DataLoader(
        DATA, batch_sampler=BatchSampler(SequentialSampler(rows), 3, drop_last=False)
    ),
    "the first in order": lambda rows: DataLoader(DATA, 3, sampler=SequentialSampler(rows)),
    "the first at random": lambda rows: DataLoader(DATA, 3, sampler=RandomSampler(rows)),
    "some at random": lambda rows: DataLoader(DATA, 3, sampler=RandomSampler(DATA, num_samples=len(rows))),
    "rows": lambda rows: DataLoader(DATA, 3, sampler=rows),
    "subset": lambda rows: DataLoader(Subset(DATA, rows), 3, shuffle=True),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_of_some_items_gives_no_others(kind: str) -> None:
    found = dataset_from_torch(LOADERS[kind](range(8)), LOADERS[kind](range(4)), whiten="none")
    assert (len(found.train), len(found.test)) == (8, 4)
    if kind != "some at random":
        own = {image.numpy().tobytes() for image in (found.train.whole() * 255).round().to(torch.uint8)}
        assert own == {image.numpy().tobytes() for image in IMAGES[:8]}


def test_a_loader_of_a_class_of_its_own_is_read_as_it_gives() -> None:
    found = dataset_from_torch(Turned(DATA, 5), DataLoader(DATA, 5), whiten="none")
    assert found.train.labels.tolist() == (1 - LABELS).tolist()
    assert found.test.labels.tolist() == LABELS.tolist()
    repeated = dataset_from_torch(
        DataLoader(DATA, 5, sampler=RandomSampler(DATA, replacement=True, num_samples=40)), DATA
    )
    assert len(repeated.train) == 40


def test_items_that_a_loader_drops_at_the_end_are_read_and_said() -> None:
    found = dataset_from_torch(DataLoader(DATA, 5, drop_last=True), DataLoader(DATA, 6, drop_last=True), whiten="none")
    assert found.fingerprint == plain().fingerprint
    assert [line.endswith("own order, with those that drop_last leaves out") for line in found.summary.guessed] == [
        True,
        False,
    ]


WITHOUT: dict[str, tuple[Any, Callable[[int], Any], Any]] = {
    "-1 of named classes": (-1, lambda label: label, ["u", "v"]),
    "-1 in a tensor": (torch.tensor(-1), lambda label: torch.tensor(label), ["u", "v"]),
    "empty text": ("", lambda label: "uv"[label], None),
    "a blank": (" ", lambda label: "uv"[label], None),
    "no text": (None, lambda label: "uv"[label], None),
    "None": (None, lambda label: label, None),
    "no number": (float("nan"), float, None),
    "no number in an array": (np.array(np.nan), lambda label: np.array(float(label)), None),
    "pandas' NA": (pd.NA, lambda label: label, None),
}


@pytest.mark.parametrize("first", [False, True], ids=["in the middle", "first"])
@pytest.mark.parametrize("kind", WITHOUT)
def test_images_without_a_label_are_left_out_and_counted(kind: str, first: bool) -> None:
    missing, label, classes = WITHOUT[kind]
    rows = [row for row in range(12) if row not in ((0, 1, 7) if first else (3, 7, 8))]

    def part(kept: list[int], count: int) -> Listed:
        return Listed(
            lambda row: {"image": IMAGES[row], "label": label(int(LABELS[row])) if row in kept else missing, "id": row},
            count,
            classes,
        )

    found = dataset_from_torch(part(rows, 12), part([0, 1, 2, 5], 6), whiten="none")
    assert torch.equal((found.train.whole() * 255).round().to(torch.uint8), IMAGES[rows])
    assert found.train.labels.tolist() == LABELS[rows].tolist()
    assert found.test.labels.tolist() == [0, 1, 0, 1]
    assert found.summary.left_out == (
        "3 images of the training part, which have no label",
        "2 images of the test part, which have no label",
    )
    with pytest.raises(InputError, match=r"Listed \(test part\) holds no labels, only missing ones"):
        dataset_from_torch(part(rows, 12), part([], 6))


def test_a_test_part_that_numbers_the_names_otherwise_may_miss_labels() -> None:
    train = Listed(lambda row: (IMAGES[row], int(LABELS[row])), classes=["ant", "bee"])
    test = Listed(lambda row: (IMAGES[row], -1 if row == 5 else 1 - int(LABELS[row])), classes=["bee", "ant"])
    found = dataset_from_torch(train, test, whiten="none")
    assert found.test.labels.tolist() == LABELS.tolist()[:5] + LABELS.tolist()[6:]
    assert found.summary.left_out == ("1 images of the test part, which have no label",)


def test_a_stream_of_hugging_face_leaves_out_what_its_table_does() -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["u", "v"])})
    labels = [-1 if row in (2, 11) else int(LABELS[row]) for row in range(12)]
    table = datasets.Dataset.from_dict({"image": [png(row) for row in range(12)], "label": labels}, features=features)
    stream = table.to_iterable_dataset()
    held, streamed = (load_dataset({"train": part, "test": part}, whiten="none") for part in (table, stream))
    assert streamed.fingerprint == held.fingerprint
    assert streamed.class_sizes() == [5, 5]
    assert streamed.summary.left_out[0] == "2 images of the training part, which have no label"


def test_a_label_that_is_none_in_the_first_item_may_be_the_label() -> None:
    """By its name it is; where items have no names, the next entry is taken and the other one said."""

    def label(row: int) -> int | None:
        return None if row == 0 else int(LABELS[row])

    named = Listed(lambda row: {"image": IMAGES[row], "id": 100 + row, "label": label(row)})
    found = dataset_from_torch(named, named, whiten="none")
    assert (found.train.labels.tolist(), found.summary.guessed) == (LABELS[1:].tolist(), ())
    rows = Listed(lambda row: (IMAGES[row], label(row), row % 3))
    assert dataset_from_torch(rows, rows).summary.guessed == (
        "Listed (training part): the label is entry 2, which could also be 1",
        "Listed (test part): the label is entry 2, which could also be 1",
    )


def test_class_names_of_a_data_set_may_be_numbered() -> None:
    for classes in ({"dog": 1, "cat": 0}, {1: "dog", 0: "cat"}):
        part = Listed(lambda row: (IMAGES[row], int(LABELS[row])), classes=classes)
        assert dataset_from_torch(part, part).classes == ("cat", "dog")
        assert dataset_from_torch(KINDS["pair"], KINDS["pair"], classes).classes == ("cat", "dog")
    other = Listed(lambda row: (IMAGES[row], int(LABELS[row])), classes={"dog": "Canis", "cat": "Felis"})
    assert dataset_from_torch(other, other).classes == ("0", "1")
    with pytest.raises(InputError, match="which has no order; give a list"):
        dataset_from_torch(other, other, {"dog", "cat"})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "image",
    [
        lambda row: IMAGES[row] / 255 / 255,
        lambda row: ARRAYS[row] // 16,
        lambda row: Image.fromarray(ARRAYS[row] // 16),
    ],
    ids=["fractions", "bytes", "pictures"],
)
def test_dark_items_are_said(image: Callable[[int], Any]) -> None:
    part = Listed(lambda row: (image(row), int(LABELS[row])))
    (said,) = dataset_from_torch(part, part).summary.guessed
    assert said in (
        f"images: the largest value is {largest}, and 255 is white (otherwise: scale the images before)"
        for largest in (1, 15)
    )
    assert dataset_from_torch(part, KINDS["pair"]).summary.guessed == ()


def test_lists_and_arrays_in_place_of_tensors() -> None:
    for images in (
        list(IMAGES),
        list(IMAGES.numpy()),
        IMAGES.numpy(),
        list(ARRAYS),
        ARRAYS,
        ARRAYS.astype(">f8") / 255,
    ):
        for labels in (LABELS, list(LABELS), LABELS.tolist(), LABELS.numpy().astype(">i8"), torch.eye(2)[LABELS]):
            found = dataset_from_tensors(images, labels, images, labels, whiten="none")
            assert found.fingerprint == plain().fingerprint
    with pytest.raises(
        InputError, match=r"image 0 of own \(training part\) is \(3, 16, 16\) and image 1 is \(3, 8, 16\)"
    ):
        dataset_from_tensors([IMAGES[0], IMAGES[1, :, :8]], [0, 1], IMAGES, LABELS)
    with pytest.raises(InputError, match="holds no images"):
        dataset_from_tensors([], [], IMAGES, LABELS)
    with pytest.raises(InputError, match="The classes are the text 'ab'"):
        plain(classes="ab")
    with pytest.raises(InputError, match="classes is the text '12'"):
        load_dataset("digits", classes="12")
    deep = IMAGES.to(torch.int32) * 16
    found = dataset_from_tensors(deep, LABELS, deep[:4] // 16, LABELS[:4], whiten="none")
    assert float(found.test.whole().max()) < 0.07
    assert "4095 is white" in found.summary.guessed[0]


def test_sets_of_hugging_face_as_parts() -> None:
    features = datasets.Features(
        {"img": datasets.Image(), "id": datasets.Value("int64"), "label": datasets.ClassLabel(names=["u", "v"])}
    )
    held = {"img": [Image.fromarray(array) for array in ARRAYS], "id": list(range(12)), "label": LABELS.tolist()}
    table = datasets.Dataset.from_dict(held, features=features)
    found = dataset_from_torch(table, table, whiten="none")
    assert found.classes == ("u", "v")
    assert torch.equal(found.train.whole(), plain().train.whole())
    stream = table.to_iterable_dataset()
    for splits in ({"train": stream, "test": stream}, {"train": KINDS["pair"], "val": KINDS["loader"]}):
        assert torch.equal(load_dataset(splits, whiten="none").test.whole(), plain().train.whole())
    with pytest.raises(InputError, match="The parts are called train; call dataset_from_torch"):
        load_dataset({"train": stream})


DARK, BRIGHT = 1000, 4000


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("once", [False, True], ids=["by row", "stream"])
def test_deep_pictures_of_all_items_have_one_white(dtype: type, once: bool) -> None:
    """A dark picture stays darker than a bright one, and the test part has the levels of the training part."""

    def item(row: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.full((16, 16), (DARK, BRIGHT)[row % 2], dtype)), row % 2

    def part() -> Any:
        rows = [item(row) for row in range(6)]
        return iter(rows) if once else rows

    dark_test = [(Image.fromarray(np.full((16, 16), DARK, dtype)), 0), item(1)]
    found = dataset_from_torch(part(), dark_test, whiten="none")
    means = [float(image.mean()) for image in found.train.whole()[:2]]
    assert means[1] / means[0] == pytest.approx(BRIGHT / DARK, rel=0.02)
    assert float(found.test.whole()[0].mean()) == means[0]
    assert any("--data.white-level" in line for line in found.summary.guessed)


def test_what_lies_behind_transparent_pixels_of_items_can_be_chosen() -> None:
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    part: Any = [(clear, 0), (clear, 1)]
    for background, level in (("white", 1.0), ("black", 0.0)):
        found = dataset_from_torch(part, part, whiten="none", background=background)
        assert set(found.train.whole().flatten().tolist()) == {level}


def test_a_picture_of_an_item_that_cannot_be_read_is_named() -> None:
    below = Image.fromarray(np.full((16, 16), -1.0, np.float32))
    with pytest.raises(InputError, match=r"Image 1 of .* cannot be read as a picture \(its values go down to -1"):
        dataset_from_torch([(Image.new("L", (16, 16)), 0), (below, 1)], [(below, 0)])
