"""Files of every format there has been open in this version, with the same fields, the same arithmetic and the same
use.

Those in `data/frozen` were written once and are never written again. `synthetic-format-1` is `astdistill distill
digits-ipc1 --data.whiten zca`, and `soft-textures-format-1` the same preset with `--data.first-classes 3
--distill.canvas 2 --distill.canvas-samples 2 --part labels=ExpertLabels --experts.count 1 --method.expert.epochs 6
  --distill.max-start-epoch 2 --distill.iterations 30`, both by the version
that brought format 1's exports (0.1.0, torch 2.13 on a CPU); commit, arguments and machine were taken out of their
provenance. The numbers in `expected.json` were read from them then: of each tensor its shape, sum, sum of squares,
first and last element, and the test accuracy of one network after 40 epochs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import astdistill as ad

FROZEN = Path(__file__).parent / "data" / "frozen"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FROZEN / "expected.json").read_text(encoding="utf-8"))


def test_every_frozen_file_is_looked_at() -> None:
    assert {path.stem for path in FROZEN.glob("*.safetensors")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_of_an_earlier_version_opens(name: str) -> None:
    found, expected = ad.load(FROZEN / f"{name}.safetensors"), EXPECTED[name]
    words = expected["words"] | {"classes": tuple(expected["words"]["classes"])}
    assert {word: getattr(found, word) for word in words} == words
    assert expected["data"].items() <= found.data.to_json().items()
    assert found.preprocessing.describe() == expected["preprocessing"]["description"]
    assert found.preprocessing.hash == expected["preprocessing"]["hash"]
    assert found.provenance["iteration"] == expected["iteration"]
    ramp = torch.linspace(0, 1, 128).view(2, *found.shape)
    whitened = found.preprocessing.apply(ramp)
    torch.testing.assert_close(found.preprocessing.invert(whitened), ramp, rtol=0, atol=1e-4)
    tensors: dict[str, Tensor] = {each: getattr(found, each) for each in ("images", "targets", "lr", "probabilities")}
    tensors |= {"pixels": found.pixels(), "whitened": whitened}
    tensors |= {f"preprocessing.{each}": tensor for each, tensor in found.preprocessing.tensors().items()}
    assert set(tensors) == set(expected["tensors"])
    for each, tensor in tensors.items():
        told, flat = expected["tensors"][each], tensor.double().flatten()
        assert list(tensor.shape) == told["shape"], each
        assert tensor.dtype == torch.float32
        assert float(flat.sum()) == pytest.approx(told["sum"], rel=1e-5, abs=1e-4), each
        assert float(flat.square().sum()) == pytest.approx(told["squares"], rel=1e-5), each
        assert [float(flat[0]), float(flat[-1])] == pytest.approx(told["ends"], rel=1e-5, abs=1e-6), each


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_of_an_earlier_version_trains_networks_as_it_did(name: str) -> None:
    """On the data of today, which must be whitened to the same bits for this to be allowed."""
    found = ad.load(FROZEN / f"{name}.safetensors")
    recipe = ad.PROTOCOLS["mtt"].replace(epochs=40)
    scores = ad.evaluate(found, ad.load_dataset(found.data), seeds=1, recipe=recipe, workers=1)
    assert scores.mean == pytest.approx(EXPECTED[name]["accuracy after 40 epochs"], abs=2)
    assert scores.mean > 1.5 * 100 / len(found.classes)
