from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astdistill.data.dataset import DataConfig
from astdistill.data.loading import ZCA_EPS, load_dataset
from astdistill.data.preprocessing import Preprocessing, fit_standard, fit_zca
from astdistill.data.sources import published_name
from astdistill.runtime.errors import InputError


@pytest.fixture
def own(tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> str:
    """Three classes in turn, twenty training images of each, nine test images; every image differs."""
    images = pixels(69, 3, 8, 8).numpy()
    labels = np.arange(69) % 3
    path = tmp_path / "own.npz"
    np.savez(
        path, x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:], classes=["x", "y", "z"]
    )
    return str(path)


def test_a_configuration_and_fields_that_change_it() -> None:
    config = DataConfig(source="digits", whiten="none", per_class=5)
    loaded = load_dataset(config, first_classes=3)
    assert loaded.class_sizes() == [5, 5, 5]
    assert loaded.config == config.replace(first_classes=3)
    assert load_dataset(loaded.config).fingerprint == loaded.fingerprint


def test_standard_is_fitted_on_what_remains_for_training(own: str) -> None:
    loaded = load_dataset(own, validation=0.25, per_class=12)
    assert loaded.validation is not None
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (27, 9, 9)
    torch.testing.assert_close(loaded.train.whole().mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(loaded.train.whole().std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    pixels = (loaded.preprocessing.invert(loaded.train.whole()) * 255).round().to(torch.uint8)
    assert fit_standard(pixels).hash == loaded.preprocessing.hash


def test_zca_is_fitted_on_what_remains_and_applied_alone(own: str) -> None:
    plain, white = (load_dataset(own, whiten=kind, validation=0.25) for kind in ("none", "zca"))
    fitted = fit_zca((plain.train.whole() * 255).round().to(torch.uint8), ZCA_EPS)
    assert white.preprocessing.hash == fitted.hash
    assert plain.validation is not None
    assert white.validation is not None
    for before, after in ((plain.train, white.train), (plain.test, white.test), (plain.validation, white.validation)):
        torch.testing.assert_close(fitted.apply(before.whole()), after.images, atol=1e-5, rtol=0)
        torch.testing.assert_close(white.preprocessing.invert(after.whole()), before.images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("folder", ["cifar10", "CIFAR-100"])
def test_cifar_folders_use_the_published_statistics(
    tmp_path: Path, write_pictures: Callable[..., None], folder: str
) -> None:
    for part in ("train", "test"):
        for name in "ab":
            write_pictures(tmp_path / folder / part / name, 2)
    published = Preprocessing.standard([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010], (3, 8, 8))
    assert load_dataset(str(tmp_path / folder)).preprocessing.hash == published.hash
    (tmp_path / folder).rename(tmp_path / "other")
    assert load_dataset(str(tmp_path / "other")).preprocessing.hash != published.hash


def test_published_names() -> None:
    assert [published_name(name) for name in ("CIFAR-100", "Fashion-MNIST", "cifar_10", "mine")] == [
        "cifar100",
        "fashion_mnist",
        "cifar10",
        "mine",
    ]


def test_held_out_images_are_disjoint_and_stratified(own: str) -> None:
    whole, divided = load_dataset(own, whiten="none"), load_dataset(own, whiten="none", validation=0.25)
    assert divided.validation is not None
    assert torch.bincount(divided.validation.labels).tolist() == [5, 5, 5]
    both = torch.cat([divided.train.whole(), divided.validation.whole()]).flatten(1)
    assert len(both.unique(dim=0)) == 60
    assert torch.equal(both.unique(dim=0), whole.train.whole().flatten(1).unique(dim=0))
    for part in (divided.train, divided.validation):
        for image, label in zip(part.whole(), part.labels, strict=True):
            row = int((whole.train.whole() == image).flatten(1).all(dim=1).nonzero())
            assert whole.train.labels[row] == label
    other = load_dataset(own, whiten="none", validation=0.25, seed=1)
    assert other.fingerprint != divided.fingerprint


def test_per_class_takes_the_first_in_stored_order(own: str) -> None:
    whole, few = load_dataset(own, whiten="none"), load_dataset(own, whiten="none", per_class=2)
    assert torch.equal(few.train.whole(), whole.train.images[:6])
    assert len(few.test) == len(whole.test)


def test_fingerprint_names_the_training_data(own: str, tmp_path: Path) -> None:
    one = load_dataset(own)
    Path(own).rename(tmp_path / "moved.npz")
    moved = str(tmp_path / "moved.npz")
    assert load_dataset(moved).fingerprint == one.fingerprint
    settings: list[dict[str, Any]] = [
        {"whiten": "none"},
        {"whiten": "zca"},
        {"per_class": 19},
        {"classes": ("x", "z", "y")},
    ]
    others = [load_dataset(moved, **change).fingerprint for change in settings]
    with np.load(moved) as file:
        arrays = dict(file)
    changes: list[dict[str, object]] = [
        {"classes": ["x", "y", "w"]},
        {"y_train": np.roll(arrays["y_train"], 1)},
        {"x_train": arrays["x_train"] ^ (np.arange(60) == 59)[:, None, None, None].astype(np.uint8)},
    ]
    for change in changes:
        np.savez(moved, **(arrays | change))  # pyright: ignore[reportArgumentType]
        others.append(load_dataset(moved).fingerprint)
    assert len({one.fingerprint, *others}) == 8


def test_images_are_float32_on_the_device_asked_for() -> None:
    digits = load_dataset("digits", device="cpu", whiten="zca")
    assert digits.train.whole().dtype == torch.float32
    assert digits.train.labels.dtype == torch.int64
    assert digits.train.whole().is_contiguous()


def test_size_of_arrays(own: str) -> None:
    assert load_dataset(own, size=16).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"whitn": "zca"}, "no data setting 'whitn'.*Did you mean 'whiten'"),
        ({"whiten": "pca"}, "whiten cannot be 'pca'"),
        ({"per_class": 0}, "per_class cannot be 0"),
        ({"validation": 1.0}, "validation cannot be 1.0"),
        ({"validation": 0.99}, r"Class '.' has no training images after a share of 0\.99 was held out"),
        ({"validation": 0.001}, "holds out none"),
        ({"classes": ["x", "q"]}, "no class 'q'"),
        ({"first_classes": 4}, "there are 3"),
        ({"classes": ["x", "y"], "first_classes": 2}, "only one of the two"),
    ],
)
def test_setting_errors(own: str, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_dataset(own, **fields)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nofolder", r"There is no data set, folder or file 'nofolder'\. Name a folder, an \.npz file, a hub name"),
        ("cifar11", r"There is no data set, folder or file 'cifar11'\. Did you mean 'cifar10"),
        ("./nowhere", "no file or folder ./nowhere"),
        ("nowhere.npz", "no file or folder nowhere.npz"),
        ("a/b/c", "no file or folder a/b/c"),
        ("tensors:mine", "dataset_from_tensors"),
    ],
)
def test_unknown_sources(source: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_dataset(source)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"data\.csv is no table, in UTF-8, with a column that names pictures below"):
        load_dataset(str(tmp_path / "data.csv"))


def test_a_class_without_training_images(tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> None:
    images = pixels(6, 8, 8).numpy()
    path = tmp_path / "own.npz"
    np.savez(path, x_train=images[:4], y_train=[0, 0, 2, 2], x_test=images[4:], y_test=[0, 2], classes=["x", "y", "z"])
    with pytest.raises(InputError, match="Class 'y' has no training images"):
        load_dataset(str(path))
    assert load_dataset(str(path), classes=["z", "x"]).train.labels.tolist() == [1, 1, 0, 0]
    np.savez(path, x_train=images[:4], y_train=[0, 1, 2, 2], x_test=images[4:], y_test=[2, 2], classes=["x", "y", "z"])
    with pytest.raises(InputError, match="no test images of these classes"):
        load_dataset(str(path), classes=["x", "y"])
    np.savez(path, images=images, labels=[0, 0, 0, 0, 1, 1])
    assert load_dataset(str(path)).class_sizes() == [3, 2]
