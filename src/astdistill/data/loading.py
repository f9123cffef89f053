"""`load_dataset`: loads the tensors for training experts and students, from a name or a configuration."""

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
from ..runtime.kinds import usual_torch
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
"""Minimum number of values per image for which a whitening is cached: fitting it then takes longer than reading it."""


@usual_torch()
def load_dataset(
    source: Any = "digits", *, device: str | torch.device = "auto", verify: bool = False, **fields: Any
) -> Dataset:
    """The data set that `source` and the fields of `DataConfig` describe, preprocessed, on one device.

    Single-channel 28×28 images of any source are padded to 32×32 unless `size` is given. Files whose path, size and
    times have not changed since the last call are not read again, and images already decoded are read from the cache.

    Args:
        source: A known name, a hub name, a folder, a file of arrays, a Hugging Face `Dataset` or `DatasetDict`, or a
            whole `DataConfig`, in which `fields` replace single settings.
        device: Device of the images, such as "cpu" or "cuda:1". "auto" is the CUDA GPU if a usable one is available,
            otherwise the CPU.
        verify: Read and check every byte of the files and of the cache.
        **fields: Fields of `DataConfig` by name, such as `whiten="zca"` or `per_class=100`.

    Returns:
        The data set, its images `[N, C, H, W]` as networks see them.

    Raises:
        InputError: If the data or the settings cannot be used; the message is one sentence.
    """
    if not isinstance(source, str | os.PathLike | DataConfig):
        from .tensors import dataset_from_splits  # which imports this module

        return dataset_from_splits(source, device, fields)
    config = resolved(source, fields)
    return assemble(read(config, verify), config.replace(source=_named_source(config.source)), device)


def _named_source(source: str) -> str:
    """The source with a folder name for display in tables and pages: `../photos` for `.` in the folder photos."""
    if Path(source).name not in ("", ".."):
        return source
    return os.path.normpath(os.path.join(source, "..", Path(source).resolve().name))


def resolved(source: Any, fields: dict[str, Any]) -> DataConfig:
    """The configuration with `fields` replaced. Raises InputError for an unknown field or a value out of range."""
    settings = DataConfig.model_fields
    for name in fields:
        if name not in settings:
            raise unknown("data setting", name, settings)
    start = (
        {name: getattr(source, name) for name in settings}
        if isinstance(source, DataConfig)
        else {"source": str(source)}
    )
    try:
        return DataConfig.model_validate(start | fields)
    except ValidationError as error:
        raise refused(error) from error


def assemble(raw: RawData, config: DataConfig, device: str | torch.device = "auto") -> Dataset:
    """The raw images divided into parts and preprocessed; the preprocessing is fitted on the final training part."""
    device, count = settled_device(device), len(raw.classes)
    _check_every_class(raw.train, raw.classes, "")
    raw = _with_test_part(raw, config.seed)
    train, test = raw.train, raw.test
    if test is None or not len(test):
        raise InputError(f"{raw.name} has no test images of these classes; add a test part with at least one image.")
    train = rows_of(train, first_of_each(train.labels, count, config.per_class))
    validation = None
    if config.validation:
        train, validation = _split_validation(train, raw, config)
    images = sum(len(part) for part in (train, test, validation) if part is not None)
    memory = residence(config.memory, images, train.images.shape[1:], config.whiten, device)
    if torch.device(device).type == "cpu":
        _check_memory([part for part in (train, test, validation) if part is not None], memory, raw.name)
    preprocessing = _fit_preprocessing(train, raw.name, config.whiten)

    fingerprint = _fingerprint(train, raw.classes, preprocessing)

    def split(part: Split, name: str) -> Split:
        stored = _store_images(part.images, memory, preprocessing, device, raw.name)
        if isinstance(stored, MappedImages):
            stored.origin = Origin(config, fingerprint, name)
        return Split(stored, part.labels.to(device))

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
    """The file on this machine with the images that another machine stores at `path`, created from the same source with
    the same fingerprint. Raises InputError if the source is missing or differs."""
    named_by_part = path.name.startswith(("train.", "test."))
    if path.exists() and (origin is None or not named_by_part):  # the file name is a hash of the content
        return path
    if origin is None:
        raise InputError(
            f"{path} is not on {platform.node()}; put the cache where all nodes see it (ASTDISTILL_CACHE), or take "
            "--data.memory uint8."
        )
    source = origin.config.source
    try:
        dataset = _reload_dataset(origin.config.model_dump_json())
    except InputError as error:
        raise InputError(
            f"{platform.node()} cannot read the data: {error} Put '{source}' where all nodes see it, or take "
            "--data.memory uint8."
        ) from error
    images = getattr(dataset, origin.part).images
    assert isinstance(images, MappedImages)
    same_file = images.path.name == path.name and (not named_by_part or images.path.parent.name == path.parent.name)
    if dataset.fingerprint != origin.fingerprint or not same_file:
        raise InputError(
            f"'{source}' holds other images on {platform.node()} than where the command runs (fingerprints "
            f"{dataset.fingerprint[:12]} and {origin.fingerprint[:12]}); copy the data again, or name a folder that "
            "all nodes share."
        )
    return images.path


