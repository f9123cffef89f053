from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet
from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.rows import BASELINES, CHOOSERS, baseline_row, kmeans_real, random_real
from astdistill.runtime.errors import InputError

EACH = pytest.mark.parametrize("choose", CHOOSERS.values(), ids=CHOOSERS)
Choose = Callable[[Dataset, int, int], SyntheticSet]


def positions(chosen: SyntheticSet, dataset: Dataset) -> list[int]:
    """Where each chosen image lies in the training set."""
    return [int((dataset.train.whole() == image).flatten(1).all(dim=1).nonzero().item()) for image in chosen.images]


@EACH
@pytest.mark.parametrize("ipc", [1, 3, 15])
def test_images_and_labels_stay_aligned_and_no_image_is_taken_twice(choose: Choose, ipc: int, blobs: Dataset) -> None:
    chosen = choose(blobs, ipc, 0)
    where = positions(chosen, blobs)
    assert chosen.ipc == ipc
    assert len(set(where)) == 3 * ipc
    assert torch.equal(blobs.train.labels[where], chosen.hard_labels)
    assert chosen.hard_labels.tolist() == [label for label in range(3) for _ in range(ipc)]
    assert float(chosen.lr) == pytest.approx(0.01)


@EACH
def test_the_draw_repeats_by_seed(choose: Choose, blobs: Dataset) -> None:
    assert positions(choose(blobs, 3, 5), blobs) == positions(choose(blobs, 3, 5), blobs)


def test_another_seed_draws_other_images(blobs: Dataset) -> None:
    assert positions(random_real(blobs, 3, 0), blobs) != positions(random_real(blobs, 3, 1), blobs)


def test_kmeans_finds_one_image_in_each_group_of_a_class(blobs: Dataset) -> None:
    groups = torch.arange(24) % 4  # four far-apart groups in every class
    for label in range(3):
        blobs.train.whole()[blobs.train.of_class(label)] += 10.0 * groups[:, None, None, None]
    chosen = kmeans_real(blobs, 4, 0)
    levels = (chosen.images.mean(dim=(1, 2, 3)) / 10).round().view(3, 4)
    assert levels.sort(dim=1).values.tolist() == [[0.0, 1.0, 2.0, 3.0]] * 3


@EACH
def test_more_images_than_a_class_has_are_refused(choose: Choose, blobs: Dataset) -> None:
    with pytest.raises(InputError, match="has 24 training images"):
        choose(blobs, 25, 0)


def test_full_data_is_the_whole_training_split(blobs: Dataset) -> None:
    row = baseline_row("full", "convnet-d1-w4", 1, blobs, MTT_PROTOCOL, 0)
    assert row.source is blobs.train
    assert row.images == len(blobs.train)


@pytest.mark.parametrize("name", ["herding", "kcenter"])
def test_a_greedy_choice_is_the_same_for_every_network(name: str, blobs: Dataset) -> None:
    row = baseline_row(name, "convnet-d1-w4", 4, blobs, MTT_PROTOCOL, 0)
    assert name in BASELINES
    assert row.images == 12
    assert callable(row.source)
    first, second = (row.source(k) for k in (0, 1))
    assert isinstance(first, SyntheticSet)
    assert isinstance(second, SyntheticSet)
    assert torch.equal(first.images, second.images)


def test_herding_has_a_mean_nearer_to_that_of_its_class_than_random_images(blobs: Dataset) -> None:
    def distance(chosen: SyntheticSet) -> float:
        means = [blobs.train.batch(blobs.train.of_class(label)).mean(dim=0) for label in range(3)]
        own = chosen.images.unflatten(0, (3, -1)).mean(dim=1)
        return float((own - torch.stack(means)).square().sum())

    drawn = [distance(random_real(blobs, 6, seed)) for seed in range(20)]
    assert distance(CHOOSERS["herding"](blobs, 6, 0)) < min(drawn)


def test_k_centre_takes_an_image_far_from_all_others(blobs: Dataset) -> None:
    far = int(blobs.train.of_class(1)[5])
    blobs.train.whole()[far] += 50.0
    assert far in positions(CHOOSERS["kcenter"](blobs, 2, 0), blobs)
