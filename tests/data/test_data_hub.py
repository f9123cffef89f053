from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from astdistill.data.loading import load_dataset
from astdistill.data.parquet import split_files
from astdistill.runtime.errors import InputError

NAMES = ["apple", "bear", "cup"]


def png(image: torch.Tensor) -> dict[str, Any]:
    array = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(array.numpy()).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def table(images: torch.Tensor, labels: list[int], **more: Any) -> datasets.Dataset:
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=NAMES),
            **{name: datasets.Value("int64") for name in more},
        }
    )
    return datasets.Dataset.from_dict(
        {"img": [png(image) for image in images], "fine_label": labels, **more}, features=features
    )


@pytest.fixture
def parquet(tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> Path:
    """The hub's layout: two training files and a test file in data/."""
    folder = tmp_path / "things"
    (folder / "data").mkdir(parents=True)
    images = pixels(18, 3, 8, 8)
    for number in range(2):
        table(images[6 * number : 6 * number + 6], [0, 1, 2] * 2).to_parquet(
            folder / f"data/train-0000{number}-of-00002.parquet"
        )
    table(images[12:], [2, 1, 0] * 2).to_parquet(folder / "data/test-00000-of-00001.parquet")
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any use of the network fails at once."""
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_parquet_folder_without_network(parquet: Path, pixels: Callable[..., torch.Tensor]) -> None:
    found = load_dataset(str(parquet), whiten="none")
    assert (found.name, found.classes) == ("things", tuple(NAMES))
    assert torch.equal((found.train.whole() * 255).round().to(torch.uint8), pixels(18, 3, 8, 8)[:12])
    assert torch.equal((found.test.whole() * 255).round().to(torch.uint8), pixels(18, 3, 8, 8)[12:])
    assert found.train.labels.tolist() == [0, 1, 2] * 4
    assert found.test.labels.tolist() == [2, 1, 0] * 2


def test_classes_are_chosen_before_decoding(parquet: Path, pixels: Callable[..., torch.Tensor]) -> None:
    found = load_dataset(str(parquet), classes=["cup", "apple"], whiten="none")
    assert found.classes == ("cup", "apple")
    assert load_dataset(str(parquet), classes=[2, 0], whiten="none").fingerprint == found.fingerprint
    assert found.train.labels.tolist() == [1, 0] * 4
    rows = [0, 2, 3, 5, 6, 8, 9, 11]
    assert torch.equal((found.train.whole() * 255).round().to(torch.uint8), pixels(18, 3, 8, 8)[rows])
    assert load_dataset(str(parquet), first_classes=2).classes == ("apple", "bear")


def test_an_unreadable_row_is_named(tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> None:
    cells = [png(image) for image in pixels(4, 3, 8, 8)]
    cells[2]["bytes"] = cells[2]["bytes"][:30]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES[:2])})
    whole = datasets.Dataset.from_dict({"img": cells, "label": [0, 1, 0, 1]}, features=features)
    whole.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"Image 2 of .*train part cannot be read as an image"):
        load_dataset(str(tmp_path))


def test_a_broken_parquet_file(parquet: Path) -> None:
    file = parquet / "data/train-00000-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(
        InputError, match=r"The parquet file .*train-00000-of-00002.parquet cannot be read .*replace the broken file"
    ):
        load_dataset(str(parquet))


def test_plain_parquet_without_class_names_or_a_test_part(tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> None:
    import pyarrow
    import pyarrow.parquet

    cells = [png(image) for image in pixels(20, 1, 8, 8)]
    pyarrow.parquet.write_table(pyarrow.table({"picture": cells, "digit": [0, 1] * 10}), tmp_path / "all.parquet")
    found = load_dataset(str(tmp_path))
    assert (found.classes, found.shape, len(found.train), len(found.test)) == (("0", "1"), (1, 8, 8), 16, 4)


def test_an_unlabelled_test_part_gives_way_to_validation(tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> None:
    images = pixels(12, 3, 8, 8)
    table(images[:6], [0, 1, 2] * 2).to_parquet(tmp_path / "train-0.parquet")
    table(images[6:9], [-1, -1, -1]).to_parquet(tmp_path / "test-0.parquet")
    table(images[9:], [2, 1, 0]).to_parquet(tmp_path / "validation-0.parquet")
    assert load_dataset(str(tmp_path)).test.labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["train-0.parquet", "test-0.parquet"], {"train": ["train-0.parquet"], "test": ["test-0.parquet"]}),
        (
            ["data/train-0.parquet", "data/valid-0.parquet"],
            {"train": ["data/train-0.parquet"], "validation": ["data/valid-0.parquet"]},
        ),
        (["train/0000.parquet", "test/0000.parquet"], {"train": ["train/0000.parquet"], "test": ["test/0000.parquet"]}),
        (["trainer.parquet", "b.parquet"], {"train": ["trainer.parquet", "b.parquet"]}),
    ],
)
def test_split_files(files: list[str], expected: dict[str, list[str]]) -> None:
    folder = Path("set")
    assert split_files(folder, [folder / name for name in files]) == {
        split: [folder / name for name in names] for split, names in expected.items()
    }


def test_two_configurations_in_one_folder_are_refused() -> None:
    with pytest.raises(InputError, match=r"several folders \(full.train, small.train\)"):
        split_files(Path("set"), [Path("set/full/train/0.parquet"), Path("set/small/train/0.parquet")])


def test_a_named_label_column_of_text_is_numbered(tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> None:
    features = datasets.Features({"img": datasets.Image(), "name": datasets.Value("string")})
    cells = {"img": [png(image) for image in pixels(10, 3, 8, 8)], "name": ["b", "a"] * 5}
    datasets.Dataset.from_dict(cells, features=features).to_parquet(tmp_path / "train.parquet")
    found = load_dataset(str(tmp_path), label_column="name", whiten="none")
    assert (found.classes, found.class_sizes()) == (("a", "b"), [4, 4])


def both(train: datasets.Dataset, test: datasets.Dataset) -> datasets.DatasetDict:
    return datasets.DatasetDict({"train": train, "test": test})


class Hub:
    """Stands in for `datasets.load_dataset` and remembers what was asked of it."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, []

    def __call__(self, path: str, name: str | None = None, **_: Any) -> Any:
        self.asked.append((path, name))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("source", "asked", "name"),
    [
        ("cifar10", ("uoft-cs/cifar10", None), "cifar10"),
        ("cifar100", ("uoft-cs/cifar100", None), "cifar100"),
        ("svhn", ("ufldl-stanford/svhn", "cropped_digits"), "svhn"),
        ("someone/their-set", ("someone/their-set", None), "their-set"),
        ("someone/their-set:small", ("someone/their-set", "small"), "their-set"),
    ],
)
def test_hub_names(
    monkeypatch: pytest.MonkeyPatch,
    pixels: Callable[..., torch.Tensor],
    source: str,
    asked: tuple[str, str | None],
    name: str,
) -> None:
    images = pixels(12, 3, 8, 8)
    coarse = [0] * 6
    train, test = (table(part, [0, 1, 2] * 2, coarse_label=coarse) for part in (images[:6], images[6:]))
    hub = Hub(both(train, test))
    monkeypatch.setattr(datasets, "load_dataset", hub)
    found = load_dataset(source, whiten="none")
    assert hub.asked == [asked]
    assert (found.name, found.classes) == (name, tuple(NAMES))
    assert torch.equal((found.train.whole() * 255).round().to(torch.uint8), images[:6])


