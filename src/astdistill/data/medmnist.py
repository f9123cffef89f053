"""MedMNIST v2 (Yang et al. 2023, arXiv 2110.14795): the image data sets by name, the names of their classes, and the
location of their files."""

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
    """A data set of MedMNIST: its classes in the order of their labels, channels, and the number of images in each
    part."""

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
"""Image sizes in pixels that have presets; larger files of the same names can be read, too."""
PUBLISHED = "https://zenodo.org/records/10519652"
FILE = re.compile(rf"({'|'.join((*SETS, MULTI_LABEL))})(?:_(64|128|224))?")
NAMES = tuple(f"{name}{'' if size == 28 else f'_{size}'}" for name in (*SETS, MULTI_LABEL) for size in SIZES)


def shape(name: str) -> tuple[int, int, int]:
    """Channels, height and width of the images of a data set; grey images of 28 pixels include their border."""
    channels = SETS[name.removesuffix("_64")].channels
    if name.endswith("_64"):
        return channels, 64, 64
    return {1: (1, 32, 32), 3: (3, 28, 28)}[channels]


def described(arrays: NamedArrays, stem: str) -> NamedArrays:
    """The arrays with the published names of the classes, if the file is named like a data set of MedMNIST and has no
    class names."""
    match = FILE.fullmatch(stem.lower())
    if match is None or "classes" in arrays.names:
        return arrays
    if match[1] == MULTI_LABEL:
        raise multi_label(stem)
    classes = SETS[match[1]].classes
    labels = [np.asarray(arrays.read(key)) for key in ("train_labels", "test_labels") if key in arrays.names]
    if any(each.dtype.kind not in "ui" or int(each.max(initial=0)) >= len(classes) for each in labels):
        return arrays  # another data set of that name
    return replace(arrays, classes=classes)


def multi_label(name: str) -> InputError:
    """The error for ChestMNIST."""
    others = ", ".join(sorted(SETS)[:3])
    return InputError(
        f"{name} has several labels to an image (14 findings, multi-label), and classes are distilled one to an image; "
        f"take another MedMNIST set, such as {others}."
    )


def file_of(name: str) -> Path:
    """The published file of a data set: `NAME.npz` in the folder that ASTDISTILL_DATA names, or in its subfolder NAME.

    Raises InputError with the address of the published file if it is missing.
    """
    if name.startswith(MULTI_LABEL):
        raise multi_label(name)
    root = os.environ.get("ASTDISTILL_DATA")
    candidates = list[Path]()
    if root:
        folder = Path(os.path.expanduser(root))
        candidates = [folder / f"{name}.npz", folder / name / f"{name}.npz"]
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        hint = f" (there is no {candidates[0]})" if candidates else ""
        raise InputError(
            f"{name} is read from its published file{hint}; download {name}.npz of MedMNIST ({PUBLISHED}) and give "
            f"its path, --data {name}.npz, or let ASTDISTILL_DATA name the folder that holds it."
        )
    return file
