from __future__ import annotations

from typing import Any

import datasets
import pytest

from astdistill.data.columns import find_columns, rank_of
from astdistill.runtime.errors import InputError

IMAGE, CLASSES, WHOLE, TEXT, FLAG, ROWS, NESTED = (
    datasets.Image(),
    datasets.ClassLabel(names=["apple", "bear", "cup"]),
    datasets.Value("int64"),
    datasets.Value("string"),
    datasets.Value("bool"),
    datasets.List(datasets.Value("int64")),
    datasets.Array2D((8, 8), "uint8"),
)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"img": IMAGE, "fine_label": CLASSES, "coarse_label": CLASSES}, ("img", "fine_label")),
        ({"id": WHOLE, "image": IMAGE, "kind": CLASSES}, ("image", "kind")),
        ({"id": WHOLE, "image": IMAGE, "label": WHOLE}, ("image", "label")),
        ({"fold": WHOLE, "image": IMAGE, "label": TEXT, "__index_level_0__": WHOLE}, ("image", "label")),
        ({"flag": WHOLE, "image": IMAGE, "category": FLAG}, ("image", "category")),
        ({"id": WHOLE, "image": IMAGE, "species": TEXT}, ("image", "species")),
        ({"image": IMAGE, "num_classes": WHOLE, "class": WHOLE, "label_source": TEXT}, ("image", "class")),
        ({"image": IMAGE, "label": TEXT, "target": CLASSES}, ("image", "target")),
        ({"image": IMAGE, "split": CLASSES, "y": WHOLE}, ("image", "y")),
        ({"image": IMAGE, "fine_label": WHOLE, "coarse_label": WHOLE}, ("image", "fine_label")),
        ({"pixels": ROWS, "target": WHOLE}, ("pixels", "target")),
        ({"picture": NESTED, "Finding Label": TEXT}, ("picture", "Finding Label")),
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
        (
            {"text": TEXT, "label": CLASSES},
            None,
            None,
            r"no image column; it has text \(text\), label \(classes\)\. .*--data\.image-column",
        ),
        (
            {"img": IMAGE, "text": TEXT, "number": WHOLE},
            None,
            None,
            r"no label column called like one .*it has img \(pictures\), text \(text\), number \(whole numbers\)\. .*"
            r"--data\.label-column",
        ),
        ({"img": IMAGE, "label": WHOLE, "class": TEXT}, None, None, r"label: label, class; name one with"),
        ({"img": IMAGE, "fold": WHOLE}, None, None, r"no label column called like one"),
        ({"img": IMAGE, "x": CLASSES, "y": CLASSES}, None, None, r"label: x, y; name one with --data\.label-column"),
        ({"a": IMAGE, "b": IMAGE, "x": CLASSES}, None, None, r"image: a, b; name one with --data\.image-column"),
        ({"img": IMAGE, "label": CLASSES}, "image", None, "Known: img, label"),
        ({"img": IMAGE, "label": CLASSES}, None, "labels", "Did you mean 'label'"),
    ],
)
def test_column_errors(features: dict[str, Any], image: str | None, label: str | None, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        find_columns(features, image, label, "a set")


@pytest.mark.parametrize(
    ("rank", "names"),
    [
        (2, ["label", "Labels", "y", "class_name", "ClassName", "fine_label", "image_label", "target", "category_id"]),
        (2, ["labelId", "label_idx", "ground_truth", "CLASS", "cls", "dx", "Finding Labels"]),
        (1, ["species", "Diagnosis", "digit", "breed_name", "leaf_disease", "letter"]),
        (0, ["num_classes", "label_source", "is_target", "index", "__index_level_0__", "fold", "flag", "id", "x", ""]),
        (0, ["supercategory", "target_size", "file_type", "classifier", "year", "name", "text"]),
    ],
)
def test_names_of_labels(rank: int, names: list[str]) -> None:
    assert {name: rank_of(name) for name in names} == dict.fromkeys(names, rank)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": [1, 0, 1], "label_name": ["a", "b", "a"]}, ("label", "label_name")),
        ({"class_name": ["a", "b", "a"], "class_id": [1, 0, 1]}, ("class_id", "class_name")),
        ({"label": [1, 0, 1], "species": ["a", "b", "a"]}, ("label", "species")),
        ({"label": ["a", "b", "a"], "target": [1, 0, 1]}, ("target", "label")),
        ({"label": ["a", "b", "a"], "class": ["x", "y", "x"]}, ("label", None)),
        ({"label": [1, 0, 2], "species": ["a", "b", "a"]}, ("label", None)),
    ],
)
def test_text_names_the_numbers_where_both_tell_the_same_classes(
    columns: dict[str, list[Any]], expected: tuple[str, str | None]
) -> None:
    kinds = {str: TEXT, int: WHOLE}
    features = {"image": IMAGE, **{name: kinds[type(values[0])] for name, values in columns.items()}}
    found = find_columns(features, None, None, "a set", columns.__getitem__)
    assert (found.label, found.names) == expected
