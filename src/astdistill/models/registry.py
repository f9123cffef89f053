"""Networks by name, from timm, or from a user's own module, built with a seed."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
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
    """A factory of timm's network `name` without trained weights, for any channels, classes and, where timm's allows
    it, image size.

    Raises InputError where timm cannot be imported or has no such network; the factory, for images that the network
    cannot take.
    """
    timm = _timm(name)
    if not timm.is_model(name):
        hint = suggestion(name, timm.list_models(), most=3, cutoff=0.4)
        raise InputError(f"timm has no model '{name}'.{hint} timm.list_models() lists them all.")

    def factory(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        try:
            network = _sized(timm, name, {"pretrained": False, "in_chans": channels, "num_classes": classes}, size)
            _try(network, channels, size)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"timm's '{name}' does not take images of {channels}×{size[0]}×{size[1]} ({error}); "
                f"choose another network, for example 'timm:resnet18'."
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
_WORDS: dict[str, tuple[str, str]] = {
    **{f"{norm.replace('none', 'no')}norm": ("norm", norm) for norm in NORMS},
    **{activation: ("activation", activation) for activation in ACTIVATIONS},
    **{f"{pooling.replace('none', 'no')}pool": ("pooling", pooling) for pooling in POOLINGS},
    "ap": ("shrinking", "avg"),
}
_SPELLED = {option: word for word, option in _WORDS.items()}
_NUMBERS = {"d": "depth", "w": "width"}


@dataclass(frozen=True)
class Name:
    """A network's name, taken apart."""

    text: str
    family: str
    said: dict[str, Any]
    """The options that the name sets, in its order."""

    def options(self, size: tuple[int, int]) -> dict[str, Any]:
        """All options, with their defaults for images of this height and width."""
        options = _defaults(self.family) | self.said
        if self.family == "convnet" and "depth" not in self.said:
            options["depth"] = _usual_depth(size, options["pooling"])
        return options

    def having(self, option: str, value: Any, size: tuple[int, int]) -> str:
        """The name of the network that differs in one option alone; the same name where it has that value already.

        Raises InputError where the family has no such option.
        """
        options = self.options(size)
        if option not in options:
            raise InputError(f"'{self.text}' has no {option} to vary; its options are {', '.join(options)}.")
        if options[option] == value:
            return self.text
        return "-".join([self.family, *(_word(name, known) for name, known in (self.said | {option: value}).items())])


def parse(name: str) -> Name:
    """The name taken apart. Raises InputError for a family or a word that there is not, with the nearest."""
    family, *words = name.split("-")
    if family not in FAMILIES:
        raise unknown("model", name, model_names())
    defaults, said = _defaults(family), {}
    for word in words:
        option, value = _meaning(name, word, defaults)
        if option in said:
            raise InputError(f"Model '{name}' says its {option} twice ({said[option]}, {value}); say it once.")
        said[option] = value
    return Name(name, family, said)


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
    """The same network with instance norm in the place of batch norm."""
    return name.replace("batchnorm", "instancenorm")


def _meaning(name: str, word: str, defaults: dict[str, Any]) -> tuple[str, Any]:
    option, value = _WORDS.get(word, ("", ""))
    if number := re.fullmatch(r"([dw])([0-9]+)", word):
        option, value = _NUMBERS[number[1]], int(number[2])
    if option not in defaults:
        numbers = [f"{letter}{defaults[option]}" for letter, option in _NUMBERS.items() if option in defaults]
        raise unknown(
            "word",
            word,
            [*numbers, *(word for word, (option, _) in _WORDS.items() if option in defaults)],
            where=f"for model '{name}'",
        )
    return option, value


def _word(option: str, value: Any) -> str:
    if option in _NUMBERS.values():
        return f"{option[0]}{value}"
    return _SPELLED[option, value]


def _defaults(family: str) -> dict[str, Any]:
    arguments = inspect.signature(FAMILIES[family]).parameters.values()
    return {each.name: each.default for each in arguments if each.default is not inspect.Parameter.empty}


def _usual_depth(size: tuple[int, int], pooling: str) -> int:
    """3 up to 32 px and one more for every doubling, within what the images allow."""
    wanted = max(3, (max(size) - 1).bit_length() - 2)
    return max(1, min(wanted, MAX_DEPTH, deepest(size, pooling)))


Factory = Callable[..., nn.Module]
"""Called as `factory(channels=…, classes=…, size=(H, W))`."""


def build_model(model: str | Factory, shape: tuple[int, int, int], classes: int, seed: int = 0) -> nn.Module:
    """A freshly initialised network, the same one for the same arguments. Leaves torch's global generator as it was.

    A name is a family and any of its words: `convnet`, `mlp`, `lenet`, `alexnet`, `vgg11`, `resnet18` or `vit`, then
    where the family has them `-d<depth>`, `-w<width>`, a norm, an activation, a pooling (`convnet-d4-w128-batchnorm`),
    and `-ap` for a ResNet with average pooling in the place of strides. A ConvNet's depth, where it is not said, suits
    the image size: 3 to 32 px, 4 to 64 px, 5 to 128 px, and no more than tiny images allow.

    Args:
        model: Such a name, or `timm:<name>`, untrained, or the import path `package.module:factory` of your own
            function, or that function; see `Factory`.
        shape: Of one image: channels, height, width in pixels.
        classes: K, the number of logits.
        seed: Of the initialisation.

    Returns:
        A module from images `[B, C, H, W]` to logits `[B, K]`, on the CPU, in training mode.

    Raises:
        InputError: For a name that makes no network, with the nearest that does.
    """
    if isinstance(model, str):
        factory, name = _named(model), model
    else:
        factory, name = model, getattr(model, "__qualname__", type(model).__qualname__)
    if isinstance(factory, nn.Module) or not callable(factory):
        raise InputError(
            f"{model!r} is no factory; give a function of channels, classes and size=(H, W) that returns a new network."
        )
    channels, height, width = shape
    _check_factory(factory, name)
    with seeds.seeded(seed, "model", name):
        built = factory(channels=channels, classes=classes, size=(height, width))
    if not isinstance(built, nn.Module):
        raise InputError(f"Model '{name}' gave a {type(built).__name__}; a factory returns a torch.nn.Module.")
    return built


def _check_factory(factory: Factory, name: str) -> None:
    """Raise InputError for a function that cannot be called as factories are."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of compiled code, which says nothing of its arguments
        return
    try:
        signature.bind(channels=1, classes=2, size=(8, 8))
    except TypeError as error:
        raise InputError(
            f"Model '{name}' takes {signature} ({error}); a factory is called as factory(channels=…, classes=…, "
            "size=(height, width)), so give it these arguments."
        ) from error


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
