"""Distilled sets of other code bases: what is in their three files arrives, and what does not fit is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import TINY, blobs
from reference_mtt import Touch

import astdistill
from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import load
from astdistill.evaluation.protocol import PROTOCOLS
from astdistill.evaluation.runner import evaluate
from astdistill.interop.import_sets import import_set
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import rng

COUNT, CLASSES = 6, 3


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs(whiten="zca")


def images(count: int = COUNT, *shape: int) -> torch.Tensor:
    return torch.randn(count, *(shape or (1, 8, 8)), generator=rng(0, "images"))


def logits(count: int = COUNT, classes: int = CLASSES) -> torch.Tensor:
    return torch.randn(count, classes, generator=rng(0, "logits"))


def write(folder: Path, **files: Any) -> Path:
    """Files by their names without `.pt`; None leaves one out."""
    usual = {"images_best": images(), "labels_best": torch.arange(3).repeat_interleave(2), "lr": torch.tensor(0.02)}
    folder.mkdir(exist_ok=True)
    for name, content in (usual | files).items():
        if content is not None:
            torch.save(content, folder / f"{name}.pt")
    return folder


def test_everything_arrives_and_the_run_folder_can_be_evaluated(tmp_path: Path, dataset: Dataset) -> None:
    found = astdistill.import_set(
        write(tmp_path / "mtt"), dataset, model=TINY, out=tmp_path / "run", method="tesla", momentum=0.5
    )
    kept = load(tmp_path / "run")
    assert torch.equal(found.images, images())
    assert torch.equal(kept.images, images())
    assert kept.hard_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert float(kept.lr) == pytest.approx(0.02)
    assert (kept.labels, kept.ipc, kept.model, kept.method, kept.momentum) == ("hard", 2, TINY, "tesla", 0.5)
    assert (kept.classes, kept.preprocessing.hash) == (dataset.classes, dataset.preprocessing.hash)
    assert kept.data == dataset.config
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "synthetic.safetensors",
        "images.png",
        "report.html",
    }
    scores = evaluate(kept, dataset, recipe=PROTOCOLS["mtt"].replace(epochs=2), seeds=1)
    assert scores.architecture[TINY].n == 1


def test_ftds_moving_average_is_read_with_its_own_labels(tmp_path: Path, dataset: Dataset) -> None:
    """FTD writes it apart, without a learning rate; beside the plain images it is what FTD's figures are of."""
    averaged, labels = images() + 1.0, torch.tensor([0, 1, 2, 0, 1, 2])
    files = {"ema_images_best": averaged, "ema_labels_best": labels, "images_best": None, "labels_best": None}
    folder = write(tmp_path / "ftd", **files, lr=None)
    with pytest.raises(InputError, match=r"holds no lr\.pt or lr_best\.pt; give the learned learning rate"):
        import_set(folder, dataset, model=TINY)
    wanted = averaged[[0, 3, 1, 4, 2, 5]]
    assert torch.equal(import_set(folder, dataset, model=TINY, lr=0.03).images, wanted)
    both = write(folder, images_best=images(), labels_best=labels.flip(0))
    assert torch.equal(import_set(both, dataset, model=TINY).images, wanted)


