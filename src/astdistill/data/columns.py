"""Which columns of a table hold the pictures and the labels: by types and names, never by a guess among numbers."""

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

LABEL_WORDS = (
    *("label", "labels", "class", "classes", "klass", "cls", "target", "targets", "category", "categories"),
    *("klasse", "classe", "clase", "etiqueta", "etiquette"),
)
LABEL_NAMES = ("y", "gt", "ground_truth", "truth", "dx")
KIND_WORDS = (
    *("species", "diagnosis", "breed", "digit", "letter", "character", "disease", "emotion", "expression", "variety"),
    *("cultivar", "genus", "family", "kind", "type", "grade", "concept", "finding"),
)
"""What classes are often called; taken where no column is called a label."""
COUNTED = ("num", "n", "number", "count", "is", "has", "no")
"""'num_classes' and 'is_target' are no labels; 'image_label' is one."""
FILED = ("file", "content", "mime", "image", "data", "media")
"""Nor is 'file_type'."""
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
"""Taken when several class labels could be meant: CIFAR-100's 'fine_label' beside 'coarse_label'."""
NEVER = ("split", "fold", "part", "subset", "partition")
"""Names of class labels that tell parts, not classes."""
PICTURE_NAMES = ("image", "img", "picture", "photo", "pixels", "pixel_values", "pixel", "images", "data", "x", "values")
"""Names of columns of flat lists that are pictures."""
SURE = 2
"""The rank of a column that is called a label."""
CALLED = 4
"""The first of these name pictures also where the column's content is refused later."""
TOLD = 8
"""Columns that a sentence lists of many."""
Values = Callable[[str], Iterable[Any]]
"""The values of a column, as Python objects, read as they are asked for."""


@dataclass(frozen=True)
class Columns:
    """The columns of the pictures and the labels; `names` is a column of text that names the labels' numbers, and
    `rivals` could be the label too. `certain` is False where only the name of a kind, such as 'species', told it."""

    image: str
    label: str
    names: str | None = None
    rivals: tuple[str, ...] = ()
    certain: bool = True


def find_columns(
    features: Mapping[str, Any], image: str | None, label: str | None, where: str, values: Values | None = None
) -> Columns:
    """The columns named, or those that fit: a picture by its type; a label by its type or its name.

    `features` are those of a Hugging Face data set, `values` looks into its columns. A whole number, text, flag or
    category is a label where its column is called like one; no other column is ever taken. Of two that tell the same
    classes the numbers are taken, and named by the text. Raises InputError listing the columns when none or several
    fit.
    """
    for kind, name in (("image column", image), ("label column", label)):
        if name is not None and name not in features:
            raise unknown(kind, name, features, where=f"in {where}")
    table = _Table(features, where, values or (lambda _: ()))
    chosen = image or table.image(label)
    if label is not None:
        return Columns(chosen, label, table.namer(label, table.labels(chosen)))
    return table.label(chosen)


def image_columns(features: Mapping[str, Any], label: str | None, values: Values) -> list[str]:
    """The columns that could be the pictures, as `find_columns` takes them."""
    return _Table(features, "", values).images(label)


def label_columns(features: Mapping[str, Any], image: str) -> list[str]:
    """The columns that could be the labels of pictures in the column `image`."""
    return list(_Table(features, "", lambda _: ()).labels(image))


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
    """How many lists lie in each other."""
    if type(feature).__name__ in ("Array2D", "Array3D"):
        return len(feature.shape)
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return 1 + _depth(inner) if inner is not None and kind_of(feature) == "list" else 0


