"""Labels of any kind become class numbers 0..K−1."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from astdistill.data.labels import class_names, numbered
from astdistill.data.loading import load_dataset
from astdistill.data.tensors import dataset_from_tensors, dataset_from_torch
from astdistill.runtime.errors import InputError


@pytest.mark.parametrize(
    ("labels", "codes", "classes"),
    [
        ([2, 0, 1, 1], [2, 0, 1, 1], ("0", "1", "2")),
        ([[1], [0]], [1, 0], ("0", "1")),
        (np.array([[1], [0]], dtype=">i4"), [1, 0], ("0", "1")),
        (np.array([1, 3, 2], dtype=np.uint64), [0, 2, 1], ("1", "2", "3")),
        (np.array([2**64 - 1, 5], dtype=np.uint64), [1, 0], ("5", "18446744073709551615")),
        ([20230002, 20230001, 20230002], [1, 0, 1], ("20230001", "20230002")),
        ([-1, 1, -1], [0, 1, 0], ("-1", "1")),
        ([0.0, 1.0], [0, 1], ("0", "1")),
        ([1.0, None, 2.0, float("nan")], [0, -1, 1, -1], ("1", "2")),
        (np.array([3, 4], dtype=np.longdouble), [0, 1], ("3", "4")),
        ([1, None, 2], [0, -1, 1], ("1", "2")),
        ([2**53 + 1, None, 2**53], [1, -1, 0], (str(2**53), str(2**53 + 1))),
        (["dog", pd.NA, "cat"], [1, -1, 0], ("cat", "dog")),
        (np.asarray(pd.Series(["dog", None, "cat"], dtype="string")), [1, -1, 0], ("cat", "dog")),
        (np.asarray(pd.Series([True, None, False], dtype="boolean")), [1, -1, 0], ("False", "True")),
        (np.asarray(pd.Series([4, None, 2], dtype="Int64")), [1, -1, 0], ("2", "4")),
        ([True, False], [1, 0], ("False", "True")),
        ([True, None, False], [1, -1, 0], ("False", "True")),
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        (["dog", None, "", "cat", " "], [1, -1, -1, 0, -1], ("cat", "dog")),
        (["10", "9", "0"], [2, 1, 0], ("0", "9", "10")),
        (["01", "9", "10"], [0, 2, 1], ("01", "10", "9")),
        ([b"dog", b"cat"], [1, 0], ("cat", "dog")),
        (np.array([b"b", b"a"]), [1, 0], ("a", "b")),
        ([b"\xff", b"a"], [0, 1], ("\\xff", "a")),
        (torch.tensor([[4], [2]]), [1, 0], ("2", "4")),
        (torch.tensor([1.0, 0.0], dtype=torch.bfloat16), [1, 0], ("0", "1")),
        ([torch.tensor(1), torch.tensor(0)], [1, 0], ("0", "1")),
        ([np.int8(1), np.int8(0)], [1, 0], ("0", "1")),
        ([Decimal(3), Decimal("2.0")], [1, 0], ("2", "3")),
    ],
)
def test_any_labels_are_numbered_in_sorted_order(labels: Any, codes: list[int], classes: tuple[str, ...]) -> None:
    found = numbered(labels)
    assert (found.labels.tolist(), found.classes) == (codes, classes)
    assert found.labels.dtype == torch.int64
    assert (found.notes == ()) == (classes == tuple(map(str, range(len(classes)))))


def test_what_was_made_of_the_labels_is_said() -> None:
    assert numbered(["d", "c", "b", "a"]).notes == ("labels: text, numbered 0..3 in sorted order (a, b, c, … d)",)
    assert numbered([1, 2]).notes == ("labels: numbers other than 0..K-1, numbered 0..1 in sorted order (1, 2)",)
    assert numbered([True, False]).notes == ("labels: flags, numbered 0..1 in sorted order (False, True)",)
    assert numbered([True, None, False]).notes == numbered([True, False]).notes


@pytest.mark.parametrize(
    "pair", [("Cat", "cat"), ("cat", "cat "), ("K\u00e4se", "Ka\u0308se"), ("stra\u00dfe", "STRASSE")]
)
def test_text_labels_of_which_only_the_spelling_differs_are_said(pair: tuple[str, str]) -> None:
    found = numbered([*pair, "dog"])
    assert len(found.classes) == 3
    first, second = sorted(pair)
    assert found.notes[1:] == (f"'{first}' and '{second}' as different classes, though only their spelling differs",)
    assert len(numbered(["cat", "dog", "cats"]).notes) == 1
    many = numbered([word + end for word in "abcde" for end in ("", " ")]).notes
    assert (len(many), many[-1]) == (5, "2 further groups of classes of which only the spelling differs")


@pytest.mark.parametrize(
    "given",
    [["cat", "dog"], ("cat", "dog"), np.array(["cat", "dog"]), iter(["cat", "dog"]), [b"cat", b"dog"],
     {0: "cat", 1: "dog"}, {1: "dog", 0: "cat"}, {np.int64(1): "dog", np.int64(0): "cat"}, {"dog": 1, "cat": 0},
     {"cat": 0, "dog": 1}.keys()],
)  # fmt: skip
def test_names_of_classes_in_any_order_that_numbers_them(given: Any) -> None:
    assert class_names(given) == ("cat", "dog")


def test_names_of_classes_that_tell_no_numbers() -> None:
    assert class_names(None) is class_names([]) is class_names({}) is None
    assert class_names({0: 10, 1: 20}) == ("10", "20")
    for given in ({1: "cat", 2: "dog"}, {"cat": 0, "dog": 2}, {"cat": 0, "dog": 0}, {"cat": "dog"}, {0: "cat", "dog": 1},
                  {False: "cat", True: "dog"}, {"cat": [0]}):  # fmt: skip
        with pytest.raises(
            InputError, match=r"The classes are the dictionary .*, which does not number them 0\.\.[01]; give"
        ):
            class_names(given)
    for given in ({"cat", "dog"}, frozenset(("cat", "dog")), 7):
        with pytest.raises(InputError, match=r"The classes are .*, which has no order; give a list"):
            class_names(given)
    for given in ("ab", b"ab"):
        with pytest.raises(InputError, match="The classes are the text 'ab'"):
            class_names(given)


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (
            torch.tensor([0, 1, 0]).to_sparse(),
            r"The labels of the data are a tensor of layout sparse_coo; give .*to_dense\(\)",
        ),
        (torch.tensor([0.0, 1.0]).to(torch.float8_e4m3fn), "The labels of the data are of type float8_e4m3fn"),
    ],
)
def test_label_tensors_that_are_no_plain_numbers(tensor: torch.Tensor, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        numbered(tensor)


def test_names_are_those_of_the_numbers() -> None:
    assert numbered([1, 0, -1], ("cat", "dog")).labels.tolist() == [1, 0, -1]
    assert numbered(["dog", "cat", None], ("dog", "cat", "cup")).labels.tolist() == [0, 1, -1]
    assert numbered([1, 0], ("cat", "dog", "cup")).classes == ("cat", "dog", "cup")


@pytest.mark.parametrize(
    ("labels", "names", "sentence"),
    [
        ([0.5, 1.0], None, "hold 0.5, which is no whole number"),
        ([float("inf")], None, "no whole number"),
        ([[0, 1], [1]], None, "several values to an image"),
        (np.eye(3), None, r"shape \(3, 3\), several per image"),
        ([["a", "b"], ["a"]], None, "several values to an image"),
        ([1, "a"], None, "a mixture of int and str"),
        ([{"a": 1}], None, "several values to an image"),
        (np.array([1j, 2]), None, "of type complex128"),
        ([-1, 0, 1], None, "Label -1 of the data occurs with 0..1"),
        ([0, 2], ("a", "b"), r"Label 2 of the data \(image 1\) is not one of 0..1"),
        ([0, None, -2], ("a", "b"), r"Label -2 of the data \(image 2\)"),
        (["c"], ("a", "b"), "The label 'c' of the data is none of the classes a, b"),
        ([0], ("a", "a"), "'a' is given twice"),
    ],
)
def test_labels_that_are_refused(labels: Any, names: tuple[str, ...] | None, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        numbered(labels, names)


def test_every_source_of_text_labels_says_which_differ_in_spelling_alone(tmp_path: Path) -> None:
    images, labels = np.arange(20 * 64, dtype=np.int64).reshape(20, 8, 8).astype(np.uint8), ["Cat", "cat"] * 10
    np.savez(tmp_path / "own.npz", images=images, labels=np.array(labels))
    datasets.Dataset.from_dict({"image": images.tolist(), "label": labels}).to_parquet(tmp_path / "own.parquet")
    pairs = list(zip(images, labels, strict=True))
    for found in (
        load_dataset(tmp_path / "own.npz"),
        load_dataset(tmp_path / "own.parquet"),
        dataset_from_tensors(images, labels, images, labels),
        dataset_from_torch(pairs, pairs),
    ):
        assert "'Cat' and 'cat' as different classes, though only their spelling differs" in found.summary.read
