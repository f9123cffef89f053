"""Where X and Y start: how many of each class, no image twice, and every image with its own label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from problems import TINY, blobs, tiny_experts
from torch import Tensor

from astdistill.data.dataset import Dataset
from astdistill.data.selection import representatives
from astdistill.data.synthetic import SyntheticSet
from astdistill.data.tensors import dataset_from_tensors
from astdistill.data.textures import TextureSpec
from astdistill.experts.store import TrajectoryStore
from astdistill.methods.initialisation import (
    CorrectInit,
    ExpertLabels,
    ExpertTargetsAsReleased,
    FileInit,
    HardLabels,
    ImageInit,
    Initial,
    NoiseInit,
    RealInit,
    RepresentativeInit,
    RepresentativeInitAsReleased,
    SegmentLabels,
    UnitNormInit,
    expert_logits,
)
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import derive, rng


def places(dataset: Dataset, images: Tensor) -> list[int]:
    """Which training image each one is: found by its pixels, so that nothing the code says about indices is
    believed."""
    same = (images[:, None] == dataset.train.whole()[None]).flatten(2).all(dim=2)
    assert bool((same.sum(dim=1) == 1).all())
    return same.int().argmax(dim=1).tolist()


@pytest.mark.parametrize(
    "init", [RealInit(), RepresentativeInit(), CorrectInit()], ids=lambda part: type(part).__name__
)
@pytest.mark.parametrize("ipc", [1, 3, 10, 15, 24])
def test_the_right_number_of_each_class_none_twice_and_labels_with_their_images(
    init: ImageInit, ipc: int, dataset: Dataset, experts: TrajectoryStore, model: FlatModel
) -> None:
    found = init(dataset, experts, model, ipc, seed=0)
    chosen = places(dataset, found.images)
    assert len(set(chosen)) == len(chosen) == 3 * ipc
    assert found.labels.tolist() == dataset.train.labels[chosen].tolist()
    assert found.labels.tolist() == [label for label in range(3) for _ in range(ipc)]
    again = init(dataset, experts, model, ipc, seed=0)
    assert torch.equal(again.images, found.images)


def test_the_start_is_a_copy(dataset: Dataset, experts: TrajectoryStore, model: FlatModel) -> None:
    found = RealInit()(dataset, experts, model, 24, 0)
    before = dataset.train.whole().clone()
    found.images.zero_()
    found.labels.zero_()
    assert torch.equal(dataset.train.whole(), before)
    assert int(dataset.train.labels.max()) == 2


def test_another_seed_draws_other_images(dataset: Dataset, experts: TrajectoryStore, model: FlatModel) -> None:
    first, second = (places(dataset, RealInit()(dataset, experts, model, 3, seed).images) for seed in (0, 1))
    assert set(first) != set(second)


def final_logits(experts: TrajectoryStore, expert: int, dataset: Dataset, images: Tensor) -> Tensor:
    """By an ordinary module that holds the last row."""
    network = build_model(TINY, dataset.shape, 3)
    FlatModel(network).load(network, experts.rows(expert, 6, 7)[0])
    with torch.no_grad():
        return network.eval()(images)


def test_logits_are_those_of_one_expert_at_its_end(
    dataset: Dataset, experts: TrajectoryStore, model: FlatModel
) -> None:
    five = dataset.train.select(torch.arange(5))
    wanted = [final_logits(experts, expert, dataset, five.whole()) for expert in (0, 1)]
    drawn = set()
    for seed in range(12):
        found = expert_logits(experts, model, five, seed)
        assert torch.equal(found, expert_logits(experts, model, five, seed))
        near = [bool(torch.allclose(found, each, atol=1e-5)) for each in wanted]
        assert sum(near) == 1
        drawn.add(near.index(True))
    assert drawn == {0, 1}
    only = {tuple(expert_logits(experts.first(1), model, five, seed).flatten().tolist()) for seed in range(4)}
    assert len(only) == 1


@pytest.mark.parametrize("ipc", [1, 4])
def test_representatives_are_chosen_by_the_logits_of_their_class(
    ipc: int, dataset: Dataset, experts: TrajectoryStore, model: FlatModel
) -> None:
    found = places(dataset, RepresentativeInit()(dataset, experts.first(1), model, ipc, seed=0).images)
    for label in range(3):
        members = dataset.train.of_class(label)
        logits = final_logits(experts, 0, dataset, dataset.train.images[members])
        wanted = members[representatives(logits, ipc, derive(0, "init", label))]
        assert found[label * ipc : (label + 1) * ipc] == wanted.tolist()


@pytest.mark.parametrize("ipc", [1, 3, 9, 11, 15])
def test_the_released_initialisation_refuses_what_it_cannot_fill(ipc: int, dataset: Dataset) -> None:
    """At ipc below 10 it selects nothing, at 15 ten images that are then given fifteen labels."""
    with pytest.raises(
        InputError,
        match=rf"which is not {ipc} images per class; use a multiple of 10, or --method ast, or --without repr",
    ):
        RepresentativeInitAsReleased().check(dataset, ipc)
    RepresentativeInitAsReleased().check(dataset, 10 * ipc)
    RepresentativeInit().check(dataset, ipc)


@pytest.mark.parametrize("ipc", [10, 20])
def test_the_released_initialisation_takes_the_nearest_of_the_whole_class(
    ipc: int, dataset: Dataset, experts: TrajectoryStore, model: FlatModel
) -> None:
    from sklearn.cluster import KMeans

    found = RepresentativeInitAsReleased()(dataset, experts.first(1), model, ipc, seed=0)
    chosen = places(dataset, found.images)
    assert len(chosen) == 3 * 10 * int(ipc / 10)
    assert (
        found.labels.tolist()
        == dataset.train.labels[chosen].tolist()
        == [label for label in range(3) for _ in range(ipc)]
    )
    for label in range(3):
        members = dataset.train.of_class(label)
        logits = expert_logits(experts.first(1), model, dataset.train.select(members), 0).double()
        means: Any = KMeans
        centres = (
            means(10, n_init=4, random_state=derive(0, "init", label) % 2**32).fit(logits.numpy()).cluster_centers_
        )
        ours, each = chosen[label * ipc : (label + 1) * ipc], ipc // 10
        for number, centre in enumerate(torch.from_numpy(centres).double()):
            distance = {
                int(member): float(((row - centre) ** 2).sum()) for member, row in zip(members, logits, strict=True)
            }
            nearest = sorted(distance.values())[
                :each
            ]  # compared by distance: a centre halfway between two images has no one nearest
            assert [distance[place] for place in ours[number * each : (number + 1) * each]] == pytest.approx(
                nearest, rel=1e-9
            )


def test_noise(dataset: Dataset, experts: TrajectoryStore, model: FlatModel) -> None:
    found = NoiseInit()(dataset, experts, model, 50, seed=0)
    assert found.images.shape == (150, 1, 8, 8)
    assert abs(float(found.images.mean())) < 0.05
    assert abs(float(found.images.std()) - 1) < 0.05
    assert found.labels.tolist() == [label for label in range(3) for _ in range(50)]


def test_noise_keeps_its_scale_in_slots(dataset: Dataset, experts: TrajectoryStore, model: FlatModel) -> None:
    """Slots are means of pixels, and networks see them enlarged."""
    texture = TextureSpec(factor=2)
    for init in (NoiseInit(), UnitNormInit()):
        cells = init(dataset, experts, model, 100, seed=0).images
        stored = init.laid_out(cells, texture, (8, 8))
        assert stored.shape == (75, 1, 8, 8)
        if type(init) is NoiseInit:
            assert float(stored.std()) == pytest.approx(1, abs=0.05)
        else:
            assert texture.decoded(stored).flatten(1).norm(dim=1).tolist() == pytest.approx([1.0] * 300, rel=1e-5)
        assert torch.equal(init.laid_out(cells, TextureSpec(), (8, 8)), cells)


def test_targets(dataset: Dataset, experts: TrajectoryStore, model: FlatModel) -> None:
    initial = RealInit()(dataset, experts, model, 2, seed=0)
    hard = HardLabels()(initial, experts, model, 3, seed=0)
    assert hard.tolist() == [[1.0, 0.0, 0.0]] * 2 + [[0.0, 1.0, 0.0]] * 2 + [[0.0, 0.0, 1.0]] * 2
    soft = ExpertLabels()(initial, experts.first(1), model, 3, seed=0)
    torch.testing.assert_close(soft, final_logits(experts, 0, dataset, initial.images), rtol=0, atol=1e-5)
    assert (HardLabels.kind, ExpertLabels.kind) == ("hard", "soft")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, TrajectoryStore]:
    """A data set that is hard for its one expert: every fourth image carries another class's picture."""
    clean = blobs()
    train, test = (clean.preprocessing.invert(split.whole()).clamp(0, 1) for split in (clean.train, clean.test))
    train[::4] = train[::4].roll(1, dims=0)
    hard = dataset_from_tensors(train, clean.train.labels, test, clean.test.labels, name="mixed")
    return hard, tiny_experts(tmp_path_factory.mktemp("mixed"), hard, count=1)