@pytest.mark.parametrize("source", ["mnist", "fashion_mnist", "someone/other-digits"])
def test_grey_images_of_28_pixels_are_padded_unless_a_size_is_given(
    monkeypatch: pytest.MonkeyPatch, pixels: Callable[..., torch.Tensor], source: str
) -> None:
    images = pixels(12, 1, 28, 28)
    monkeypatch.setattr(
        datasets, "load_dataset", Hub(both(table(images[:6], [0, 1, 2] * 2), table(images[6:], [0, 1, 2] * 2)))
    )
    found = load_dataset(source, whiten="none")
    assert found.shape == (1, 32, 32)
    assert torch.equal((found.train.whole()[:, :, 2:-2, 2:-2] * 255).round().to(torch.uint8), images[:6])
    assert found.train.whole().count_nonzero() == images[:6].count_nonzero()
    assert load_dataset(source, size=28).shape == (1, 28, 28)


@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), ValueError("Config name is missing"), RuntimeError("x")]
)
def test_hub_errors_name_the_local_folder(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(datasets, "load_dataset", Hub(error))
    with pytest.raises(InputError, match=rf"'uoft-cs/cifar10' cannot be read.*{error}.*--data FOLDER"):
        load_dataset("cifar10")


def test_prepared_hub_files_are_cached_by_content(
    monkeypatch: pytest.MonkeyPatch, parquet: Path, tmp_path: Path, cache: Path
) -> None:
    files = {split: str(parquet / f"data/{split}-*.parquet") for split in ("train", "test")}
    prepared = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "hf"))
    monkeypatch.setattr(datasets, "load_dataset", Hub(prepared))
    first = load_dataset("cifar10")
    assert len(list(cache.glob("cifar10-*/data.json"))) == 1
    monkeypatch.setattr("astdistill.data.sources.decoded", None)
    assert load_dataset("cifar10").fingerprint == first.fingerprint


def test_progress_bars_are_left_as_they_were(parquet: Path, cache: Path) -> None:
    assert not datasets.are_progress_bars_disabled()
    load_dataset(str(parquet))
    assert not datasets.are_progress_bars_disabled()
    assert {path.name for path in cache.iterdir() if path.name[0] != "."} == {
        path.parent.name for path in cache.glob("*/data.json")
    }
    assert not list(cache.glob("parquet-*"))


@pytest.mark.slow
@pytest.mark.skipif(
    "ASTDISTILL_CIFAR100" not in os.environ, reason="set ASTDISTILL_CIFAR100 to a folder of CIFAR-100's parquet files"
)
def test_the_real_cifar100(tmp_path: Path) -> None:
    folder = tmp_path / "cifar100"
    shutil.copytree(os.environ["ASTDISTILL_CIFAR100"], folder)
    found = load_dataset(str(folder), first_classes=10)
    assert (len(found.train), len(found.test), found.shape) == (5000, 1000, (3, 32, 32))
    assert found.classes[:3] == ("apple", "aquarium_fish", "baby")
    np.testing.assert_allclose(found.preprocessing.tensors()["mean"].numpy(), [0.4914, 0.4822, 0.4465], rtol=1e-6)
