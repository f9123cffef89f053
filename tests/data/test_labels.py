"""Labels of any kind become class numbers 0..K−1."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from astdistill.data.labels import numbered
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
    assert (found.words == ()) == (classes == tuple(map(str, range(len(classes)))))


def test_what_was_made_of_the_labels_is_said() -> None:
    assert numbered(["d", "c", "b", "a"]).words == ("labels: text, numbered 0..3 in sorted order (a, b, c, … d)",)
    assert numbered([1, 2]).words == ("labels: numbers other than 0..K-1, numbered 0..1 in sorted order (1, 2)",)
    assert numbered([True, False]).words == ("labels: flags, numbered 0..1 in sorted order (False, True)",)


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
        (np.eye(3), None, r"shape \(3, 3\), several to an image"),
        ([["a", "b"], ["a"]], None, "several values to an image"),
        ([1, "a"], None, "a mixture of int and str"),
        ([{"a": 1}], None, "several values to an image"),
        (np.array([1j, 2]), None, "of type complex128"),
        ([-1, 0, 1], None, "Label -1 of the data stands beside 0..1"),
        ([0, 2], ("a", "b"), r"Label 2 of the data \(image 1\) is not one of 0..1"),
        ([0, None, -2], ("a", "b"), r"Label -2 of the data \(image 2\)"),
        (["c"], ("a", "b"), "The label 'c' of the data is none of the classes a, b"),
        ([0], ("a", "a"), "'a' is given twice"),
    ],
)
def test_labels_that_are_refused(labels: Any, names: tuple[str, ...] | None, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        numbered(labels, names)