@pytest.mark.parametrize("ipc", [2, 20, 24])
def test_the_start_is_what_the_expert_gets_right_and_then_what_it_nearly_does(
    ipc: int, mixed: tuple[Dataset, TrajectoryStore]
) -> None:
    dataset, store = mixed
    found = CorrectInit()(dataset, store, FlatModel(build_model(TINY, dataset.shape, 3)), ipc, seed=0)
    chosen, failed = places(dataset, found.images), 0
    for label in range(3):
        members = dataset.train.of_class(label).tolist()
        rows = final_logits(store, 0, dataset, dataset.train.whole()[members]).tolist()
        wrong_by = {member: max(row) - row[label] for member, row in zip(members, rows, strict=True)}
        right = {member for member, margin in wrong_by.items() if margin == 0}
        ours = chosen[label * ipc : (label + 1) * ipc]
        failed += len(members) - len(right)
        if ipc <= len(right):
            assert set(ours) <= right
        else:
            assert right <= set(ours)
            missing = sorted(wrong_by[member] for member in members if member not in right)
            assert [wrong_by[member] for member in ours[len(right) :]] == pytest.approx(
                missing[: ipc - len(right)], abs=1e-5
            )
    assert failed > 3


def test_smoothed_and_softened_targets(dataset: Dataset, experts: TrajectoryStore, model: FlatModel) -> None:
    initial = RealInit()(dataset, experts, model, 1, seed=0)
    smooth = HardLabels(smoothing=0.3)(initial, experts, model, 3, seed=0)
    torch.testing.assert_close(smooth, torch.full((3, 3), 0.1) + 0.7 * torch.eye(3))
    sharp, soft = (ExpertLabels(temperature=heat)(initial, experts, model, 3, seed=0) for heat in (1.0, 4.0))
    torch.testing.assert_close(soft, sharp / 4)


