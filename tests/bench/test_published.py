"""The published variants do the same work as the package: same gradient, same images, same penalty, same experts."""

from __future__ import annotations

import pytest
import torch
from suite import experts, published, unroll
from suite.task import TINY, Net

from astdistill.autodiff.engine import gradient_penalty
from astdistill.data.augmentation import STRATEGY, apply, draw
from astdistill.methods.matching import Matching
from astdistill.methods.unroll import InnerLoop
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.seeds import rng, seeded


def double_convnet(net: Net = TINY) -> torch.nn.Module:
    with seeded(0, "published"):
        return published.convnet(net).double()


@pytest.mark.parametrize("net", [TINY, Net(width=6, depth=3, size=16, channels=1, classes=5)], ids=lambda net: net.name)
def test_the_naive_convnet_is_ours(net: Net) -> None:
    model = FlatModel(build_model(net.name, net.shape, net.classes).double())
    network, theta = double_convnet(net), model.flatten()
    assert len(published.flat(network)) == model.size
    images = torch.randn(3, *net.shape, generator=rng(0, "images"), dtype=torch.float64)
    assert torch.allclose(published.reparametrised(network, theta, images), model(theta, images), atol=1e-12)


@pytest.mark.parametrize("variant", ["backprop", "recompute"])
def test_the_naive_meta_gradient_is_ours(variant: str) -> None:
    case = unroll.CASES["tiny"]._replace(steps=5)
    given = unroll.problem(case).double()
    exact = unroll.taken(given, case.net, "published")
    inner = InnerLoop(
        FlatModel(build_model(case.net.name, case.net.shape, case.net.classes)), given.plan, unroll.MOMENTUM
    )
    goal = Matching((5,), given.goal[None], (1 / (given.goal - given.start).square().sum())[None])
    found = unroll.ESTIMATORS[variant](inner, given.start, given.variables, goal)
    assert float(exact.images.abs().max()) > 1e-4
    assert torch.allclose(found.images, exact.images, rtol=1e-9, atol=1e-9 * float(exact.images.abs().max()))
    assert torch.allclose(found.lr, exact.lr, rtol=1e-9)


@pytest.mark.parametrize("op", STRATEGY.split("_"))
@pytest.mark.parametrize("size", [9, 32])
def test_the_naive_augmentation_is_ours(op: str, size: int) -> None:
    generator = rng(0, op, size)
    images = torch.randn(6, 3, size, size, generator=generator, dtype=torch.float64)
    drawn = draw(op, 6, (3, size, size), generator)
    found = published.augmented_one_by_one(images, drawn)
    assert not torch.equal(found, images)
    # Our colours multiply by float32 numbers in float64, the naive ones by Python's: the same; angles differ by
    # float32's rounding.
    assert torch.allclose(found, apply(images, drawn), atol=1e-12 if op not in ("rotate", "scale") else 1e-6)


def test_the_naive_penalty_is_ours_and_so_is_its_gradient() -> None:
    network = double_convnet()
    images = torch.randn(5, *TINY.shape, generator=rng(0, "images"), dtype=torch.float64)
    source = images.clone().requires_grad_()
    ours, theirs = gradient_penalty(source, network(source), "image"), published.gradient_penalty(network, images)
    assert torch.allclose(ours, theirs, rtol=1e-12)
    parameters = list(network.parameters())
    pairs = zip(
        torch.autograd.grad(ours, parameters, allow_unused=True),
        torch.autograd.grad(theirs, parameters, allow_unused=True),
        strict=True,
    )
    largest = 0.0
    for mine, other in pairs:
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            assert torch.allclose(mine, other, rtol=1e-9, atol=1e-12)
            largest = max(largest, float(mine.abs().max()))
    assert largest > 1e-6


def test_both_ways_of_training_see_the_same_operations() -> None:
    case = experts.CASES["tiny"]
    split = experts.random_split(case, case.images)
    ours = rng(0, "epoch")
    torch.randperm(len(split), generator=ours)
    theirs = experts._same_draws(split)
    for _ in range(20):
        assert draw(STRATEGY, 8, TINY.shape, ours).op == draw(STRATEGY, 8, TINY.shape, theirs).op


def test_an_epoch_of_the_published_training_learns() -> None:
    case = experts.CASES["tiny"]
    with seeded(0, "published"):
        network = published.convnet(TINY)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    split = experts.random_split(case, 32)
    batches = published.loader(split.whole(), split.labels, 8, True)
    for _ in range(40):
        published.train_epoch(network, optimiser, batches, "none", 0.0, rng(0, "epoch"))
    assert published.accuracy(network, published.loader(split.whole(), split.labels, 8, False)) > 80
