"""Networks by name, from timm, or from a user's own module, built with a seed."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..runtime import seeds
from ..runtime.errors import InputError, suggestion, unknown
from ..runtime.trust import import_name
from .convnets import MAX_DEPTH, MLP, VGG11, AlexNet, ConvNet, LeNet, deepest
from .layers import ACTIVATIONS, NORMS, POOLINGS
from .resnet import ResNet18
from .vit import ViT


def timm_factory(name: str) -> Callable[..., nn.Module]:
    """A factory of timm's network `name` without trained weights, for any channels, classes and, if the network allows
    it, image size.

    Raises InputError if timm cannot be imported or has no such network; the factory does for images that the network
    does not support.
    """
    timm = _import_timm(name)
    if not timm.is_model(name):
        hint = suggestion(name, timm.list_models(), most=3)
        raise InputError(f"timm has no model '{name}'.{hint} timm.list_models() lists them all.")

    def factory(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        try:
            network = _create_for_size(
                timm, name, {"pretrained": False, "in_chans": channels, "num_classes": classes}, size
            )
            _check_forward(network, channels, size)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"timm's '{name}' does not take images of {channels}×{size[0]}×{size[1]} ({error}); "
                f"choose another network, for example 'timm:resnet18'."
            ) from error
        return _use_math_attention(network)

    return factory


def _import_timm(name: str) -> Any:
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch is a RuntimeError
        raise InputError(f"Model 'timm:{name}' needs timm ({error}); run pip install 'astdistill[timm]'.") from error


def _create_for_size(timm: Any, name: str, options: dict[str, Any], size: tuple[int, int]) -> nn.Module:
    """The network for this image size if its constructor takes one, else the default network."""
    try:
        return timm.create_model(name, img_size=size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    return timm.create_model(name, **options)


def _check_forward(network: nn.Module, channels: int, size: tuple[int, int]) -> None:
    """Run the network once, so that an image size that is too small is found now and not in the middle of a table."""
    with torch.no_grad():
        network.eval()(torch.zeros(1, channels, *size, dtype=torch.float32))
    network.train()


def _use_math_attention(network: nn.Module) -> nn.Module:
    """The same network with attention in its math form, since the fused one has no second derivative on a CPU."""
    for part in network.modules():
        if hasattr(part, "fused_attn"):
            vars(part)["fused_attn"] = False
    return network


FAMILIES: dict[str, type[nn.Module]] = {
    "convnet": ConvNet,
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet18": ResNet18,
    "vit": ViT,
}
"""The arguments of a network that have defaults are the options that its name may set."""
_OPTION_OF_WORD: dict[str, tuple[str, str]] = {
    **{f"{norm.replace('none', 'no')}norm": ("norm", norm) for norm in NORMS},
    **{activation: ("activation", activation) for activation in ACTIVATIONS},
    **{f"{pooling.replace('none', 'no')}pool": ("pooling", pooling) for pooling in POOLINGS},
    "ap": ("shrinking", "avg"),
}
_WORD_OF_OPTION = {option: word for word, option in _OPTION_OF_WORD.items()}
_NUMBER_OPTIONS = {"d": "depth", "w": "width"}


@dataclass(frozen=True)
class Name:
    """The parsed name of a network."""

    text: str
    family: str
    stated: dict[str, Any]
    """The options that the name sets, in its order."""

    def options(self, size: tuple[int, int]) -> dict[str, Any]:
        """All options, with their defaults for images of this height and width."""
        options = _default_options(self.family) | self.stated
        if self.family == "convnet" and "depth" not in self.stated:
            options["depth"] = _default_depth(size, options["pooling"])
        return options

    def having(self, option: str, value: Any, size: tuple[int, int]) -> str:
        """The name of the network that differs in this option only; the same name if it has that value already.

        Raises InputError if the family has no such option.
        """
        options = self.options(size)
        if option not in options:
            raise InputError(f"'{self.text}' has no {option} to vary; its options are {', '.join(options)}.")
        if options[option] == value:
            return self.text
        return "-".join(
            [self.family, *(_format_option(name, setting) for name, setting in (self.stated | {option: value}).items())]
        )


def parse(name: str) -> Name:
    """Parse a name. Raises InputError for an unknown family or word; the message suggests the nearest."""
    family, *words = name.split("-")
    if family not in FAMILIES:
        raise unknown("model", name, model_names())
    defaults, options = _default_options(family), {}
    for word in words:
        option, value = _parse_word(name, word, defaults)
        if option in options:
            raise InputError(f"Model '{name}' says its {option} twice ({options[option]}, {value}); say it once.")
        options[option] = value
    return Name(name, family, options)


def model_names() -> tuple[str, ...]:
    """Examples of names that `build_model` takes, for help texts."""
    return (
        "convnet",
        "convnet-d3",
        "convnet-d3-w32",
        "convnet-d4-w128-batchnorm",
        "convnet-d3-groupnorm-leakyrelu-nopool",
        "convnet-d3-nonorm-sigmoid-maxpool",
        "mlp",
        "lenet",
        "alexnet",
        "vgg11",
        "vgg11-batchnorm",
        "vgg11-instancenorm",
        "resnet18",
        "resnet18-ap",
        "resnet18-batchnorm-ap",
        "vit",
        "timm:resnet18",
        "your_package.module:factory",
    )


def instance_twin(name: str) -> str:
    """The name of the same network with instance norm instead of batch norm."""
    return name.replace("batchnorm", "instancenorm")


def _parse_word(name: str, word: str, defaults: dict[str, Any]) -> tuple[str, Any]:
    option, value = _OPTION_OF_WORD.get(word, ("", ""))
    if number := re.fullmatch(r"([dw])([0-9]+)", word):
        option, value = _NUMBER_OPTIONS[number[1]], int(number[2])
    if option not in defaults:
        numbers = [f"{letter}{defaults[option]}" for letter, option in _NUMBER_OPTIONS.items() if option in defaults]
        raise unknown(
            "word",
            word,
            [*numbers, *(word for word, (option, _) in _OPTION_OF_WORD.items() if option in defaults)],
            context=f"for model '{name}'",
        )
    return option, value


def _format_option(option: str, value: Any) -> str:
    if option in _NUMBER_OPTIONS.values():
        return f"{option[0]}{value}"
    return _WORD_OF_OPTION[option, value]


def _default_options(family: str) -> dict[str, Any]:
    arguments = inspect.signature(FAMILIES[family]).parameters.values()
    return {each.name: each.default for each in arguments if each.default is not inspect.Parameter.empty}


def _default_depth(size: tuple[int, int], pooling: str) -> int:
    """3 up to 32 px and one more for every doubling, within what the images allow."""
    depth = max(3, (max(size) - 1).bit_length() - 2)
    return max(1, min(depth, MAX_DEPTH, deepest(size, pooling)))


Factory = Callable[..., nn.Module]
"""Called as `factory(channels=…, classes=…, size=(H, W))`."""


def build_model(model: str | Factory, shape: tuple[int, int, int], classes: int, seed: int = 0) -> nn.Module:
    """A newly initialised network, the same for the same arguments. Does not change the state of torch's global
    generator.

    A name is a family and any of its options: `convnet`, `mlp`, `lenet`, `alexnet`, `vgg11`, `resnet18` or `vit`, then,
    if the family has them, `-d<depth>`, `-w<width>`, a norm, an activation, a pooling (`convnet-d4-w128-batchnorm`),
    and `-ap` for a ResNet with average pooling instead of strides. The default depth of a ConvNet depends on the image
    size: 3 up to 32 px, 4 up to 64 px, 5 up to 128 px, and no more than tiny images allow.

    Args:
        model: Such a name, or `timm:<name>`, untrained, or the import path `package.module:factory` of your own
            function, or that function; see `Factory`.
        shape: Channels, height and width of one image, in pixels.
        classes: K, the number of logits.
        seed: The seed of the initialisation.

    Returns:
        A module from images `[B, C, H, W]` to logits `[B, K]`, on the CPU, in training mode.

    Raises:
        InputError: The name is not that of a network; the message suggests the nearest.
    """
    if isinstance(model, str):
        factory, name = _factory_from_name(model), model
    else:
        factory, name = model, getattr(model, "__qualname__", type(model).__qualname__)
    if isinstance(factory, nn.Module) or not callable(factory):
        raise InputError(
            f"{model!r} is no factory; give a function of channels, classes and size=(H, W) that returns a new network."
        )
    channels, height, width = shape
    _check_factory(factory, name)
    with seeds.seeded(seed, "model", name), _float32_by_default():
        built = factory(channels=channels, classes=classes, size=(height, width))
    if not isinstance(built, nn.Module):
        raise InputError(f"Model '{name}' gave a {type(built).__name__}; a factory returns a torch.nn.Module.")
    return built


@contextmanager
def _float32_by_default() -> Iterator[None]:
    """Layers have parameters in float32 inside the block, as images are, whatever the caller's default is: that would
    also change which numbers are drawn for them. Within `seeded`, one thread at a time changes this default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _check_factory(factory: Factory, name: str) -> None:
    """Raise InputError for a function that does not take the arguments of a factory."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # compiled code without a signature
        return
    try:
        signature.bind(channels=1, classes=2, size=(8, 8))
    except TypeError as error:
        raise InputError(
            f"Model '{name}' takes {signature} ({error}); a factory is called as factory(channels=…, classes=…, "
            "size=(height, width)), so give it these arguments."
        ) from error


def _factory_from_name(text: str) -> Factory:
    if text.startswith("timm:"):
        return timm_factory(text.removeprefix("timm:"))
    if ":" in text:
        return import_name(text)
    name = parse(text)

    def factory(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        network = FAMILIES[name.family](channels, classes, size, **name.options(size))
        # FlatModel suggests it when it refuses batch norm; it has the module, not the name.
        vars(network)["twin"] = instance_twin(text)
        return network

    return factory