def test_datms_released_labels_are_the_mean_of_the_experts_that_are_right(
    dataset: Dataset, experts: TrajectoryStore, model: FlatModel
) -> None:
    """Image by image, on noise, so that some images are right for both experts, some for one, some for none."""
    real = RealInit()(dataset, experts, model, 8, seed=0)
    initial = Initial(3 * torch.randn(real.images.shape, generator=rng(0, "noise")), real.labels)
    found = ExpertTargetsAsReleased(temperature=2.0)(initial, experts, model, 3, seed=0)
    said, counts = [final_logits(experts, number, dataset, initial.images) for number in (0, 1)], set()
    for image, label in enumerate(initial.labels.tolist()):
        right = [logits[image] for logits in said if int(logits[image].argmax()) == label]
        counts.add(len(right))
        wanted = sum(right or [logits[image] for logits in said]) / (len(right) or 2)
        torch.testing.assert_close(found[image], wanted / 2.0, rtol=0, atol=1e-5)
    assert counts == {0, 1, 2}, "the case tells experts that are right from all experts"
    with pytest.raises(InputError, match="read all experts"):
        ExpertTargetsAsReleased()(initial, None, model, 3, seed=0)


@pytest.mark.parametrize("heat", [1.0, 2.0])
def test_teslas_labels_are_those_of_the_sampled_target(
    heat: float, dataset: Dataset, experts: TrajectoryStore, model: FlatModel
) -> None:
    """By an ordinary module that holds θ*_{t+M}, for the images as they are now."""
    segment, images = experts.segment(1, 2, 3), torch.randn(5, 1, 8, 8, generator=rng(0, "images"))
    part, before = SegmentLabels(temperature=heat), torch.zeros(5, 3)
    network = build_model(TINY, dataset.shape, 3)
    FlatModel(network).load(network, experts.rows(1, 5, 6)[0])
    with torch.no_grad():
        wanted = (network.eval()(images) / heat).softmax(dim=1)
    torch.testing.assert_close(part.at(before, images, segment, model).softmax(dim=1), wanted, rtol=0, atol=1e-5)
    assert ExpertLabels().at(before, images, segment, model) is before
    assert HardLabels().at(before, images, segment, model) is before


