"""Pools: letters that stand for lists of networks, derived from the student's own (Zhao et al., arXiv 2006.05929 and its successors)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import InputError, unknown
from ..models import Name, deepest, parse

Shape = tuple[int, int, int]

PAPERS = ("mlp", "convnet", "lenet", "alexnet", "vgg11-instancenorm", "resnet18")
"""The networks of the papers' cross-architecture tables; their VGG11 has instance norm."""


def architectures(wanted: str | Sequence[str] | None, student: str, shape: Shape) -> list[str]:
    """The names of the networks to train on images of `shape`, each once, with the pools among `wanted` taken apart; none: the student.

    A pool spells the student's name with one option changed, and leaves it as it is where it has that value already, so that the
    student itself is trained once whatever pools it is in. Raises InputError where a pool needs a student, or an option that it has not.
    """
    names = [wanted] if isinstance(wanted, str) else list(wanted or ["S"])
    for name in names:
        if len(name) == 1 and name not in POOLS:
            raise unknown("pool of networks", name, POOLS)
    found = [each for name in names for each in (_pool(name, student, shape) if name in POOLS else [name])]
    return list(dict.fromkeys(found))


def _pool(letter: str, student: str, shape: Shape) -> list[str]:
    if not student:
        raise InputError("Real images name no network of their own; say which to train, for example model='convnet-d3'.")
    return POOLS[letter](student, shape)


def _many(student: str, shape: Shape) -> list[str]:
    family = student.split("-")[0]
    return [student, *(name for name in PAPERS if name.split("-")[0] != family)]


def _spelled(student: str) -> Name:
    if ":" in student:
        raise InputError(f"A pool that varies one option needs a student of the package's own, and '{student}' is not; use pool S or M.")
    return parse(student)


def _depths(student: str, shape: Shape) -> list[str]:
    name, size = _spelled(student), shape[1:]
    most = deepest(size, name.options(size)["pooling"]) if name.family == "convnet" else 4
    return [name.having("depth", depth, size) for depth in range(1, min(4, most) + 1)]


def _varied(option: str, values: Sequence[Any]) -> Callable[[str, Shape], list[str]]:
    return lambda student, shape: [_spelled(student).having(option, value, shape[1:]) for value in values]


POOLS: dict[str, Callable[[str, Shape], list[str]]] = {
    "S": lambda student, shape: [student],
    "M": _many,
    "W": _varied("width", (32, 64, 128, 256)),
    "D": _depths,
    "A": _varied("activation", ("sigmoid", "relu", "leakyrelu")),
    "P": _varied("pooling", ("none", "max", "avg")),
    "N": _varied("norm", ("none", "batch", "layer", "instance", "group")),
}
"""Itself, many architectures, widths, depths 1 to 4 (what the image size allows), activations, poolings, norms."""
