"""MedMNIST v2 (Yang et al. 2023, arXiv 2110.14795): the sets of pictures by name, the names of their classes, and where
the files lie."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ..runtime.errors import InputError
from .named_arrays import NamedArrays

ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left", "lung-right",
    "pancreas", "spleen",
)  # fmt: skip


@dataclass(frozen=True)
class Medical:
    """One of the sets: its classes in the order of their labels, channels, and how many images each part has."""

    classes: tuple[str, ...]
    channels: int
    train: int
    validation: int
    test: int


SETS: Mapping[str, Medical] = MappingProxyType({
    "pathmnist": Medical(
        (
            "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
            "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
        ), 3, 89996, 10004, 7180,
    ),
    "dermamnist": Medical(
        (
            "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
            "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions",
        ), 3, 7007, 1003, 2005,
    ),
    "octmnist": Medical(
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"), 1, 97477, 10832, 1000
    ),
    "pneumoniamnist": Medical(("normal", "pneumonia"), 1, 4708, 524, 624),
    "retinamnist": Medical(("0", "1", "2", "3", "4"), 3, 1080, 120, 400),
    "breastmnist": Medical(("malignant", "normal, benign"), 1, 546, 78, 156),
    "bloodmnist": Medical(
        (
            "basophil", "eosinophil", "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)", "lymphocyte", "monocyte",
            "neutrophil", "platelet",
        ), 3, 11959, 1712, 3421,
    ),
    "tissuemnist": Medical(
        (
            "Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells",
            "Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ), 1, 165466, 23640, 47280,
    ),
    "organamnist": Medical(ORGANS, 1, 34561, 6491, 17778),
    "organcmnist": Medical(ORGANS, 1, 12975, 2392, 8216),
    "organsmnist": Medical(ORGANS, 1, 13932, 2452, 8827),
})  # fmt: skip
"""Classes and counts of the published table (medmnist/info.py of version 3)."""
MULTI_LABEL = "chestmnist"
SIZES = (28, 64)
"""Pixels a side that presets are for; larger files of the same names are read too."""
PUBLISHED = "https://zenodo.org/records/10519652"
FILE = re.compile(rf"({'|'.join((*SETS, MULTI_LABEL))})(?:_(64|128|224))?")
NAMES = tuple(f"{name}{'' if size == 28 else f'_{size}'}" for name in (*SETS, MULTI_LABEL) for size in SIZES)


def shape(name: str) -> tuple[int, int, int]:
    """Channels, height and width of the images of a name, grey ones of 28 px with their border."""
    channels = SETS[name.removesuffix("_64")].channels
    if name.endswith("_64"):
        return channels, 64, 64
    return {1: (1, 32, 32), 3: (3, 28, 28)}[channels]


def described(arrays: NamedArrays, stem: str) -> NamedArrays:
    """The arrays with the published names of the classes, where the file is called as one of these sets and names none
    itself."""
    match = FILE.fullmatch(stem.lower())
    if match is None or "classes" in arrays.names:
        return arrays
    if match[1] == MULTI_LABEL:
        raise multi_label(stem)
    classes = SETS[match[1]].classes
    labels = [np.asarray(arrays.read(key)) for key in ("train_labels", "test_labels") if key in arrays.names]
    if any(each.dtype.kind not in "ui" or int(each.max(initial=0)) >= len(classes) for each in labels):
        return arrays  # something else under that name
    return replace(arrays, classes=classes)


def multi_label(name: str) -> InputError:
    """The error for ChestMNIST."""
    others = ", ".join(sorted(SETS)[:3])
    return InputError(
        f"{name} has several labels to an image (14 findings, multi-label), and classes are distilled one to an image; "
        f"take another MedMNIST set, such as {others}."
    )


def file_of(name: str) -> Path:
    """The published file of a set: `NAME.npz` in the folder that ASTDISTILL_DATA names, or in a folder NAME of it.

    Raises InputError, saying where it is published, where it is not there.
    """
    if name.startswith(MULTI_LABEL):
        raise multi_label(name)
    root = os.environ.get("ASTDISTILL_DATA")
    places = list[Path]()
    if root:
        folder = Path(os.path.expanduser(root))
        places = [folder / f"{name}.npz", folder / name / f"{name}.npz"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        looked = f" (there is no {places[0]})" if places else ""
        raise InputError(
            f"{name} is read from its published file{looked}; download {name}.npz of MedMNIST ({PUBLISHED}) and give "
            f"its path, --data {name}.npz, or let ASTDISTILL_DATA name the folder that holds it."
        )
    return file