def test_textures_arrive_as_such_and_are_not_taken_for_larger_images(tmp_path: Path, dataset: Dataset) -> None:
    canvases = images(COUNT, 1, 16, 16)
    folder = write(tmp_path / "a", images_best=canvases)
    import_set(folder, dataset, model=TINY, canvas=2, canvas_samples=3, out=tmp_path / "out")
    found = load(tmp_path / "out")
    assert torch.equal(found.images, canvases)
    assert (found.canvas, found.canvas_samples, found.shape) == (2, 3, dataset.shape)
    for canvas, wanted in ((1, r"\[1, 8, 8\]"), (3, r"\[1, 24, 24\]")):
        with pytest.raises(
            InputError,
            match=rf"has shape \[6, 1, 16, 16\], and images of 'blobs' {wanted}; .* of textures the --canvas",
        ):
            import_set(folder, dataset, model=TINY, canvas=canvas, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_soft_labels_are_logits(tmp_path: Path, dataset: Dataset) -> None:
    found = import_set(write(tmp_path / "a", labels_best=logits().requires_grad_()), dataset, model=TINY)
    assert (found.labels, found.targets.requires_grad) == ("soft", False)
    assert torch.equal(found.targets, logits())


def test_distributions_become_their_logits_and_one_hot_rows_hard_labels(tmp_path: Path, dataset: Dataset) -> None:
    shares = logits().softmax(1)
    soft = import_set(write(tmp_path / "a", labels_best=shares), dataset, model=TINY)
    torch.testing.assert_close(soft.probabilities, shares)
    hard = import_set(write(tmp_path / "b", labels_best=torch.eye(3).repeat(2, 1)), dataset, model=TINY)
    assert hard.labels == "hard"
    assert torch.equal(hard.images, images()[[0, 3, 1, 4, 2, 5]])


def test_hard_labels_in_any_order_are_grouped_with_their_images(tmp_path: Path, dataset: Dataset) -> None:
    found = import_set(write(tmp_path / "a", labels_best=torch.tensor([2, 0, 1, 1, 0, 2]).float()), dataset, model=TINY)
    assert torch.equal(found.images, images()[[1, 4, 2, 3, 0, 5]])
    assert found.hard_labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_without_labels_images_are_grouped_by_class(tmp_path: Path, dataset: Dataset) -> None:
    found = import_set(write(tmp_path / "a", labels_best=None), dataset, model=TINY)
    assert torch.equal(found.images, images())
    assert found.hard_labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("files", "given", "rate"),
    [
        ({"lr": None}, 0.5, 0.5),
        ({}, 0.5, 0.5),
        ({"lr": None, "lr_best": 0.25}, None, 0.25),
        ({"lr": torch.tensor([0.25]).requires_grad_()}, None, 0.25),
    ],
    ids=["given", "given instead", "a number in lr_best.pt", "one element"],
)
def test_the_step_size_comes_from_its_file_or_the_flag(
    tmp_path: Path, dataset: Dataset, files: dict, given: float, rate: float
) -> None:
    found = import_set(write(tmp_path / "a", **files), dataset, model=TINY, lr=given)
    assert torch.equal(found.lr, torch.tensor(rate))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"images_best": None}, r"holds no images_best\.pt \(it has labels_best\.pt, lr\.pt\); name the folder"),
        (
            {"images_best": images(6, 1, 10, 10)},
            r"has shape \[6, 1, 10, 10\], and images of 'blobs' \[1, 8, 8\]; .*--data\.size",
        ),
        ({"images_best": images(6, 3, 8, 8)}, r"has shape \[6, 3, 8, 8\]"),
        ({"images_best": images()[0]}, r"has shape \[1, 8, 8\]"),
        ({"images_best": images(7)}, r"holds 7 images, which cannot be the same number of each of the 3 classes"),
        ({"images_best": images(0)}, r"holds 0 images"),
        ({"images_best": [images()]}, r"images_best\.pt holds a list, where a tensor"),
        ({"images_best": images() / 0}, r"holds numbers that are not finite"),
        ({"labels_best": torch.arange(6)}, r"has labels 0 to 5, and 'blobs' has classes 0 to 2"),
        ({"labels_best": torch.tensor([0, 0, 0, 1, 1, 2])}, r"gives class 2 1 images and class 0 3"),
        ({"labels_best": torch.tensor([0, 0, 1])}, r"has shape \[3\], where 6 class numbers are expected"),
        ({"labels_best": torch.full((6,), 0.5)}, r"class numbers are expected"),
        ({"labels_best": logits(6, 10)}, r"has shape \[6, 10\], where 6 images of 3 classes need \[6, 3\]"),
        ({"labels_best": logits(5)}, r"has shape \[5, 3\]"),
        ({"lr": None}, r"holds no lr\.pt or lr_best\.pt; give the learned learning rate .* with --lr"),
        ({"lr": torch.tensor(-0.1)}, r"lr\.pt gives the learning rate -0\.1, with which no network trains"),
        ({"lr": torch.tensor([0.1, 0.2])}, r"lr\.pt gives the learning rate nan"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_does_not_fit_is_refused(tmp_path: Path, dataset: Dataset, files: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        import_set(write(tmp_path / "a", **files), dataset, model=TINY, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["images_best", "labels_best", "lr"])
def test_a_malicious_file_is_refused_and_does_nothing(tmp_path: Path, dataset: Dataset, name: str) -> None:
    folder = write(tmp_path / "a", **{name: [torch.zeros(1), Touch(tmp_path / "touched")]})
    with pytest.raises(InputError, match=rf"{name}\.pt holds 'posix\.system', which is no tensor"):
        import_set(folder, dataset, model=TINY, out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_cut_file_and_a_folder_in_use_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    folder = write(tmp_path / "a")
    with pytest.raises(
        InputError, match=r"a exists already and is not an empty folder; name a new one, for example --out"
    ):
        import_set(folder, dataset, model=TINY, out=folder)
    os.truncate(folder / "images_best.pt", 1000)
    with pytest.raises(InputError, match=r"images_best\.pt is not a whole file of torch\.save"):
        import_set(folder, dataset, model=TINY, out=tmp_path / "out")
    assert len(list(folder.iterdir())) == 3


def test_a_network_that_there_is_not_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(InputError, match="Did you mean"):
        import_set(write(tmp_path / "a"), dataset, model="convnt")
