"""What a network's name says: a family, then words for its options (`convnet-d4-w128-batchnorm`)."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import InputError, unknown
from .alexnet import AlexNet
from .convnet import MAX_DEPTH, ConvNet, deepest
from .layers import ACTIVATIONS, NORMS, POOLINGS
from .lenet import LeNet
from .mlp import MLP
from .resnet import ResNet18
from .vgg import VGG11
from .vit import ViT

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
    **{f"{'no' if norm == 'none' else norm}norm": ("norm", norm) for norm in NORMS},
    **{activation: ("activation", activation) for activation in ACTIVATIONS},
    **{f"{'no' if pooling == 'none' else pooling}pool": ("pooling", pooling) for pooling in POOLINGS},
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
        found = _defaults(self.family) | self.said
        if self.family == "convnet" and "depth" not in self.said:
            found["depth"] = _usual_depth(size, found["pooling"])
        return found

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
    number = re.fullmatch(r"([dw])([0-9]+)", word)
    option, value = (_NUMBERS[number[1]], int(number[2])) if number else _WORDS.get(word, ("", ""))
    if option not in defaults:
        numbers = [f"{letter}{defaults[option]}" for letter, option in _NUMBERS.items() if option in defaults]
        raise unknown(
            "word", word, [*numbers, *(word for word, (option, _) in _WORDS.items() if option in defaults)], where=f"for model '{name}'"
        )
    return option, value


def _word(option: str, value: Any) -> str:
    return f"{option[0]}{value}" if option in _NUMBERS.values() else _SPELLED[option, value]


def _defaults(family: str) -> dict[str, Any]:
    arguments = inspect.signature(FAMILIES[family]).parameters.values()
    return {each.name: each.default for each in arguments if each.default is not inspect.Parameter.empty}


def _usual_depth(size: tuple[int, int], pooling: str) -> int:
    """3 up to 32 px and one more for every doubling, within what the images allow."""
    wanted = max(3, (max(size) - 1).bit_length() - 2)
    return max(1, min(wanted, MAX_DEPTH, deepest(size, pooling)))
