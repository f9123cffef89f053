"""What is counted, and what the limit of it is."""

from __future__ import annotations

import pytest
import torch
from suite import augment, evaluate, experts, published, store, unroll
from suite.convnet_work import Net, Units, Work, convnet_work
from suite.task import Rates, Settings, best_of, measured_rates
from torch.utils.flop_counter import FlopCounterMode

NET = Net(width=8, depth=3, size=16)


def counted(step: object) -> int:
    with FlopCounterMode(display=False) as counter:
        assert callable(step)
        step()
    return counter.get_total_flops()


def test_a_forward_pass_is_one_unit() -> None:
    network, images = published.convnet(NET), torch.randn(5, *NET.shape)
    assert convnet_work(NET, Units(1, 1), 5).operations == counted(lambda: network(images))


def test_a_training_step_is_three_units_and_two_in_the_first_layer() -> None:
    network, images = published.convnet(NET), torch.randn(5, *NET.shape)
    assert convnet_work(NET, experts.TRAIN, 5).operations == counted(lambda: network(images).sum().backward())


@pytest.mark.parametrize("batch", [2, 5])
def test_the_published_unroll_is_counted_as_torch_counts_it(batch: int) -> None:
    two, three = (unroll.problem(unroll.Case(batch, steps, NET)) for steps in (2, 3))
    found = [counted(lambda given=given: unroll.taken(given, NET, "published")) for given in (two, three)]
    # One step more, since the first one asks for less: nothing depends on where the student starts.
    assert found[1] - found[0] == convnet_work(NET, unroll.UNITS["published"], batch).operations


def test_the_limit_is_the_longer_of_computing_and_moving() -> None:
    rates = Rates(convolution_gflops=50.0, matmul_gflops=100.0, copy_gbytes=10.0)
    assert rates.seconds(Work(200e9, 1e9)) == pytest.approx(2.0)
    assert rates.seconds(Work(200e9, 40e9)) == pytest.approx(4.0)
    better = best_of([rates, Rates(60.0, 80.0, 5.0)])
    assert better == Rates(60.0, 100.0, 10.0)


def test_work_of_every_case_grows_as_it_should() -> None:
    settings = Settings()
    short, long = (unroll.work(name, "recompute", settings) for name in ("b50-t5", "b50-t40"))
    assert long.operations == pytest.approx(8 * short.operations)
    assert (
        unroll.work("b50-t5", "recompute", settings).operations
        > unroll.work("b50-t5", "published", settings).operations
    )
    assert (
        experts.work("w32-penalty", "published", settings).operations
        > experts.work("w32-penalty", "ours", settings).operations
    )
    half = evaluate.work("w32", "ours", Settings(epochs=150)).operations
    assert 1.9 < evaluate.work("w32", "ours", settings).operations / half < 2.1
    assert store.work("rows51", "ours", settings).bytes == 2 * 3 * 320_010 * 4
    assert augment.work("crop", "ours", settings).bytes == 2 * 256 * 3 * 32 * 32 * 4


def test_rates_are_measured() -> None:
    rates = measured_rates(repeats=1)
    assert min(rates.to_json().values()) > 0
    assert rates.gflops == max(rates.convolution_gflops, rates.matmul_gflops)
