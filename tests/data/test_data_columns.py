from __future__ import annotations

from typing import Any

import datasets
import pytest

from astdistill.data.hub import find_columns
from astdistill.runtime.errors import InputError

IMAGE, CLASSES, WHOLE, TEXT = (
    datasets.Image(),
    datasets.ClassLabel(names=["apple", "bear", "cup"]),
    datasets.Value("int64"),
    datasets.Value("string"),
)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"img": IMAGE, "fine_label": CLASSES, "coarse_label": CLASSES}, ("img", "fine_label")),
        ({"id": WHOLE, "image": IMAGE, "kind": CLASSES}, ("image", "kind")),
        ({"id": WHOLE, "image": IMAGE, "label": WHOLE}, ("image", "label")),
        ({"image": IMAGE, "number": WHOLE, "text": TEXT}, ("image", "number")),
    ],
)
def test_columns_are_found_by_type(features: dict[str, Any], expected: tuple[str, str]) -> None:
    found = find_columns(features, None, None, "a set")
    assert (found.image, found.label) == expected


def test_named_columns_win() -> None:
    features = {"a": IMAGE, "b": IMAGE, "x": CLASSES, "y": CLASSES}
    found = find_columns(features, "b", "y", "a set")
    assert (found.image, found.label) == ("b", "y")


@pytest.mark.parametrize(
    ("features", "image", "label", "sentence"),
    [
        ({"text": TEXT, "label": CLASSES}, None, None, r"no image column; it has text, label\..*--data\.image-column"),
        ({"img": IMAGE, "text": TEXT}, None, None, r"no label column; it has img, text\..*--data\.label-column"),
        ({"img": IMAGE, "x": CLASSES, "y": CLASSES}, None, None, r"label: x, y; name one with --data\.label-column"),
        ({"a": IMAGE, "b": IMAGE, "x": CLASSES}, None, None, r"image: a, b; name one with --data\.image-column"),
        ({"img": IMAGE, "label": CLASSES}, "image", None, "Known: img, label"),
        ({"img": IMAGE, "label": CLASSES}, None, "labels", "Did you mean 'label'"),
    ],
)
def test_column_errors(features: dict[str, Any], image: str | None, label: str | None, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        find_columns(features, image, label, "a set")
