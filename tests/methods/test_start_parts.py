"""Segments, perturbed starts and balanced weights against their formulas."""

from __future__ import annotations

import collections
import itertools
import math

import pytest
import torch
from problems import SmoothNet

from astdistill.experts.store import TrajectoryStore
from astdistill.methods.segments import (
    BalancedWeight,
    BalancedWeightAsReleased,
    Cycle,
    GrowingWindow,
    InnerWeight,
    Perturbation,
    UniformSampler,
    WeightPerturbation,
    WeightPerturbationAsReleased,
)
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import rng, seeded


def test_segments_are_uniform_over_experts_and_start_epochs(experts: TrajectoryStore) -> None:
    sample = UniformSampler()
    drawn = [sample(experts, iteration, 3, 2, seed=0) for iteration in range(600)]
    counts = collections.Counter((segment.expert, segment.epoch) for segment in drawn)
    assert set(counts) == {(expert, epoch) for expert in (0, 1) for epoch in (0, 1, 2)}
    assert all(70 <= count <= 130 for count in counts.values())
    for segment in drawn[:20]:
        rows = experts.rows(segment.expert, segment.epoch, segment.epoch + 3)
        assert torch.equal(torch.cat([segment.start[None], segment.checkpoints]), rows)


def test_a_segment_depends_on_seed_and_iteration_alone(experts: TrajectoryStore) -> None:
    sample = UniformSampler()
    wanted = [(s.expert, s.epoch) for s in (sample(experts, k, 4, 2, 7) for k in range(10))]
    assert [(s.expert, s.epoch) for s in (sample(experts, k, 4, 2, 7) for k in reversed(range(10)))] == wanted[::-1]
    assert [(s.expert, s.epoch) for s in (sample(experts, k, 4, 2, 8) for k in range(10))] != wanted


def test_a_limited_store_gives_its_first_experts_only(experts: TrajectoryStore) -> None:
    assert {UniformSampler()(experts.first(1), k, 3, 2, 0).expert for k in range(50)} == {0}


def test_a_cycle_brings_every_expert_once_and_then_in_another_order(
    experts: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written out: order number c is a permutation of (seed, c), and outer step i takes place i mod n of it."""
    monkeypatch.setattr(TrajectoryStore, "experts", lambda _: list(range(5)))
    monkeypatch.setattr(TrajectoryStore, "segment", lambda _, expert, epoch, length: (expert, epoch, length))
    drawn = [Cycle()(experts, iteration, 3, 2, seed=4) for iteration in range(50)]
    cycles = [[int(expert) for expert, _, _ in drawn[first : first + 5]] for first in range(0, 50, 5)]  # type: ignore[misc]
    assert all(sorted(cycle) == [0, 1, 2, 3, 4] for cycle in cycles)
    assert cycles == [torch.randperm(5, generator=rng(4, "cycle", number)).tolist() for number in range(10)]
    assert len(set(map(tuple, cycles))) > 5
    assert {epoch for _, epoch, _ in drawn} == {0, 1, 2}  # type: ignore[misc]
    assert Cycle()(experts, 37, 3, 2, seed=4) == drawn[37], "of the seed and the iteration alone"
    late = [Cycle(lower=1, begins=3, full_by=10)(experts, iteration, 5, 2, 0)[1] for iteration in range(10, 90)]  # type: ignore[index]
    assert set(late) == {1, 2, 3, 4}
    early = [Cycle(lower=1, begins=3, full_by=1000)(experts, iteration, 5, 2, 0)[1] for iteration in range(80)]  # type: ignore[index]
    assert set(early) == {1, 2}


BOUNDS = [
    (10, 1000, 20, {0: 10, 99: 10, 100: 11, 199: 11, 500: 15, 899: 18, 900: 19, 999: 19, 1000: 20, 4999: 20}),
    (20, 2000, 40, {0: 20, 100: 21, 1000: 30, 1999: 39, 2000: 40}),
    (30, 2000, 50, {0: 30, 1000: 40, 2000: 50, 9999: 50}),
    (15, 2000, 20, {0: 15, 399: 15, 400: 16, 1999: 19, 2000: 20}),
    (None, 0, 4, {0: 4, 1: 4, 9999: 4}),
    (5, 0, 9, {0: 9, 1: 9}),
]
"""begins, full by, max_start_epoch, and the bound at some outer steps, written out for DATM's windows."""


@pytest.mark.parametrize(("begins", "full_by", "starts", "wanted"), BOUNDS)
def test_the_bound_of_the_window_grows_evenly(
    begins: int | None, full_by: int, starts: int, wanted: dict[int, int]
) -> None:
    window = GrowingWindow(begins=begins, full_by=full_by)
    assert {iteration: window.upper(iteration, starts) for iteration in wanted} == wanted
    bounds = [window.upper(iteration, starts) for iteration in range(0, 3000, 7)]
    assert bounds == sorted(bounds)


def test_start_epochs_are_uniform_in_the_window(experts: TrajectoryStore) -> None:
    window = GrowingWindow(lower=1, begins=3, full_by=1000)
    early = collections.Counter(window(experts, iteration, 5, 2, 0).epoch for iteration in range(400))
    late = collections.Counter(window(experts, iteration, 5, 2, 0).epoch for iteration in range(1000, 1600))
    assert set(early) == {1, 2}
    assert set(late) == {1, 2, 3, 4}
    assert min(early.values()) > 160
    assert min(late.values()) > 110
    assert {window(experts, iteration, 5, 2, 0).expert for iteration in range(20)} == {0, 1}


def test_a_whole_window_from_zero_is_the_uniform_sample(experts: TrajectoryStore) -> None:
    for iteration in range(20):
        first, second = (sample(experts, iteration, 4, 2, 3) for sample in (UniformSampler(), GrowingWindow()))
        assert (first.expert, first.epoch) == (second.expert, second.epoch)


@pytest.mark.parametrize(
    "fields", [{"lower": 5}, {"lower": 3, "begins": 3, "full_by": 9}, {"begins": 6, "full_by": 9}], ids=str
)
def test_windows_without_start_epochs_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"Start epochs from \d to below \d, of at most 5, were given; choose"):
        GrowingWindow.model_validate(fields).check(5)
    GrowingWindow(lower=4).check(5)
    GrowingWindow(lower=2, begins=3, full_by=9).check(5)