@lru_cache(maxsize=2)
def _reload_dataset(config: str) -> Dataset:
    """The data set of a configuration in JSON, loaded in this process with the pixels in a file."""
    return load_dataset(DataConfig.model_validate_json(config), memory="disk")


def _with_test_part(raw: RawData, seed: int) -> RawData:
    """The set with a test part: the existing one, or `TEST_SHARE` of the training images of every class."""
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


def _split_validation(train: Split, raw: RawData, config: DataConfig) -> tuple[Split, Split]:
    """The remaining training part and the held-out validation part."""
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


def _check_every_class(part: Split, classes: tuple[str, ...], hint: str) -> None:
    if len(classes) < 2:
        raise InputError(
            f"The data have fewer than two classes ({', '.join(classes)}); at least two are needed; name with "
            "--data a folder with a folder of pictures for each class, or a table with their labels."
        )
    sizes = torch.bincount(part.labels, minlength=len(classes))
    if not bool((sizes > 0).all()):
        empty = classes[int((sizes == 0).nonzero()[0])]
        hint = hint or "; add some, leave the class out with --data.classes, or number the labels 0..K-1"
        raise InputError(f"Class '{empty}' has no training images{hint}.")


def _fit_preprocessing(train: Split, name: str, whiten: str) -> Preprocessing:
    channels, height, width = train.images.shape[1:]
    shape = (channels, height, width)
    if whiten == "none":
        return Preprocessing.none(shape)
    if whiten == "standard":
        published = published_statistics(name)
        return Preprocessing.standard(*published, shape) if published and channels == 3 else fit_standard(train.images)
    if channels * height * width < CACHED_ZCA:
        return _fit_whitening(train, whiten)
    stored = cached(whiten, [pixel_digest(train.images), ZCA_EPS], lambda: _fit_stored_whitening(train, whiten))
    return Preprocessing.restore(stored.header["preprocessing"], stored.tensors)


def _fit_whitening(train: Split, whiten: str) -> Preprocessing:
    if whiten == "rat":
        return fit_rat(train.images, pixel_digest(train.images), ZCA_EPS)
    return fit_zca(train.images, ZCA_EPS)


def _fit_stored_whitening(train: Split, whiten: str) -> Stored:
    with phase(f"fitting the {MIXING[whiten]} whitening to {len(train):,} images"):
        preprocessing = _fit_whitening(train, whiten)
    return Stored(preprocessing.tensors(), {"preprocessing": preprocessing.describe()})


def _check_memory(parts: Sequence[Split], memory: Residence, name: str) -> None:
    """Raise InputError before allocation if the images do not fit into the free memory: the system would kill the
    process without a message. Bytes that are already in memory need no further memory."""
    allocated = [part for part in parts if memory != "uint8" or isinstance(part.images, MappedImages)]
    needed, free = sum(held_bytes(memory, len(part), part.images.shape[1:]) for part in allocated), free_memory()
    if free is None or needed <= free:
        return
    alternative = {"float32": "--data.memory uint8 or disk"}.get(memory, "--data.memory disk")
    raise InputError(
        f"The {sum(map(len, parts)):,} images of {name} take {size(needed)} of memory as {memory}, and {size(free)} "
        f"are free; end other programs, or choose {alternative}."
    )


def _store_images(
    pixels: StoredImages, memory: Residence, preprocessing: Preprocessing, device: str | torch.device, name: str
) -> Images | ByteImages | MappedImages:
    if memory == "float32":
        return float_images(pixels, preprocessing, device)
    if memory == "uint8":
        return byte_images(pixels, preprocessing, device)
    mapped = pixels if isinstance(pixels, MappedImages) else in_file(pixels, name)
    return mapped.prepared(preprocessing, device)


def _fingerprint(train: Split, classes: tuple[str, ...], preprocessing: Preprocessing) -> str:
    return digest([pixel_digest(train.images), tensor_digest(train.labels), list(classes), preprocessing.hash])
