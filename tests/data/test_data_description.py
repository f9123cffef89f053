"""What was read of a source, in words and as JSON: counts, where the test part is from, and what is odd."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from astdistill import dataset_from_tensors, load_dataset
from astdistill.data.dataset import Dataset, Summary
from astdistill.data.description import COLUMNS, Description, printable


def made(
    counts: dict[str, int],
    tested: dict[str, int] | None = None,
    same: int = 0,
    plain: int = 0,
    whiten: str = "standard",
) -> Dataset:
    """Random 8×8 pictures of these classes; `same` test images are training images too, `plain` training images are of
    one colour."""
    draw = torch.Generator().manual_seed(0)
    tested = tested or dict.fromkeys(counts, 10)

    def part(sizes: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(list(sizes.values())))
        return torch.randint(256, (len(labels), 3, 8, 8), dtype=torch.uint8, generator=draw), labels

    (images, labels), (test, test_labels) = part(counts), part(tested)
    test[:same] = images[:same]
    images[len(images) - plain :] = images[len(images) - plain :, :, :1, :1]
    return dataset_from_tensors(images, labels, test, test_labels, classes=list(counts), whiten=whiten)


def warnings(dataset: Dataset, ipc: int = 1) -> tuple[str, ...]:
    return Description.of(dataset, ipc).warnings


def test_text_has_counts_by_class_within_eighty_columns_and_json_the_same() -> None:
    dataset = replace(
        made({"cat": 30, "dog": 31, "a horse": 40}),
        summary=Summary(("training part: folder a", "test part: folder b", "size " * 40), ("3 files",), ("a guess",)),
    )
    found = Description.of(dataset)
    text = found.text()
    assert all(len(line) <= COLUMNS for line in text.splitlines())
    assert "101 training, 30 test; 8×8 pixels, colour (3 channels)" in text
    rows = [line.split() for line in text.splitlines()]
    assert {("cat", "30", "10"), ("dog", "31", "10")} <= set(map(tuple, rows))
    assert ["test", "part", "folder", "b"] in rows
    for words in ("left out   3 files", "guessed    a guess", "read       training part: folder a"):
        assert words in text
    assert found.warnings == ()
    assert Description.model_validate(json.loads(json.dumps(found.to_json()))) == found
    assert found.to_json()["classes"][2] == {"name": "a horse", "train": 40, "validation": 0, "test": 10}


def test_many_classes_are_abbreviated_with_the_smallest_and_the_largest_named() -> None:
    counts = {f"class {number:03d}": 5 + (number == 77) - (number == 3) for number in range(120)}
    text = Description.of(made(counts, dict.fromkeys(counts, 2))).text()
    assert len(text.splitlines()) < 25
    assert "… 110 more" in text
    assert "120, with 4 (class 003) to 6 (class 077) training images" in " ".join(text.split())


def test_validation_has_a_column_and_test_part_says_where_it_is_from(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(draw.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(tmp_path / f"in/{name}/{number}.png")
    found = Description.of(load_dataset(str(tmp_path / "in"), validation=0.25))
    assert found.parts == {"training": 24, "validation": 8, "test": 8}
    assert found.test_part.startswith("20% of the training images of every class")
    assert "validation" in found.text()
    assert Description.of(made({"a": 30, "b": 30})).test_part == "the source's own"


def test_unprintable_names_are_written_as_escapes() -> None:
    assert printable("a\udcffb\n") == "a\\udcffb\\n"
    text = Description.of(made({"a\udcff\x1b[31m": 30, "猫": 30, "x" * 200: 30})).text()
    assert text.encode("utf-8")
    assert "\x1b" not in text
    assert "猫" in text
    assert all(len(line) <= COLUMNS for line in text.splitlines())


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (made({"a": 60, "b": 30, "c": 30}), "class a has 50% of the training images"),
        (made({"a": 30, "b": 30}, {"a": 9, "b": 10}), "only 19 test images"),
        (made({"a": 30, "b": 30, "c": 30}, {"a": 20, "b": 20, "c": 0}), "no test image of 1 of 3 classes (c)"),
        (made({"Testing": 30, "Training": 30}), "named like parts of a data set (Testing, Training)"),
        (made({"seg_test": 30, "seg_train": 30}), "named like parts of a data set"),
        (made({"cat": 30, "dog": 30, "val": 30}), "named like parts of a data set (val)"),
        (made({"fold1": 30, "fold_2": 30}), "named like folds"),
        (made({"a": 30, "b": 4}), "fewer than 5 training images in 1 of 2 classes (b 4)"),
        (made({"a": 30, "b": 30}, same=3), "3 of 20 test images are identical to training images"),
        (made({"a": 30, "b": 30}, plain=60), "all training images are of one colour"),
        (made({"a": 30, "b": 30}, plain=45, whiten="zca"), "75% of training images are of one colour"),
    ],
)
def test_what_is_odd_is_one_warning(dataset: Dataset, words: str) -> None:
    (warning,) = [each for each in warnings(dataset) if words in each]
    assert "\n" not in warning
    assert len(warnings(dataset)) == 1


@pytest.mark.parametrize(
    "dataset",
    [
        made({"a": 60, "b": 20}),
        made({"airplane": 30, "car": 30, "train": 30}),
        made({"eval board": 30, "keyboard": 30}),
        made({"a": 40, "b": 30, "c": 20}),
        made({"fold": 30, "crease": 30}),
    ],
)
def test_what_is_ordinary_is_no_warning(dataset: Dataset) -> None:
    assert warnings(dataset) == ()


def test_fewer_images_than_are_asked_for_is_a_warning() -> None:
    assert "fewer than 31 training images in 1 of 2 classes (b 30)" in warnings(made({"a": 40, "b": 30}), 31)


def test_pictures_and_their_masks_as_classes_are_odd() -> None:
    assert any("masks of them (images, masks)" in each for each in warnings(made({"images": 30, "masks": 30})))
    assert any("copies of them in another size" in each for each in warnings(made({"images": 30, "resized": 30})))
    assert not warnings(made({"mask": 30, "hat": 30}))
