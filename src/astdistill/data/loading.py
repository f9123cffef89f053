"""`load_dataset`: from a name or a configuration to the tensors that experts and students train on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ..runtime.config import digest
from ..runtime.devices import settled_device
from ..runtime.errors import InputError, refused, unknown
from ..runtime.machine import free_memory
from ..runtime.progress import phase
from ..runtime.shapes import Images
from ..runtime.status import size
from .cache import Stored, cached, in_file
from .dataset import DataConfig, Dataset, RawData, Split, Summary, rows_of
from .digests import tensor_digest
from .preprocessing import MIXING, Preprocessing, fit_rat, fit_standard, fit_zca
from .selection import first_of_each, stratified
from .sources import published_statistics, read
from .storage import (
    ByteImages,
    MappedImages,
    Origin,
    Residence,
    StoredImages,
    byte_images,
    float_images,
    held_bytes,
    pixel_digest,
    residence,
)

TEST_SHARE = 0.2
ZCA_EPS = 0.1
CACHED_ZCA = 1024
"""From so many values per image on, fitting a whitening takes longer than reading it."""


def load_dataset(
    source: Any = "digits", *, device: str | torch.device = "auto", verify: bool = False, **fields: Any
) -> Dataset:
    """The data set that `source` and the fields of `DataConfig` describe, preprocessed, on one device.

    Single-channel 28×28 images of any source are padded to 32×32 unless `size` is given. Files whose path, size and
    times are as they were when they were last read are not read again, and images decoded before come from the cache.

    Args:
        source: A known name, a hub name, a folder, a file of arrays, a Hugging Face `Dataset` or `DatasetDict`, or a
            whole `DataConfig`, of which `fields` then change some.
        device: Where the images lie, such as "cpu" or "cuda:1". "auto" is the CUDA GPU where there is a usable one,
            otherwise the CPU.
        verify: Read and check every byte of the files and of the cache.
        **fields: Fields of `DataConfig` by name, such as `whiten="zca"` or `per_class=100`.

    Returns:
        The data set, its images `[N, C, H, W]` as networks see them.

    Raises:
        InputError: In one sentence, for anything that cannot be used.
    """
    if not isinstance(source, str | os.PathLike | DataConfig):
        from .tensors import dataset_from_splits  # which imports this module

        return dataset_from_splits(source, device, fields)
    config = resolved(source, fields)
    return assemble(read(config, verify), config.replace(source=_with_name(config.source)), device)


def _with_name(source: str) -> str:
    """The current folder as one that has a name, `../photos` for `.`, which tables and pages of its sets show."""
    if Path(source).name not in ("", ".."):
        return source
    return os.path.normpath(os.path.join(source, "..", Path(source).resolve().name))


def resolved(source: Any, fields: dict[str, Any]) -> DataConfig:
    """The configuration with some fields changed. Raises InputError for an unknown field or a value out of range."""
    known = DataConfig.model_fields
    for name in fields:
        if name not in known:
            raise unknown("data setting", name, known)
    start = (
        {name: getattr(source, name) for name in known} if isinstance(source, DataConfig) else {"source": str(source)}
    )
    try:
        return DataConfig.model_validate(start | fields)
    except ValidationError as error:
        raise refused(error) from error


def assemble(raw: RawData, config: DataConfig, device: str | torch.device = "auto") -> Dataset:
    """The raw images divided into parts and preprocessed; the preprocessing is fitted on the training part that
    remains."""
    device, count = settled_device(device), len(raw.classes)
    _check_every_class(raw.train, raw.classes, "")
    raw = _with_test(raw, config.seed)
    train, test = raw.train, raw.test
    if test is None or not len(test):
        raise InputError(f"{raw.name} has no test images of these classes; add a test part with at least one image.")
    train = rows_of(train, first_of_each(train.labels, count, config.per_class))
    validation = None
    if config.validation:
        train, validation = _held_out(train, raw, config)
    images = sum(len(part) for part in (train, test, validation) if part is not None)
    where = residence(config.memory, images, train.images.shape[1:], config.whiten, device)
    if torch.device(device).type == "cpu":
        _check_room([part for part in (train, test, validation) if part is not None], where, raw.name)
    preprocessing = _fitted(train, raw.name, config.whiten)

    fingerprint = _fingerprint(train, raw.classes, preprocessing)

    def split(part: Split, name: str) -> Split:
        held = _held(part.images, where, preprocessing, device, raw.name)
        if isinstance(held, MappedImages):
            held.origin = Origin(config, fingerprint, name)
        return Split(held, part.labels.to(device))

    return Dataset(
        name=raw.name,
        classes=raw.classes,
        train=split(train, "train"),
        test=split(test, "test"),
        preprocessing=preprocessing,
        fingerprint=fingerprint,
        config=config,
        validation=None if validation is None else split(validation, "validation"),
        summary=raw.summary,
    )


def file_here(path: Path, origin: Origin | None) -> Path:
    """The file of this machine that holds the images which another machine has at `path`: made of the same source,
    with the same fingerprint. Raises InputError where that cannot be."""
    entry = path.name.startswith(("train.", "test."))
    if path.exists() and (origin is None or not entry):  # a file that is named by its content
        return path
    if origin is None:
        raise InputError(
            f"{path} is not on {platform.node()}; put the cache where all nodes see it (ASTDISTILL_CACHE), or take "
            "--data.memory uint8."
        )
    source = origin.config.source
    try:
        dataset = _again(origin.config.model_dump_json())
    except InputError as error:
        raise InputError(
            f"{platform.node()} cannot read the data: {error} Put '{source}' where all nodes see it, or take "
            "--data.memory uint8."
        ) from error
    images = getattr(dataset, origin.part).images
    assert isinstance(images, MappedImages)
    same = images.path.name == path.name and (not entry or images.path.parent.name == path.parent.name)
    if dataset.fingerprint != origin.fingerprint or not same:
        raise InputError(
            f"'{source}' holds other images on {platform.node()} than where the command runs (fingerprints "
            f"{dataset.fingerprint[:12]} and {origin.fingerprint[:12]}); copy the data again, or name a folder that "
            "all nodes share."
        )
    return images.path


@lru_cache(maxsize=2)
def _again(config: str) -> Dataset:
    """The set of a configuration, as JSON, read by this process, its pixels in a file."""
    return load_dataset(DataConfig.model_validate_json(config), memory="disk")


def _with_test(raw: RawData, seed: int) -> RawData:
    """The set with a test part: its own, or a share of every class of its training images."""
    if raw.test is not None:
        return raw
    number = round(TEST_SHARE * len(raw.train))
    division = stratified(raw.train.labels, len(raw.classes), number, seed, "test part")
    train, test = rows_of(raw.train, division.stay), rows_of(raw.train, division.held_out)
    _check_every_class(
        train, raw.classes, f" after {TEST_SHARE:.0%} were set aside for testing; add images, or a test part"
    )
    summary = raw.summary + Summary((f"test part: {TEST_SHARE:.0%} of the training images of every class, set aside",))
    return replace(raw, train=train, test=test, summary=summary)


def _held_out(train: Split, raw: RawData, config: DataConfig) -> tuple[Split, Split]:
    """What stays for training and what is held out."""
    number = round(config.validation * len(train))
    if not number:
        raise InputError(
            f"A validation share of {config.validation} of {len(train)} images holds out none; raise --data.validation."
        )
    division = stratified(train.labels, len(raw.classes), number, config.seed, "validation part")
    stay = rows_of(train, division.stay)
    _check_every_class(
        stay, raw.classes, f" after a share of {config.validation} was held out; lower --data.validation"
    )
    return stay, rows_of(train, division.held_out)


def _check_every_class(part: Split, classes: tuple[str, ...], why: str) -> None:
    if len(classes) < 2:
        raise InputError(
            f"The data have fewer than two classes ({', '.join(classes)}); at least two are needed, so name with "
            "--data what tells them: a folder with a folder of pictures for each class, or a table with their labels."
        )
    sizes = torch.bincount(part.labels, minlength=len(classes))
    if not bool((sizes > 0).all()):
        empty = classes[int((sizes == 0).nonzero()[0])]
        why = why or "; add some, leave the class out with --data.classes, or number the labels 0..K-1"
        raise InputError(f"Class '{empty}' has no training images{why}.")


def _fitted(train: Split, name: str, whiten: str) -> Preprocessing:
    channels, height, width = train.images.shape[1:]
    shape = (channels, height, width)
    if whiten == "none":
        return Preprocessing.none(shape)
    if whiten == "standard":
        known = published_statistics(name)
        return Preprocessing.standard(*known, shape) if known and channels == 3 else fit_standard(train.images)
    if channels * height * width < CACHED_ZCA:
        return _whitening(train, whiten)
    stored = cached(whiten, [pixel_digest(train.images), ZCA_EPS], lambda: _fitted_whitening(train, whiten))
    return Preprocessing.restore(stored.header["preprocessing"], stored.tensors)


def _whitening(train: Split, whiten: str) -> Preprocessing:
    if whiten == "rat":
        return fit_rat(train.images, pixel_digest(train.images), ZCA_EPS)
    return fit_zca(train.images, ZCA_EPS)


def _fitted_whitening(train: Split, whiten: str) -> Stored:
    with phase(f"fitting the {MIXING[whiten]} whitening to {len(train):,} images"):
        preprocessing = _whitening(train, whiten)
    return Stored(preprocessing.tensors(), {"preprocessing": preprocessing.describe()})


def _check_room(parts: Sequence[Split], where: Residence, name: str) -> None:
    """Raise InputError, before anything is taken, where the images will not fit into what is free now: a process that
    takes more is ended without a word. Bytes that are in memory already take no more."""
    kept = [part for part in parts if where != "uint8" or isinstance(part.images, MappedImages)]
    needed, free = sum(held_bytes(where, len(part), part.images.shape[1:]) for part in kept), free_memory()
    if free is None or needed <= free:
        return
    less = {"float32": "--data.memory uint8 or disk"}.get(where, "--data.memory disk")
    raise InputError(
        f"The {sum(map(len, parts)):,} images of {name} take {size(needed)} of memory as {where}, and {size(free)} are "
        f"free; end other programs, or choose {less}."
    )


def _held(
    pixels: StoredImages, where: Residence, preprocessing: Preprocessing, device: str | torch.device, name: str
) -> Images | ByteImages | MappedImages:
    if where == "float32":
        return float_images(pixels, preprocessing, device)
    if where == "uint8":
        return byte_images(pixels, preprocessing, device)
    mapped = pixels if isinstance(pixels, MappedImages) else in_file(pixels, name)
    return mapped.prepared(preprocessing, device)


def _fingerprint(train: Split, classes: tuple[str, ...], preprocessing: Preprocessing) -> str:
    return digest([pixel_digest(train.images), tensor_digest(train.labels), list(classes), preprocessing.hash])
