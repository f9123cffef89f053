"""What a graphics card would refuse or wait for, on a machine without one (`far.py`): the whole way, with every
method."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from far_run import CASES, EPOCHS, FAMILIES, RECIPES, STEPS
from forking import FORKED
from problems import TINY, blobs

from astdistill.autodiff.training import Trainee
from astdistill.experts.training import make_optimiser, train_epoch
from astdistill.models.registry import build_model

TESTS = Path(__file__).parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def far() -> dict[str, Any]:
    """What a process of its own found, because torch cannot forget a device."""
    words = [sys.executable, "-c", f"{FORKED}from far_run import main\nmain()"]
    done = subprocess.run(words, cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_another_device_computes_the_same_bits(far: dict[str, Any], case: str) -> None:
    """Nothing is mixed with what lies on the CPU, read where it cannot be, or drawn in another way."""
    assert {name: far[case][name] for name in ("theta", "images", "lr", "scores")} == dict.fromkeys(
        ("theta", "images", "lr", "scores"), True
    )


@pytest.mark.parametrize("case", CASES)
def test_the_host_does_not_wait_inside_an_epoch(far: dict[str, Any], case: str) -> None:
    waits = far[case]["waits"]
    experts, evaluation = waits["experts"], waits["evaluation"]
    assert experts.pop("runtime/devices.py:read") == EPOCHS  # its accuracy and the length of its step, at its end
    assert experts.pop("autodiff/training.py:accuracy") == EPOCHS
    assert experts.pop("experts/partial.py:_begin") == 1
    assert experts.pop("experts/partial.py:append") == EPOCHS
    assert experts.pop("experts/partial.py:<dictcomp>", 0) <= EPOCHS  # the optimiser's state, saved
    assert not experts
    assert evaluation.pop("evaluation/rows.py:majority") == 1  # the sizes of the tested classes, once
    assert evaluation.pop("data/synthetic.py:certain", 0) <= 1  # what of hard labels has to be stored, once
    assert evaluation.pop("data/synthetic.py:<dictcomp>") == 3  # the digests of images, targets and rate, once
    assert (
        sum(evaluation.values()) == 3
    )  # the set's rate, the counts of the test images, whether the losses were finite


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_makes_the_host_wait(far: dict[str, Any], recipe: str) -> None:
    assert far["recipes"][recipe] == {"theta": True, "waits": {}}


@pytest.mark.parametrize("case", CASES)
def test_the_host_waits_once_in_an_outer_step(far: dict[str, Any], case: str) -> None:
    """ATT looks for the nearest student as well: where the walk back begins depends on it, and starting there spares
    work."""
    nearest = {"methods/matching.py:__call__": 1} if case == "att" else {}
    assert far[case]["steps"] == [{"runtime/devices.py:read": 1} | nearest] * (STEPS - 1)


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no graphics card here whose waits torch could report"
)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_card_reports_no_wait_inside_an_epoch(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTDISTILL_ENGINE", "eager")  # compiling waits, the first time
    dataset = blobs().to("cuda")
    trainee = Trainee(build_model(TINY, dataset.shape, 3, seed=1).to("cuda"))
    optimiser = make_optimiser(trainee, recipe, 0)
    train_epoch(trainee, optimiser, dataset.train, 3, recipe, 0, 5)  # loads libraries, reserves memory
    torch.cuda.set_sync_debug_mode("error")
    try:
        right = train_epoch(trainee, optimiser, dataset.train, 3, recipe, 0, 6)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 0 <= float(right) <= len(dataset.train)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_networks_trains_there(far: dict[str, Any], family: str) -> None:
    assert far["networks"][family]


def test_the_device_refuses_what_a_card_would(far: dict[str, Any]) -> None:
    assert "two devices" in far["mistakes"]["mixed"]
    assert "no numpy array" in far["mistakes"]["to numpy"]
    assert "two devices" in far["mistakes"]["mixed gradient"]


def test_what_is_waited_for_and_what_is_sent_without_pinning_is_counted(far: dict[str, Any]) -> None:
    assert {name: waited for name, (waited, _) in far["readings"].items() if waited} == dict.fromkeys(
        ("a number", "a mask", "the tensor", "whether", "an index of the host"), 1
    )
    assert {name: copied for name, (_, copied) in far["readings"].items() if copied} == dict.fromkeys(
        ("moved", "copied in"), 1
    )
