"""A network from its name, its image shape and a seed."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .. import seeds
from ..errors import InputError
from ..records import import_name
from .names import FAMILIES, instance_twin, parse
from .timm_models import timm_factory

Factory = Callable[..., nn.Module]
"""Called as `factory(channels=…, classes=…, size=(H, W))`."""


def build_model(model: str | Factory, shape: tuple[int, int, int], classes: int, seed: int = 0) -> nn.Module:
    """A freshly initialised network for images of shape (C, H, W), the same one for the same arguments.

    `model` is a family and any of its words: `convnet`, `mlp`, `lenet`, `alexnet`, `vgg11`, `resnet18` or `vit`, then where the family has
    them `-d<depth>`, `-w<width>`, a norm, an activation, a pooling (`convnet-d4-w128-batchnorm`), and `-ap` for a ResNet with average
    pooling in the place of strides. Or `timm:<name>`, untrained; or the import path `package.module:factory` of your own function, or
    that function; see `Factory`. A ConvNet's depth, where it is not said, suits the image size: 3 to 32 px, 4 to 64 px, 5 to 128 px, and
    no more than tiny images allow. Leaves torch's global generator as it was.
    Raises InputError for a name that makes no network, with the nearest that does.
    """
    factory = _named(model) if isinstance(model, str) else model
    if isinstance(factory, nn.Module) or not callable(factory):
        raise InputError(f"{model!r} is no factory; give a function of channels, classes and size=(H, W) that returns a new network.")
    name = model if isinstance(model, str) else getattr(model, "__qualname__", type(model).__qualname__)
    channels, height, width = shape
    with seeds.seeded(seed, "model", name):
        built = factory(channels=channels, classes=classes, size=(height, width))
    if not isinstance(built, nn.Module):
        raise InputError(f"Model '{name}' gave a {type(built).__name__}; a factory returns a torch.nn.Module.")
    return built


def _named(text: str) -> Factory:
    if text.startswith("timm:"):
        return timm_factory(text.removeprefix("timm:"))
    if ":" in text:
        return import_name(text)
    name = parse(text)

    def factory(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        network = FAMILIES[name.family](channels, classes, size, **name.options(size))
        # What FlatModel offers where it has to refuse batch norm; it sees the module and not the name.
        vars(network)["twin"] = instance_twin(text)
        return network

    return factory