@pytest.mark.parametrize(
    "init",
    [RealInit(), RepresentativeInit(), CorrectInit(), RepresentativeInitAsReleased()],
    ids=lambda part: type(part).__name__,
)
@pytest.mark.parametrize(("canvas", "repeats"), [(1, False), (2, True)])
def test_a_class_that_cannot_fill_its_canvases_comes_round_again(
    init: ImageInit, canvas: int, repeats: bool, dataset: Dataset, experts: TrajectoryStore, model: FlatModel
) -> None:
    """Ten images of each class: at canvas 2 that is forty cells for twenty-four training images."""
    found = init(dataset, experts, model, 10 * canvas**2, seed=0)
    rows, members = dataset.train.whole().flatten(1).tolist(), found.images.flatten(1).tolist()
    chosen = [rows.index(image) for image in members]
    assert (
        found.labels.tolist()
        == dataset.train.labels[chosen].tolist()
        == [label for label in range(3) for _ in range(10 * canvas**2)]
    )
    counts = [chosen.count(image) for image in set(chosen)]
    assert (max(counts) > 1) == repeats
    assert max(counts) - min(counts) <= 1 or isinstance(init, RepresentativeInitAsReleased)


def test_the_released_initialisation_refuses_classes_smaller_than_its_clusters() -> None:
    with pytest.raises(
        InputError, match="needs 10 training images of every class for its ten clusters, the smallest has 7"
    ):
        RepresentativeInitAsReleased().check(blobs(count=7), 20)


@pytest.mark.parametrize(
    ("before", "after"), [((2, 1), (2, 1)), ((1, 4), (2, 1)), ((2, 1), (1, 4)), ((2, 4), (4, 1))], ids=str
)
def test_a_file_starts_canvases_from_its_canvases_or_images(
    before: tuple[int, int],
    after: tuple[int, int],
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    model: FlatModel,
) -> None:
    """(k, images per class) of the file and of the run: what counts is that there are as many cells."""
    (canvas, ipc), (wanted, each) = before, after
    images = torch.randn(3 * ipc, 1, 8 * canvas, 8 * canvas, generator=rng(0, "canvases"))
    targets = torch.eye(3).repeat_interleave(ipc, 0)
    SyntheticSet(
        images, targets, torch.tensor(0.01), dataset.classes, dataset.preprocessing, dataset.config, TINY, canvas=canvas
    ).save(tmp_path / "a.safetensors")
    init, cells = FileInit(path=tmp_path / "a.safetensors"), each * wanted**2
    init.check(dataset, cells)
    found = init(dataset, experts, model, cells, 0)
    assert found.images.shape == (3 * cells, 1, 8, 8)
    assert found.labels.tolist() == [label for label in range(3) for _ in range(cells)]
    started = TextureSpec(canvas=wanted).tiled(found.images)
    assert sorted(started.flatten().tolist()) == sorted(images.flatten().tolist())
    if before == after:
        assert torch.equal(started, images)
    with pytest.raises(InputError, match=rf"has other images per class \({cells}\) than this run \({cells + 1}\)"):
        init.check(dataset, cells + 1)
