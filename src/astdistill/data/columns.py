"""Selection of the image and label columns of a table, by types and names; a column of numbers is never guessed to be
the label."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from PIL import Image

from ..runtime.errors import InputError, unknown
from .decoding import opened_picture
from .splits import split_of

LABEL_WORDS = (
    *("label", "labels", "class", "classes", "klass", "cls", "target", "targets", "category", "categories"),
    *("klasse", "classe", "clase", "etiqueta", "etiquette"),
)
LABEL_NAMES = ("y", "gt", "ground_truth", "truth", "dx")
KIND_WORDS = (
    *("species", "diagnosis", "breed", "digit", "letter", "character", "disease", "emotion", "expression", "variety"),
    *("cultivar", "genus", "family", "kind", "type", "grade", "concept", "finding"),
)
"""Words that often name classes; used if no column is named like a label."""
NOT_LABEL_PREFIXES = ("num", "n", "number", "count", "is", "has", "no")
"""First words that rule out a label: 'num_classes' and 'is_target' are no labels, 'image_label' is one."""
FILE_PREFIXES = ("file", "content", "mime", "image", "data", "media")
"""First words that rule out a word of KIND_WORDS: 'file_type' is no label."""
ENDINGS = (
    "id",
    "idx",
    "index",
    "name",
    "names",
    "num",
    "number",
    "no",
    "int",
    "str",
    "string",
    "text",
    "code",
    "encoded",
)
USUAL_LABELS = ("label", "labels", "fine_label")
"""Preferred among several columns of class labels: CIFAR-100 has 'fine_label' and 'coarse_label'."""
PART_NAMES = ("split", "fold", "part", "subset", "partition")
"""Names of columns of class labels that give the part, not the class."""
PICTURE_NAMES = ("image", "img", "picture", "photo", "pixels", "pixel_values", "pixel", "images", "data", "x", "values")
"""Names of columns of flat lists that are images."""
SURE = 2
"""Rank of a column that is named like a label."""
STRONG_NAMES = 4
"""Number of leading PICTURE_NAMES that identify an image column even if its content is rejected later."""
LISTED_COLUMNS = 8
"""Most columns that an error message lists."""
FLAGS, ONES = (0, 1, "0", "1", "0.0", "1.0"), (1, "1", "1.0")
"""Values of one-hot columns, as numbers, flags or text, and those of them that mark the class."""
NAMED = 3
"""Most one-hot columns that an error message names."""
Values = Callable[[str], Iterable[Any]]
"""Function that returns the values of a column as Python objects, read lazily."""


@dataclass(frozen=True)
class Columns:
    """The image column and the label column. `names` is a text column that names the classes of numeric labels, and
    `rivals` could also be the label. `certain` is False if the label was found only by a word for a kind, such as
    'species'."""

    image: str
    label: str
    names: str | None = None
    rivals: tuple[str, ...] = ()
    certain: bool = True


def find_columns(
    features: Mapping[str, Any], image: str | None, label: str | None, source: str, values: Values | None = None
) -> Columns:
    """Return the columns named or, by default, those that fit: an image by its type; a label by its type or its name.

    `features` are those of a Hugging Face data set, `values` reads its columns. A column of whole numbers, text, flags
    or categories is a label if it is named like one; no other column is ever chosen. If two columns give the same
    classes, the numeric one is chosen and named by the text. Raises InputError listing the columns if none or several
    fit.
    """
    for kind, name in (("image column", image), ("label column", label)):
        if name is not None and name not in features:
            raise unknown(kind, name, features, context=f"in {source}")
    table = _Table(features, source, values or (lambda _: ()))
    chosen = image or table.image(label)
    if label is not None:
        return Columns(chosen, label, table.namer(label, table.labels(chosen)))
    return table.label(chosen)


def image_columns(features: Mapping[str, Any], label: str | None, values: Values) -> list[str]:
    """Columns that could hold the images, by the rules of `find_columns`."""
    return _Table(features, "", values).images(label)


def label_columns(features: Mapping[str, Any], image: str) -> list[str]:
    """Columns that could hold the labels of the images in column `image`."""
    return list(_Table(features, "", lambda _: ()).labels(image))


def one_hot(names: Iterable[str], values: Values) -> list[str]:
    """The columns of zeros and ones, if exactly one of them marks each row; else none."""
    flags = [name for name in names if not split_of(name) and all(value in FLAGS for value in values(name))]
    marks = [sum(value in ONES for value in row) for row in zip(*map(values, flags), strict=True)]
    return flags if marks and {*marks} == {1} else []


def check_one_hot(labels: Sequence[str], names: Iterable[str], values: Values, source: str) -> None:
    """Raise InputError if the columns called like labels are among three or more one-hot columns of `names`, so that
    the classes of the others would be merged."""
    if not labels or not all(value in FLAGS for name in labels for value in values(name)):
        return
    flags = one_hot(names, values)
    if len(flags) > 2 and {*labels} <= {*flags}:
        raise InputError(
            f"{source} tells the class by zeros and ones in the columns {', '.join(flags[:NAMED])}"
            f"{', …' * (len(flags) > NAMED)}, of which {labels[0]} is called like a label; write one column of labels, "
            f"or take that one for the label with --data.label-column {labels[0]}."
        )


def kind_of(feature: Any) -> str:
    """What a column holds: 'class', 'image', 'int', 'flag', 'float', 'text', 'bytes', 'list', or 'other'."""
    name = type(feature).__name__
    if name == "ClassLabel":
        return "class"
    if name == "Image" or (isinstance(feature, Mapping) and {"bytes", "path"} & set(feature)):
        return "image"
    if name in ("List", "LargeList", "Sequence", "Array2D", "Array3D") or isinstance(feature, list):
        return "list"
    return _value_kind(str(getattr(feature, "dtype", "")) if name == "Value" else "")


def _value_kind(dtype: str) -> str:
    kinds = {"int": "int", "uint": "int", "bool": "flag", "float": "float", "halffloat": "float", "string": "text"}
    kinds |= {"large_string": "text", "string_view": "text", "binary": "bytes", "large_binary": "bytes"}
    return kinds.get(re.sub(r"\d+$", "", dtype), "other")


def _depth(feature: Any) -> int:
    """Nesting depth of a list column."""
    if type(feature).__name__ in ("Array2D", "Array3D"):
        return len(feature.shape)
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return 1 + _depth(inner) if inner is not None and kind_of(feature) == "list" else 0


def rank_of(name: str) -> int:
    """Rank of a column name as a label: 2 if it is named like a label, 1 if it contains a word that often names
    classes, 0 otherwise."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+", name)]
    if "_".join(words) in LABEL_NAMES:
        return 2
    if _is_about(words, LABEL_WORDS, NOT_LABEL_PREFIXES):
        return 2
    return int(_is_about(words, KIND_WORDS, (*NOT_LABEL_PREFIXES, *FILE_PREFIXES)))


