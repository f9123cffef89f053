from __future__ import annotations

import pytest
import torch
from reference_data import nearest_in_own_cluster
from sklearn.cluster import KMeans

from astdistill.data.loading import load_dataset
from astdistill.data.selection import representatives
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import derive


def features(count: int, size: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [1, 3, 10, 15])
def test_equals_the_slow_reference(count: int) -> None:
    points = features(80)
    state = derive(3, "representatives") & 0xFFFFFFFF
    means = KMeans(n_clusters=count, n_init=4, random_state=state).fit(points.double().numpy())  # pyright: ignore[reportArgumentType]
    expected = nearest_in_own_cluster(points, torch.tensor(means.cluster_centers_), torch.tensor(means.labels_))
    assert representatives(points, count, 3).tolist() == expected


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 15, 30])
def test_as_many_distinct_images_as_asked_for(count: int) -> None:
    chosen = representatives(features(30), count, 0)
    assert chosen.dtype == torch.int64
    assert chosen.shape == (count,)
    assert len(set(chosen.tolist())) == count


def test_every_separate_group_gives_one() -> None:
    points = features(60, 2) * 0.01 + torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]).repeat(20, 1)
    assert sorted(index % 3 for index in representatives(points, 3, 0).tolist()) == [0, 1, 2]


def test_one_representative_is_the_image_nearest_the_mean() -> None:
    points = features(50)
    nearest = (points - points.mean(dim=0)).square().sum(dim=1).argmin()
    assert representatives(points, 1, 0).tolist() == [int(nearest)]


@pytest.mark.parametrize("count", [1, 4, 7])
def test_fewer_distinct_points_than_asked_for(count: int) -> None:
    points = torch.tensor([[0.0, 1.0], [5.0, 5.0]]).repeat(4, 1)
    chosen = representatives(points, count, 0).tolist()
    assert len(set(chosen)) == count
    if count > 1:
        assert {index % 2 for index in chosen} == {0, 1}


def test_the_same_seed_gives_the_same_images_and_global_states_are_left_alone() -> None:
    before = torch.random.get_rng_state()
    points = features(70)
    assert torch.equal(representatives(points, 10, 5), representatives(points, 10, 5))
    assert torch.equal(torch.random.get_rng_state(), before)
    draws = {tuple(sorted(representatives(points, 10, seed).tolist())) for seed in range(4)}
    assert len(draws) > 1


@pytest.mark.parametrize("ipc", [1, 3, 10, 15])
def test_images_and_labels_stay_aligned(ipc: int) -> None:
    digits = load_dataset("digits")
    for label in range(10):
        own = digits.train.of_class(label)
        part = digits.train.select(own[representatives(digits.train.images[own].flatten(1), ipc, label)])
        assert part.labels.tolist() == [label] * ipc
        assert part.whole().flatten(1).unique(dim=0).shape[0] == ipc


def test_representatives_errors() -> None:
    for count in (0, 6):
        with pytest.raises(InputError, match=f"{count} representatives of 5 images.*between 1 and 5"):
            representatives(features(5), count, 0)
    with pytest.raises(InputError, match="not finite"):
        representatives(torch.full((5, 2), float("nan")), 2, 0)
