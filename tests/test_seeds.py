"""Randomness is a function of a seed and a purpose."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from problems import blobs
from torch import Tensor

from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.runner import evaluate
from astdistill.models.registry import build_model
from astdistill.runtime.progress import Bar
from astdistill.runtime.seeds import derive, rng, seeded
from astdistill.runtime.trust import trust_modules

DRAWING = "problems:dropout_net"
"""A network that draws random numbers while it is trained."""


def test_equal_purposes_give_equal_draws_and_any_other_word_gives_others() -> None:
    assert torch.equal(torch.rand(5, generator=rng(0, "segment", 3)), torch.rand(5, generator=rng(0, "segment", 3)))
    purposes = [
        (0, "a", 1),
        (0, "a", 2),
        (0, "b", 1),
        (1, "a", 1),
        (0, "a"),
        (0, 1, "a"),
        (0, "a1"),
        (0, "a", "1"),
        (0,),
        (-1, "a", 1),
    ]
    numbers = [derive(*purpose) for purpose in purposes]
    assert len(set(numbers)) == len(purposes)
    assert all(0 <= number < 2**63 for number in numbers)


def test_seeds_are_the_same_on_every_machine() -> None:
    """SHA-256 of the written-out words: no hash of Python's, which changes from process to process."""
    assert derive(0, "segment", 317) == 8362755598944346454


def test_a_fresh_generator_each_time() -> None:
    generator = rng(0, "x")
    torch.rand(100, generator=generator)
    assert not torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=rng(0, "x")))


def test_the_global_generator_is_neither_read_nor_changed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    torch.rand(3, generator=rng(0, "x"))
    with seeded(0, "network"):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with seeded(0, "network"):
        assert torch.equal(torch.rand(3), first)
    with seeded(1, "network"):
        assert not torch.equal(torch.rand(3), first)


def _built(seed: int) -> Tensor:
    network = build_model("convnet-d3-w32", (3, 32, 32), 10, seed=seed)
    return torch.cat([part.detach().reshape(-1) for part in network.parameters()])


def test_networks_built_in_several_threads_are_those_of_one() -> None:
    wanted, before = [_built(seed) for seed in range(4)], torch.get_rng_state()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(_built, list(range(4)) * 20))
    assert all(torch.equal(network, wanted[number % 4]) for number, network in enumerate(found))
    assert torch.equal(torch.get_rng_state(), before)


def _trained(seed: int) -> tuple[float, ...]:
    """Accuracies of networks that draw random numbers while they train."""
    dataset, recipe = blobs(), MTT_PROTOCOL.replace(epochs=8, augmentation="")
    scores = evaluate(dataset.train, dataset, recipe=recipe, model=DRAWING, seeds=2, seed=seed, workers=1)
    return scores.architecture[DRAWING].final


def test_networks_trained_in_several_threads_are_those_of_one() -> None:
    trust_modules([DRAWING])
    wanted = [_trained(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(_trained, [*range(3), *range(3)]))
    assert found == wanted * 2


@pytest.mark.parametrize("model", [DRAWING, "mlp-w8", "convnet-d1-w4"])
def test_while_a_network_is_trained_another_thread_builds_one(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trust_modules([DRAWING])
    built: list[Tensor] = []

    def step(*_: object, **__: object) -> None:
        other = threading.Thread(target=lambda: built.append(_built(0)), daemon=True)
        other.start()
        other.join(20)
        assert not other.is_alive()

    monkeypatch.setattr(Bar, "step", step)
    dataset, recipe = blobs(), MTT_PROTOCOL.replace(epochs=1)
    evaluate(dataset.train, dataset, recipe=recipe, model=model, seeds=1, workers=1)
    assert built


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_forked_while_another_thread_draws_does_not_wait_for_it() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with seeded(0, "held"):
            entered.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert entered.wait(30)
        child = multiprocessing.get_context("fork").Process(target=_draw)
        child.start()
        child.join(20)
        alive = child.is_alive()
        child.kill()
    finally:
        leave.set()
        holder.join()
    assert not alive


def _draw() -> None:
    with seeded(0, "forked"):
        torch.rand(1)
