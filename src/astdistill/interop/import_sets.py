"""Import distilled sets of other code bases: `images_best.pt`, `labels_best.pt`, `lr.pt`, or FTD's average
`ema_images_best.pt` with `ema_labels_best.pt`, read without executing any code in them."""

from __future__ import annotations

import math
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from torch import Tensor

from ..data.augmentation import STRATEGY, checked
from ..data.dataset import Dataset
from ..data.synthetic import SyntheticSet, one_hot
from ..data.textures import TextureSpec
from ..models.registry import build_model
from ..report.page.page import renew_page
from ..report.pictures import save_grid
from ..runtime.errors import InputError
from ..runtime.files import new_folder
from ..runtime.provenance import provenance
from ..runtime.run_dir import RunDir
from ..runtime.shapes import Images, Labels, Targets
from ..runtime.trust import trust_models
from .formats import IMAGES, LABELS, RATE, logits_of

PACKED = tuple(
    kind
    for name in ("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2", "float4_e2m1fn_x2")
    if isinstance(kind := getattr(torch, name, None), torch.dtype)
)
"""Types that hold bits, or several numbers per element, as far as this version of torch has them."""
FOREIGN = re.compile(r"GLOBAL (\S+)")
"""Finds the object that torch refused to load in its error message."""


def read_pickle(path: Path) -> Any:
    """The tensors (on the CPU), lists, dictionaries and numbers that `torch.save` wrote to `path`; large tensors stay
    on disk until they are used, except in files older than torch 1.6.

    Raises InputError for a file that is absent, broken, or holds anything else, which is not executed.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other pickle protocols; errors are raised below
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        foreign = FOREIGN.search(str(error))
        if foreign is None:
            raise _broken_file_error(path, error) from error
        raise InputError(
            f"{path} holds '{foreign[1]}', which is no tensor, list or number, and was not loaded: reading such a file "
            "can run a program on this machine; take one that torch.save wrote of tensors alone."
        ) from error
    except PermissionError:
        raise
    except Exception as error:  # a broken pickle can fail in any way
        raise _broken_file_error(path, error) from error
    problem = next(filter(None, map(_tensor_problem, _tensors(value))), "")
    if problem:
        raise InputError(
            f"{path} holds a tensor that {problem}, where plain numbers are expected; save it again as such."
        )
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in lists and dictionaries, each container once: one in a pickle may contain itself."""
    pending, seen = [value], set[int]()
    while pending:
        each = pending.pop()
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple | dict) and id(each) not in seen:
            seen.add(id(each))
            pending += each.values() if isinstance(each, dict) else each


def _tensor_problem(tensor: Tensor) -> str:
    """Why a tensor cannot be used; '' for one of real numbers that are all stored in its file."""
    if tensor.device.type != "cpu":
        return "has no numbers"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "is sparse or nested"
    if tensor.is_quantized or tensor.is_complex() or tensor.dtype in PACKED:
        return f"is of type {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "repeats its numbers"
    return ""


def _broken_file_error(path: Path, error: Exception) -> InputError:
    first = str(error).partition("\n")[0].partition(". ")[0]
    reason = ""
    if " " in first:  # a bare key or number says nothing about the cause
        reason = f" ({first})"
    return InputError(f"{path} is not a whole file of torch.save{reason}; copy it again from where it was made.")


RATES = (RATE, "lr_best.pt")
"""Names of the file with the learning rate, which differ between code bases."""
AVERAGED = "ema_"
"""Prefix of FTD's files that hold the moving average, on which its published figures are measured."""


