"""timm as far as we call it; the library itself need not be installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError


class Fused(nn.Flatten):
    fused_attn = True


def convolutional(in_chans: int, num_classes: int, pretrained: bool) -> nn.Module:
    assert not pretrained
    return nn.Sequential(nn.Conv2d(in_chans, 2, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes))


def sized(in_chans: int, num_classes: int, pretrained: bool, img_size: tuple[int, int]) -> nn.Module:
    assert not pretrained
    return nn.Sequential(Fused(), nn.Linear(in_chans * img_size[0] * img_size[1], num_classes))


KNOWN = {"resnet18": convolutional, "vit_tiny": sized}


@pytest.fixture(autouse=True)
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, **options: Any) -> nn.Module:
        return KNOWN[name](**options)

    fake = SimpleNamespace(is_model=KNOWN.__contains__, list_models=lambda: list(KNOWN), create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", fake)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", KNOWN)
def test_channels_classes_and_size_reach_the_network(name: str) -> None:
    network = build_model(f"timm:{name}", (1, 9, 7), 3, seed=1)
    assert network(torch.ones(2, 1, 9, 7)).shape == (2, 3)
    assert network.training
    again = build_model(f"timm:{name}", (1, 9, 7), 3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_attention_takes_its_math_form() -> None:
    network = build_model("timm:vit_tiny", (1, 9, 7), 3)
    assert [part.fused_attn for part in network.modules() if isinstance(part, Fused)] == [False]


def test_images_too_small_are_found_before_any_training() -> None:
    with pytest.raises(InputError, match="does not take images of 3×4×4"):
        build_model("timm:resnet18", (3, 4, 4), 2)


def test_unknown_names_get_the_nearest_and_a_missing_timm_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"timm has no model 'resnet19'. Did you mean 'resnet18'"):
        build_model("timm:resnet19", (3, 32, 32), 2)
    monkeypatch.setitem(sys.modules, "timm", None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"needs timm .* run pip install 'astdistill\[timm\]'"):
        build_model("timm:resnet18", (3, 32, 32), 2)
