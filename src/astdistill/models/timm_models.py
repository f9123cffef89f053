"""Networks of the timm library (pytorch-image-models), untrained, where it is installed."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import InputError


def timm_factory(name: str) -> Callable[..., nn.Module]:
    """A factory of timm's network `name` without trained weights, for any channels, classes and, where timm's allows it, image size.

    Raises InputError where timm cannot be imported or has no such network; the factory, for images that the network cannot take.
    """
    timm = _timm(name)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(repr(each) for each in near)}?" if near else ""
        raise InputError(f"timm has no model '{name}'.{hint} timm.list_models() lists them all.")

    def factory(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        try:
            network = _sized(timm, name, {"pretrained": False, "in_chans": channels, "num_classes": classes}, size)
            _try(network, channels, size)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"timm's '{name}' does not take images of {channels}×{size[0]}×{size[1]} ({error}); choose another network, "
                "for example 'timm:resnet18'."
            ) from error
        return _differentiable(network)

    return factory


def _timm(name: str) -> Any:
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch is a RuntimeError
        raise InputError(f"Model 'timm:{name}' needs timm ({error}); run pip install 'astdistill[timm]'.") from error


def _sized(timm: Any, name: str, options: dict[str, Any], size: tuple[int, int]) -> nn.Module:
    """The network for this image size where it is built for one, else the network as it is."""
    try:
        return timm.create_model(name, img_size=size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    return timm.create_model(name, **options)


def _try(network: nn.Module, channels: int, size: tuple[int, int]) -> None:
    """Run it once, so that a size too small is found now and not in the middle of a table."""
    with torch.no_grad():
        network.eval()(torch.zeros(1, channels, *size))
    network.train()


def _differentiable(network: nn.Module) -> nn.Module:
    """The same network with attention in its math form, since the fused one has no second derivative on a CPU."""
    for part in network.modules():
        if hasattr(part, "fused_attn"):
            vars(part)["fused_attn"] = False
    return network