def import_set(
    folder: str | Path,
    dataset: Dataset,
    *,
    lr: float | None = None,
    model: str = "convnet-d3",
    augmentation: str = STRATEGY,
    momentum: float = 0.0,
    method: str = "mtt",
    canvas: int = 1,
    canvas_samples: int = 1,
    out: str | Path | None = None,
) -> SyntheticSet:
    """The distilled set in the files of `folder`, in the space of `dataset`.

    Images `[N, C, H, W]` are as networks see them, preprocessed as `dataset` is. Labels are numbers `[N]`, or
    distributions or their logits `[N, K]`; without their file, images count as grouped by class. Hard-labelled images
    are put in the order of their classes. Where `ema_images_best.pt` exists (FTD), it is read with
    `ema_labels_best.pt`, even if `images_best.pt` exists too.

    Args:
        folder: A folder with `images_best.pt` or the like, as the released codes write them.
        dataset: The real data that the set was distilled from, preprocessed in the same way.
        lr: Learning rate of the student, in place of that in the file. None: that in the file.
        model: The student network, as `build_model` takes it.
        augmentation: DSA operations that the student saw, joined by underscores; "" for none.
        momentum: Of the student, 0 … 1.
        method: The method that made the set, as shown in tables.
        canvas: The value of MTT's `--canvas_size`, k: textures are `[N, C, k H, k W]`.
        canvas_samples: The value of MTT's `--canvas_samples`: crops of each canvas in a step.
        out: A new folder, to which the set is written with picture and page. None: nothing is written.

    Returns:
        The set.

    Raises:
        InputError: With nothing written, for files that are absent, broken or hold other things than tensors, and for
            shapes, classes or numbers that do not fit `dataset`.
    """
    folder = Path(folder)
    check_set_folder(folder)
    trust_models(model)
    build_model(model, dataset.shape, len(dataset.classes))
    augmentation = checked(augmentation)
    _check_student(momentum, canvas, canvas_samples)
    texture = TextureSpec(canvas=canvas, samples=canvas_samples)
    prefix = ""
    if (folder / f"{AVERAGED}{IMAGES}").is_file():
        prefix = AVERAGED
    images = _read_images(folder / f"{prefix}{IMAGES}", dataset, texture)
    rate = _learning_rate(folder, lr)
    kind, images, targets = _read_labels(folder / f"{prefix}{LABELS}", images, dataset)
    synthetic = SyntheticSet(
        images=images,
        targets=targets,
        lr=torch.tensor(rate, dtype=torch.float32),
        classes=dataset.classes,
        preprocessing=dataset.preprocessing.to("cpu"),
        data=dataset.config,
        model=model,
        labels=kind,
        augmentation=augmentation,
        momentum=momentum,
        method=method,
        canvas=texture.canvas,
        canvas_samples=texture.samples,
        fingerprint=dataset.fingerprint,
        provenance=provenance() | {"imported": str(folder)},
    )
    if out is not None:
        with new_folder(Path(out)) as temporary:
            synthetic.save(RunDir(temporary).synthetic)
            save_grid(synthetic, RunDir(temporary).images)
        renew_page(Path(out))
    return synthetic


