"""A network from its name, its image shape and a seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn

from .. import seeds
from ..errors import InputError, unknown
from ..records import import_name
from .convnet import MAX_DEPTH, ConvNet, deepest

Factory = Callable[..., nn.Module]
"""Called as `factory(channels=…, classes=…, size=(H, W))`."""

_WORDS: dict[str, dict[str, str]] = {
    **{f"{'no' if norm == 'none' else norm}norm": {"norm": norm} for norm in ("instance", "batch", "layer", "group", "none")},
    **{activation: {"activation": activation} for activation in ("relu", "sigmoid", "leakyrelu")},
    **{f"{'no' if pooling == 'none' else pooling}pool": {"pooling": pooling} for pooling in ("avg", "max", "none")},
}
_NUMBERS = {"d": "depth", "w": "width"}


def build_model(model: str | Factory, shape: tuple[int, int, int], classes: int, seed: int = 0) -> nn.Module:
    """A freshly initialised network for images of shape (C, H, W), the same one for the same arguments.

    `model` is `convnet` followed by any of `-d<depth>`, `-w<width>`, a norm, an activation and a pooling (`convnet-d4-w128-batchnorm`),
    or the import path `package.module:factory` of your own function, or that function; see `Factory`. Without `-d`, the depth suits the
    image size: 3 to 32 px, 4 to 64 px, 5 to 128 px, and no more than tiny images allow. Leaves torch's global generator as it was.
    Raises InputError for a name that makes no network, with the nearest that does.
    """
    factory: Factory = _named(model, shape) if isinstance(model, str) else model
    if isinstance(factory, nn.Module) or not callable(factory):
        raise InputError(f"{model!r} is no factory; give a function of channels, classes and size=(H, W) that returns a new network.")
    name = model if isinstance(model, str) else getattr(model, "__qualname__", type(model).__qualname__)
    channels, height, width = shape
    with seeds.seeded(seed, "model", name):
        built = factory(channels=channels, classes=classes, size=(height, width))
    if not isinstance(built, nn.Module):
        raise InputError(f"Model '{name}' gave a {type(built).__name__}; a factory returns a torch.nn.Module.")
    return built


def model_names() -> tuple[str, ...]:
    """Examples of names that `build_model` takes, for help texts."""
    return (
        "convnet",
        "convnet-d3",
        "convnet-d3-w32",
        "convnet-d4-w128-batchnorm",
        "convnet-d3-groupnorm-leakyrelu-nopool",
        "convnet-d3-nonorm-sigmoid-maxpool",
        "your_package.module:factory",
    )


def _named(name: str, shape: tuple[int, int, int]) -> Factory:
    if ":" in name:
        return import_name(name)
    family, *words = name.split("-")
    if family != "convnet":
        raise unknown("model", name, model_names())
    options = _options(name, words)
    size = (shape[1], shape[2])
    options.setdefault("depth", _usual_depth(size, options.get("pooling", "avg")))

    def factory(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        return ConvNet(channels, classes, size, **options)

    return factory


def _options(name: str, words: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for word in words:
        number = re.fullmatch(r"([dw])([0-9]+)", word)
        if number is None and word not in _WORDS:
            raise unknown(f"word in model '{name}'", word, ["d3", "w128", *_WORDS])
        found = {_NUMBERS[number[1]]: int(number[2])} if number else _WORDS[word]
        for option, value in found.items():
            if option in options:
                raise InputError(f"Model '{name}' says its {option} twice ({options[option]}, {value}); say it once.")
            options[option] = value
    return options


def _usual_depth(size: tuple[int, int], pooling: str) -> int:
    """3 up to 32 px and one more for every doubling, within what the images allow."""
    wanted = max(3, (max(size) - 1).bit_length() - 2)
    return max(1, min(wanted, MAX_DEPTH, deepest(size, pooling)))
