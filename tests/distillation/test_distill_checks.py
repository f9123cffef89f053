"""What does not fit is said at the entrance, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from problems import blobs, tiny_experts
from short_methods import AST, AST_AS_RELEASED, MTT, with_numbers

from astdistill.data.dataset import Dataset
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.experts.store import TrajectoryStore
from astdistill.methods.method import Method
from astdistill.runtime.errors import InputError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def check_refused(
    sentence: str,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    out: Path,
    method: Method = AST,
    ipc: int = 2,
) -> None:
    with pytest.raises(InputError, match=sentence):
        distill(dataset, experts, method=method, ipc=ipc, settings=settings, out=out)
    assert not out.exists()


@pytest.mark.parametrize(("starts", "matched", "advice"), [(6, 2, 5), (5, 3, 4), (1, 7, 1), (40, 2, 5)])
def test_segments_beyond_the_trajectory(
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    out: Path,
    starts: int,
    matched: int,
    advice: int,
) -> None:
    """The trap: max_start_epoch + expert_epochs beyond the stored epochs was found at a random iteration."""
    sentence = (
        rf"{matched} matched epochs reach epoch {starts - 1 + matched}, but .* 6; choose "
        rf"--method.step.max-start-epoch {advice} or less"
    )
    method = with_numbers(AST, max_start_epoch=starts, expert_epochs=matched, syn_steps=8)
    check_refused(sentence, dataset, experts, settings, out, method=method)


def test_the_last_segment_that_fits_is_taken(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    fits, longer = with_numbers(MTT, max_start_epoch=5, expert_epochs=2, syn_steps=2), settings.replace(iterations=30)
    assert distill(dataset, experts, method=fits, ipc=1, settings=longer).provenance["iteration"] == 30


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda: blobs(validation=0.25, whiten="zca"), "preprocessing"),
        (lambda: blobs(validation=0.25, whiten="none"), "preprocessing"),
        (lambda: blobs(validation=0.25, whiten="none", seed=1), "preprocessing"),
        (lambda: blobs(), "preprocessing|data"),
        (lambda: blobs(classes=4), "classes"),
        (lambda: blobs(shape=(1, 10, 8)), "shape"),
    ],
    ids=["zca", "none", "other images", "no held-out images", "classes", "shape"],
)
def test_other_data_than_the_experts_saw(
    experts: TrajectoryStore, settings: DistillSettings, out: Path, other, what: str
) -> None:
    check_refused(
        rf"were trained on other data \(({what}) .* than the set 'blobs' given here", other(), experts, settings, out
    )


def test_the_same_preprocessing_of_other_pixels(tmp_path: Path, settings: DistillSettings, out: Path) -> None:
    experts = tiny_experts(tmp_path / "experts", blobs(whiten="none"), count=1)
    check_refused(r"were trained on other data \(data ", blobs(whiten="none", seed=1), experts, settings, out)


@pytest.mark.parametrize("ipc", [0, 19, 1000, -1])
def test_more_images_per_class_than_there_are(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, out: Path, ipc: int
) -> None:
    check_refused(
        rf"{ipc} images per class were asked for, but class '\d' has 18 training images",
        dataset,
        experts,
        settings,
        out,
        ipc=ipc,
    )


def test_an_initialisation_that_cannot_serve(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, out: Path
) -> None:
    check_refused("use a multiple of 10", dataset, experts, settings, out, method=AST_AS_RELEASED, ipc=5)


def test_more_matched_epochs_than_inner_steps(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, out: Path
) -> None:
    short = with_numbers(AST, syn_steps=1)
    check_refused("1 inner steps cannot visit 2 matched epochs", dataset, experts, settings, out, method=short)
    assert distill(dataset, experts, method=with_numbers(MTT, syn_steps=1), ipc=1, settings=settings).ipc == 1


def test_validation_without_held_out_images(tmp_path: Path, settings: DistillSettings, out: Path) -> None:
    whole = blobs()
    experts = tiny_experts(tmp_path / "experts", whole, count=1)
    check_refused(
        "needs images held out of the training data; load them with --data.validation 0.1",
        whole,
        experts,
        settings.replace(validate_every=5),
        out,
    )


def test_a_store_without_experts(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, out: Path
) -> None:
    empty = TrajectoryStore.create(tmp_path / "experts", experts.identity, dataset.config, dataset.preprocessing)
    check_refused("holds no finished expert; train some with: astdistill experts", dataset, empty, settings, out)


def test_more_experts_than_there_are(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, out: Path
) -> None:
    check_refused(
        "3 experts were asked for, but .* holds 2; train more, or lower --distill.max-experts",
        dataset,
        experts,
        settings.replace(max_experts=3),
        out,
    )


def test_an_unknown_augmentation(settings: DistillSettings) -> None:
    with pytest.raises(ValueError, match="There is no augmentation 'flop'"):
        settings.replace(augmentation="flop_scale")