def check_set_folder(folder: Path) -> None:
    """Raise InputError unless there is a folder of that name."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; name the one that distill.py of MTT or a successor wrote to.")


def _check_student(momentum: float, canvas: int, canvas_samples: int) -> None:
    if not 0 <= momentum < 1:
        raise InputError(f"--momentum {momentum:g} was given; choose 0 or more and less than 1.")
    for flag, number in (("--canvas", canvas), ("--canvas-samples", canvas_samples)):
        if number < 1:
            raise InputError(f"{flag} {number} was given; choose 1 or more.")


def _read_images(path: Path, dataset: Dataset, texture: TextureSpec) -> Images:
    if not path.is_file():
        folder = path.parent
        found = ", ".join(sorted(path.name for path in folder.glob("*.pt"))[:5]) or "no .pt file"
        raise InputError(
            f"{folder} holds no {IMAGES} (it has {found}); "
            "name the folder that distill.py of MTT or a successor wrote to."
        )
    images = _finite_tensor(path, read_pickle(path)).float()
    expected = texture.extent(dataset.shape)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise InputError(
            f"{path} has shape {list(images.shape)}, and images of '{dataset.name}' {list(expected)}; name the data "
            "that it was distilled from with --data, their size with --data.size, and of textures the --canvas."
        )
    if not len(images) or len(images) % len(dataset.classes):
        raise InputError(
            f"{path} holds {len(images)} images, which cannot be the same number of each of the {len(dataset.classes)} "
            f"classes of '{dataset.name}'; name the data that it was distilled from with --data and --data.*."
        )
    return images.clone()


def _read_labels(path: Path, images: Images, dataset: Dataset) -> tuple[Literal["hard", "soft"], Images, Targets]:
    """Kind of label, images in the order of the set, and targets `[N, K]`."""
    classes = len(dataset.classes)
    if not path.is_file():
        return "hard", images, one_hot(torch.arange(classes).repeat_interleave(len(images) // classes), classes)
    labels = _finite_tensor(path, read_pickle(path))
    if labels.ndim == 2 and labels.shape[1] > 1:
        if tuple(labels.shape) != (len(images), classes):
            raise InputError(
                f"{path} has shape {list(labels.shape)}, where {len(images)} images of {classes} classes need "
                f"{[len(images), classes]}; name the data that the set was distilled from with --data and --data.*."
            )
        soft = labels.float().clone()
        if not torch.equal(soft, one_hot(soft.argmax(dim=1), classes)):
            if _are_distributions(soft):
                soft = logits_of(soft)
            return "soft", images, soft
        labels = soft.argmax(dim=1)
    numbers = _class_numbers(path, labels, len(images), dataset)
    order = numbers.argsort(stable=True)
    return "hard", images[order], one_hot(numbers[order], classes)


def _class_numbers(path: Path, labels: Tensor, count: int, dataset: Dataset) -> Labels:
    """Class numbers `[N]`, equally many of each class."""
    numbers = labels.flatten().long()
    if labels.numel() != count or not torch.equal(numbers.to(labels), labels.flatten()):
        raise InputError(
            f"{path} has shape {list(labels.shape)}, where {count} class numbers are expected, one for each image."
        )
    if int(numbers.min()) < 0 or int(numbers.max()) >= len(dataset.classes):
        raise InputError(
            f"{path} has labels {int(numbers.min())} to {int(numbers.max())}, and '{dataset.name}' has classes 0 to "
            f"{len(dataset.classes) - 1}; name the data that the set was distilled from with --data and --data.*."
        )
    sizes = torch.bincount(numbers, minlength=len(dataset.classes))
    if int(sizes.min()) != int(sizes.max()):
        smallest, largest = int(sizes.argmin()), int(sizes.argmax())
        raise InputError(
            f"{path} gives class {smallest} {int(sizes[smallest])} images and class {largest} {int(sizes[largest])}; "
            "take a set with as many of each class."
        )
    return numbers


def _learning_rate(folder: Path, typed: float | None) -> float:
    path = next((folder / name for name in RATES if (folder / name).is_file()), None)
    if typed is None and path is None:
        raise InputError(
            f"{folder} holds no {' or '.join(RATES)}; "
            "give the learned learning rate of the set, as its log shows it, with --lr."
        )
    rate, source = (
        (_number(read_pickle(path)), str(path)) if typed is None and path is not None else (typed or 0.0, "--lr")
    )
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(
            f"{source} gives the learning rate {rate:g}, with which no network trains; give a positive one with --lr."
        )
    return rate


def _number(value: Any) -> float:
    """The value of a number, or of a tensor with one element; NaN for anything else."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value.detach())
    if isinstance(value, int | float) and abs(value) < 1e300:
        return float(value)
    return math.nan


def _finite_tensor(path: Path, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or not bool(value.isfinite().all()):
        content = f"a {type(value).__name__}"
        if isinstance(value, Tensor):
            content = "numbers that are not finite"
        raise InputError(
            f"{path} holds {content}, where a tensor of finite numbers is expected; take the file of another iteration."
        )
    return value.detach()


def _are_distributions(rows: Targets) -> bool:
    """Whether the rows are distributions already: rows of logits are not non-negative with a sum of one."""
    return bool((rows >= 0).all()) and torch.allclose(
        rows.sum(dim=1), torch.ones(len(rows), dtype=rows.dtype), atol=1e-3
    )