def rank_of(name: str) -> int:
    """How much a column's name is that of a label: 2 where it says so, 1 where it says what classes are often called, 0
    otherwise."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+", name)]
    if "_".join(words) in LABEL_NAMES:
        return 2
    if _speaks_of(words, LABEL_WORDS, COUNTED):
        return 2
    return int(_speaks_of(words, KIND_WORDS, (*COUNTED, *FILED)))


def _speaks_of(words: Sequence[str], known: Sequence[str], unless: Sequence[str]) -> bool:
    """Whether these are 'label', 'fine_label' or 'label_id', and nothing else about labels."""
    if not words:
        return False
    if words[0] in known and all(word in (*ENDINGS, *known) or word.isdecimal() for word in words[1:]):
        return True
    return words[-1] in known and words[0] not in unless


@dataclass(frozen=True)
class _Table:
    features: Mapping[str, Any]
    where: str
    values: Values

    def image(self, label: str | None) -> str:
        """The column of pictures."""
        fitting = self.images(label)
        if len(fitting) == 1:
            return fitting[0]
        raise self._question(fitting, "image")

    def images(self, label: str | None) -> list[str]:
        """The columns that could be the pictures: those of the surest kind of which there is any."""
        others = [name for name in self.features if name != label]
        kinds = {name: kind_of(self.features[name]) for name in others}
        sure = [
            [name for name in others if kinds[name] == "image"],
            [name for name in others if kinds[name] == "bytes" and _is_encoded(self._first(name))],
            [name for name in others if _depth(self.features[name]) > 1 and not rank_of(name)],
            [name for name in others if kinds[name] == "text" and _is_picture_name(self._first(name))],
            [name for name in others if kinds[name] == "list" and name.lower() in PICTURE_NAMES],
            [name for name in others if kinds[name] in ("text", "bytes") and name.lower() in PICTURE_NAMES[:CALLED]],
        ]
        return next((names for names in sure if names), [])

    def labels(self, image: str) -> dict[str, int]:
        """The columns that could be the label, with their ranks."""
        ranks = {name: rank_of(name) for name in self.features if name != image and not self._is_place(name)}
        typed = {name: 2 for name in ranks if self._is_class(name) and name.lower() not in NEVER}
        return {name: rank for name, rank in (ranks | typed).items() if rank}

    def _is_place(self, name: str) -> bool:
        """Whether a column of numbers called y is the place of something in the picture, as one beside a column x
        is."""
        if name.lower() != "y":
            return False
        return any(
            other.lower() == "x" and kind_of(self.features[other]) in ("int", "float") for other in self.features
        )

    def label(self, image: str) -> Columns:
        """The label column, beside pictures in `image`."""
        ranks = self.labels(image)
        sure = [name for name, rank in ranks.items() if rank == 2]
        pool = sure or list(ranks)
        chosen = self._one_of(pool)
        named = self.namer(chosen, ranks)
        rivals = tuple(name for name in ranks if name != chosen and not self._same_classes(chosen, name))
        return Columns(image, chosen, named, rivals, bool(sure))

    def namer(self, label: str, ranks: Mapping[str, int]) -> str | None:
        """The column of text that names the classes of a label of numbers, one to one."""
        if kind_of(self.features[label]) not in ("int", "float"):
            return None
        texts = [name for name in ranks if name != label and kind_of(self.features[name]) == "text"]
        return next((name for name in texts if self._same_classes(label, name)), None)

    def _one_of(self, pool: list[str]) -> str:
        if len(pool) == 1:
            return pool[0]
        typed = [name for name in pool if self._is_class(name)]
        if len(typed) == 1:
            return typed[0]
        usual = [name for name in USUAL_LABELS if name in typed]
        if usual:
            return usual[0]
        fine = [name for name in pool if "coarse" not in name.lower()]
        if "fine_label" in pool and fine == ["fine_label"]:
            return "fine_label"
        if pool and not typed and all(self._same_classes(pool[0], name) for name in pool[1:]):
            return next((name for name in pool if kind_of(self.features[name]) in ("int", "float")), pool[0])
        raise self._question(pool, "label")

    def _same_classes(self, one: str, other: str) -> bool:
        """Whether each value of a column stands beside one value of the other only, and the other way round."""
        if "list" in (kind_of(self.features[one]), kind_of(self.features[other])):
            return False
        pairs = set(zip(self.values(one), self.values(other), strict=True))
        return bool(pairs) and len({first for first, _ in pairs}) == len({last for _, last in pairs}) == len(pairs)

    def _is_class(self, name: str) -> bool:
        return kind_of(self.features[name]) == "class"

    def _first(self, name: str) -> Any:
        return next((value for value in self.values(name) if value is not None), None)

    def _question(self, fitting: list[str], kind: str) -> InputError:
        if fitting:
            return InputError(
                f"{self.where} has several columns that could be the {kind}: {', '.join(fitting)}; name one with "
                f"--data.{kind}-column."
            )
        columns = [f"{name} ({_told(feature)})" for name, feature in self.features.items()]
        there = ", ".join(columns[:TOLD]) + f" and {len(columns) - TOLD} more" * (len(columns) > TOLD)
        called = {"label": " called like one (label, class, target, category, …)"}.get(kind, "")
        return InputError(
            f"{self.where} has no {kind} column{called}; it has {there}. Name the {kind} column with "
            f"--data.{kind}-column."
        )


def _told(feature: Any) -> str:
    told = {"class": "classes", "image": "pictures", "int": "whole numbers", "flag": "flags", "list": "lists"}
    told |= {"float": "fractions"}
    return told.get(kind_of(feature), kind_of(feature))


def _is_encoded(value: Any) -> bool:
    """Whether bytes begin as a picture file does."""
    if not isinstance(value, bytes):
        return False
    try:
        with opened_picture(io.BytesIO(value)):
            return True
    except Exception:  # what Pillow and its libraries raise depends on the format
        return False


def _is_picture_name(value: Any) -> bool:
    """Whether text ends as the name of a picture file does."""
    return isinstance(value, str) and PurePath(value.lower()).suffix in Image.registered_extensions()
