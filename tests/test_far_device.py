"""What a graphics card would refuse or wait for, on a machine without one (`far.py`): the whole way, with every method."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from far_run import CASES, EPOCHS, FAMILIES

TESTS = Path(__file__).parent

pytestmark = pytest.mark.slow


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, because torch cannot forget a device."""
    return subprocess.run([sys.executable, *words], cwd=TESTS, capture_output=True, text=True)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done = run("far_run.py")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_another_device_computes_the_same_bits(found: dict[str, Any], case: str) -> None:
    """Nothing is mixed with what lies on the CPU, read where it cannot be, or drawn in another way."""
    assert {name: found[case][name] for name in ("theta", "images", "lr", "scores")} == dict.fromkeys(
        ("theta", "images", "lr", "scores"), True
    )


@pytest.mark.parametrize("case", CASES)
def test_the_host_does_not_wait_inside_an_epoch(found: dict[str, Any], case: str) -> None:
    waits = found[case]["waits"]
    experts, evaluation = waits["experts"], waits["evaluation"]
    assert experts.pop("experts/training.py:train_epoch") == EPOCHS  # its accuracy, at its end
    assert experts.pop("experts/training.py:train_expert") == EPOCHS  # the length of its step
    assert experts.pop("accuracy.py:accuracy") == EPOCHS
    assert experts.pop("experts/partial.py:_bytes") == EPOCHS + 1
    assert experts.pop("runs.py:<dictcomp>", 0) <= EPOCHS  # the optimiser's state, saved
    assert not experts
    assert sum(evaluation.values()) == 3  # the set's rate, the counts of the test images, whether the losses were finite


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_networks_trains_there(found: dict[str, Any], family: str) -> None:
    assert found["networks"][family]


MISTAKES = {
    "mixed": ("near + far", "two devices"),
    "to_numpy": ("far.numpy()", "no numpy array"),
    "mixed_gradient": ("torch.nn.functional.linear(far.requires_grad_(), near).sum().backward()", "two devices"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_device_refuses_what_a_card_would(mistake: str) -> None:
    line, said = MISTAKES[mistake]
    code = f"import torch; from far import far_device\nwith far_device():\n    near = torch.ones(2, 2); far = near.to('far'); {line}"
    done = run("-c", code)
    assert done.returncode == 1
    assert said in done.stderr


def test_what_is_waited_for_is_counted() -> None:
    lines = [
        "float(far.sum())",
        "far[far > 0]",
        "far.cpu()",
        "bool(far.isfinite().all())",
        "far + far",
        "far[torch.tensor([0])]",
        "far[:1] * 2",
    ]
    code = "import torch; from far import far_device, waits\nwith far_device():\n    far = torch.ones(2, 2).to('far')\n"
    code += "".join(f"    {line}; print(waits.total())\n" for line in lines)
    assert run("-c", code).stdout.split() == ["1", "2", "3", "4", "4", "5", "5"]