def _is_about(words: Sequence[str], vocabulary: Sequence[str], excluded: Sequence[str]) -> bool:
    """Whether a name, split into words, is like 'label', 'fine_label' or 'label_id', and about nothing else."""
    if not words:
        return False
    if words[0] in vocabulary and all(word in (*ENDINGS, *vocabulary) or word.isdecimal() for word in words[1:]):
        return True
    return words[-1] in vocabulary and words[0] not in excluded


@dataclass(frozen=True)
class _Table:
    features: Mapping[str, Any]
    source: str
    values: Values

    def image(self, label: str | None) -> str:
        """The image column. Raises InputError unless exactly one fits."""
        candidates = self.images(label)
        if len(candidates) == 1:
            return candidates[0]
        raise self._selection_error(candidates, "image")

    def images(self, label: str | None) -> list[str]:
        """Columns that could hold the images: those of the most certain kind of which there is any."""
        others = [name for name in self.features if name != label]
        kinds = {name: kind_of(self.features[name]) for name in others}
        by_certainty = [
            [name for name in others if kinds[name] == "image"],
            [name for name in others if kinds[name] == "bytes" and _is_encoded(self._first(name))],
            [name for name in others if _depth(self.features[name]) > 1 and not rank_of(name)],
            [name for name in others if kinds[name] == "text" and _is_picture_name(self._first(name))],
            [name for name in others if kinds[name] == "list" and name.lower() in PICTURE_NAMES],
            [
                name
                for name in others
                if kinds[name] in ("text", "bytes") and name.lower() in PICTURE_NAMES[:STRONG_NAMES]
            ],
        ]
        return next((names for names in by_certainty if names), [])

    def labels(self, image: str) -> dict[str, int]:
        """Columns that could hold the label, with their ranks."""
        ranks = {name: rank_of(name) for name in self.features if name != image and not self._is_coordinate(name)}
        typed = {name: 2 for name in ranks if self._is_class(name) and name.lower() not in PART_NAMES}
        return {name: rank for name, rank in (ranks | typed).items() if rank}

    def _is_coordinate(self, name: str) -> bool:
        """Whether a column named y holds coordinates: the table also has a numeric column named x."""
        if name.lower() != "y":
            return False
        return any(
            other.lower() == "x" and kind_of(self.features[other]) in ("int", "float") for other in self.features
        )

    def label(self, image: str) -> Columns:
        """The image column `image` and the label column that fits it."""
        ranks = self.labels(image)
        certain = [name for name, rank in ranks.items() if rank == 2]
        candidates = certain or list(ranks)
        numeric = [name for name in self.features if kind_of(self.features[name]) in ("int", "flag", "float")]
        if {*candidates} <= {*numeric}:
            check_one_hot(candidates, numeric, self.values, self.source)
        chosen = self._choose_label(candidates)
        names = self.namer(chosen, ranks)
        rivals = tuple(name for name in ranks if name != chosen and not self._same_classes(chosen, name))
        return Columns(image, chosen, names, rivals, bool(certain))

    def namer(self, label: str, ranks: Mapping[str, int]) -> str | None:
        """The text column that names the classes of a numeric label column, one to one; None if there is none."""
        if kind_of(self.features[label]) not in ("int", "float"):
            return None
        texts = [name for name in ranks if name != label and kind_of(self.features[name]) == "text"]
        return next((name for name in texts if self._same_classes(label, name)), None)

    def _choose_label(self, candidates: list[str]) -> str:
        if len(candidates) == 1:
            return candidates[0]
        typed = [name for name in candidates if self._is_class(name)]
        if len(typed) == 1:
            return typed[0]
        usual = [name for name in USUAL_LABELS if name in typed]
        if usual:
            return usual[0]
        fine = [name for name in candidates if "coarse" not in name.lower()]
        if "fine_label" in candidates and fine == ["fine_label"]:
            return "fine_label"
        if candidates and not typed and all(self._same_classes(candidates[0], name) for name in candidates[1:]):
            return next(
                (name for name in candidates if kind_of(self.features[name]) in ("int", "float")), candidates[0]
            )
        raise self._selection_error(candidates, "label")

    def _same_classes(self, one: str, other: str) -> bool:
        """Whether the values of two columns correspond one to one."""
        if "list" in (kind_of(self.features[one]), kind_of(self.features[other])):
            return False
        pairs = set(zip(self.values(one), self.values(other), strict=True))
        return bool(pairs) and len({first for first, _ in pairs}) == len({last for _, last in pairs}) == len(pairs)

    def _is_class(self, name: str) -> bool:
        return kind_of(self.features[name]) == "class"

    def _first(self, name: str) -> Any:
        return next((value for value in self.values(name) if value is not None), None)

    def _selection_error(self, candidates: list[str], kind: str) -> InputError:
        if candidates:
            return InputError(
                f"{self.source} has several columns that could be the {kind}: {', '.join(candidates)}; name one with "
                f"--data.{kind}-column."
            )
        columns = [f"{name} ({_describe_kind(feature)})" for name, feature in self.features.items()]
        listed = ", ".join(columns[:LISTED_COLUMNS]) + f" and {len(columns) - LISTED_COLUMNS} more" * (
            len(columns) > LISTED_COLUMNS
        )
        hint = {"label": " called like one (label, class, target, category, …)"}.get(kind, "")
        return InputError(
            f"{self.source} has no {kind} column{hint}; it has {listed}. Name the {kind} column with "
            f"--data.{kind}-column."
        )


def _describe_kind(feature: Any) -> str:
    descriptions = {"class": "classes", "image": "pictures", "int": "whole numbers", "flag": "flags", "list": "lists"}
    descriptions |= {"float": "fractions"}
    return descriptions.get(kind_of(feature), kind_of(feature))


def _is_encoded(value: Any) -> bool:
    """Whether the value is bytes that start like an image file."""
    if not isinstance(value, bytes):
        return False
    try:
        with opened_picture(io.BytesIO(value)):
            return True
    except Exception:  # what Pillow and its libraries raise depends on the format
        return False


def _is_picture_name(value: Any) -> bool:
    """Whether the value is text with the extension of an image file."""
    return isinstance(value, str) and PurePath(value.lower()).suffix in Image.registered_extensions()