@pytest.fixture
def network() -> FlatModel:
    with seeded(0, "network"):
        return FlatModel(build_model("convnet-d2-w4", (3, 8, 8), 3).double())


def kernels(network: FlatModel, theta: torch.Tensor) -> list[torch.Tensor]:
    return [tensor for tensor in network.unflatten(theta).values() if tensor.ndim == 4]


@pytest.mark.parametrize("alpha", [0.01, 0.3])
def test_the_perturbation_moves_every_kernel_by_alpha_of_its_norm_and_nothing_else(
    network: FlatModel, alpha: float
) -> None:
    theta = network.flatten()
    moved = WeightPerturbation(alpha=alpha)(theta, network, rng(0, "perturb"))
    changed = 0
    for name, tensor in network.unflatten(moved).items():
        before = network.unflatten(theta)[name]
        if tensor.ndim == 4:
            changed += 1
            assert float((tensor - before).norm() / before.norm()) == pytest.approx(alpha, rel=1e-9)
            assert int((tensor == before).sum()) == 0
        else:
            assert torch.equal(tensor, before)
    assert changed == 2


def test_the_released_perturbation_is_its_formula(network: FlatModel) -> None:
    """θ + α (d/‖d‖) ∘ θ, kernel by kernel, with the same d as the sound form draws."""
    theta, generator = network.flatten(), rng(0, "perturb")
    moved = WeightPerturbationAsReleased()(theta, network, rng(0, "perturb"))
    for before, after in zip(kernels(network, theta), kernels(network, moved), strict=True):
        direction = torch.randn(before.numel(), generator=generator).double().view(before.shape)
        torch.testing.assert_close(
            after, before + direction / direction.square().sum().sqrt() * before, rtol=1e-10, atol=1e-12
        )
    kept = torch.ones(len(theta), dtype=torch.bool)
    for kernel in network.kernels:
        kept[kernel] = False
    assert torch.equal(moved[kept], theta[kept])
    assert WeightPerturbationAsReleased().alpha == 1.0


def test_the_released_perturbation_changes_a_kernel_of_the_usual_network_by_about_a_percent() -> None:
    network = FlatModel(build_model("convnet-d3", (3, 32, 32), 10))
    theta = network.flatten()
    moved = WeightPerturbationAsReleased()(theta, network, rng(0, "perturb"))
    changes = [
        float((after - before).norm() / before.norm())
        for before, after in zip(kernels(network, theta), kernels(network, moved), strict=True)
    ]
    assert len(changes) == 3
    assert min(changes) > 0.002
    assert max(changes) < 0.02


@pytest.mark.parametrize(
    "perturb",
    [Perturbation(), WeightPerturbation(), WeightPerturbationAsReleased()],
    ids=lambda part: type(part).__name__,
)
def test_perturbing_repeats_itself_and_leaves_the_expert_alone(perturb: Perturbation, network: FlatModel) -> None:
    theta = network.flatten()
    kept = theta.clone()
    first, second, other = (perturb(theta, network, rng(seed, "perturb")) for seed in (0, 0, 1))
    assert torch.equal(theta, kept)
    assert torch.equal(first, second)
    assert torch.equal(first, other) == (type(perturb) is Perturbation)
    assert torch.equal(first, theta) == (type(perturb) is Perturbation)


def test_a_network_without_kernels_is_not_perturbed() -> None:
    network = FlatModel(torch.nn.Linear(4, 2))
    assert torch.equal(WeightPerturbation()(network.flatten(), network, rng(0)), network.flatten())
    assert len(FlatModel(SmoothNet()).kernels) == 1


@pytest.mark.parametrize(
    ("epoch", "wanted"),
    [(0, 1 / math.log(18, 8)), (9, 1 / math.log(9, 8)), (10, 1.0), (11, math.log(9, 8)), (19, math.log(17, 8))],
)
def test_the_balanced_weight(epoch: int, wanted: float) -> None:
    assert BalancedWeight()(epoch, 20) == pytest.approx(wanted, rel=1e-12)


def test_the_balanced_weight_is_continuous_and_rises() -> None:
    for starts in (1, 15, 20):
        weights = [BalancedWeight()(epoch, starts) for epoch in range(starts)]
        assert weights == sorted(weights)
        assert max([b - a for a, b in itertools.pairwise(weights)], default=0.0) < 0.06
    below, above = BalancedWeight()(7, 15), BalancedWeight()(8, 15)  # h = 7.5
    assert below * above == pytest.approx(1.0)


def test_the_released_weight_jumps_in_the_middle() -> None:
    part = BalancedWeightAsReleased()
    assert part(9, 20) == pytest.approx(1 / math.log(9, 5))
    assert part(10, 20) == pytest.approx(math.log(8, 5))
    assert (round(part(9, 20), 2), round(part(10, 20), 2)) == (0.73, 1.29)
    assert part(0, 20) == pytest.approx(1 / math.log(18, 5))
    assert part(7, 15) == pytest.approx(math.log(8, 5))  # h = 15 // 2


def test_mtt_weighs_every_segment_alike() -> None:
    assert {InnerWeight()(epoch, 20) for epoch in range(20)} == {1.0}
