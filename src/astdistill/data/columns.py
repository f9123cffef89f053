"""Finding the image and the label column of a table by the types of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, unknown

USUAL_LABELS = ("label", "labels", "fine_label")
"""Taken when several columns could be the label: CIFAR-100's 'fine_label' beside 'coarse_label'."""


@dataclass(frozen=True)
class Columns:
    """The two columns, and the class names where the label column knows them."""

    image: str
    label: str
    classes: tuple[str, ...] | None


def find_columns(features: Mapping[str, Any], image: str | None, label: str | None, where: str) -> Columns:
    """The columns named, or the only ones of a fitting type: an image; a class label, else an integer.

    `features` are those of a Hugging Face data set. Raises InputError listing the columns when none or several fit.
    """
    for kind, name in (("image column", image), ("label column", label)):
        if name is not None and name not in features:
            raise unknown(kind, name, features, where=f"in {where}")
    images = [name for name, feature in features.items() if _is_image(feature)]
    labels = [name for name, feature in features.items() if _class_names(feature)] or [
        name for name, feature in features.items() if _is_whole(feature)
    ]
    chosen_image = image or _only(images, features, "image", where, ())
    chosen_label = label or _only(labels, features, "label", where, USUAL_LABELS)
    return Columns(chosen_image, chosen_label, _class_names(features[chosen_label]))


def _only(fitting: list[str], features: Mapping[str, Any], kind: str, where: str, usual: tuple[str, ...]) -> str:
    if len(fitting) == 1:
        return fitting[0]
    for name in usual:
        if name in fitting:
            return name
    if not fitting:
        raise InputError(f"{where} has no {kind} column; it has {', '.join(features)}. Name the {kind} column with --data.{kind}-column.")
    raise InputError(f"{where} has several columns that could be the {kind}: {', '.join(fitting)}; name one with --data.{kind}-column.")


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image" or (isinstance(feature, Mapping) and "bytes" in feature)


def _class_names(feature: Any) -> tuple[str, ...] | None:
    return tuple(feature.names) if type(feature).__name__ == "ClassLabel" and feature.names else None


def _is_whole(feature: Any) -> bool:
    return "int" in str(getattr(feature, "dtype", "")) and type(feature).__name__ == "Value"
