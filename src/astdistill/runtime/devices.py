"""What numbers can be computed on: the devices that are supported, whether they are there, and reading what they have
computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from .errors import InputError


class Movable(Protocol):
    """What can be taken to another device, such as a tensor or a data set."""

    def to(self, device: str, /) -> Self: ...


Thing = TypeVar("Thing", bound=Movable)


def read(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """The numbers that each scalar tensor holds, by its name; truth values are 1.0 and 0.0.

    However many there are, the host waits once for the device. float32 numbers come back exactly.
    """
    return dict(
        zip(scalars, torch.stack([scalar.detach().double() for scalar in scalars.values()]).cpu().tolist(), strict=True)
    )


def supported(device: str) -> torch.device:
    """The device of that name: cpu, cuda or cuda:N, whether it is there or not. Raises InputError for any other."""
    try:
        known = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"'{device}' is not a device; choose --device cpu or --device cuda.") from error
    if known.type not in ("cpu", "cuda"):
        raise InputError(f"--device {device} was asked for, but only cpu and cuda are supported; choose one of them.")
    return known


def is_there(device: str) -> bool:
    """Whether this machine has it."""
    known = supported(device)
    return known.type == "cpu" or (known.index or 0) < torch.cuda.device_count()


def check_device(device: str) -> None:
    """Raise InputError for a device that is not supported, or not there."""
    if not is_there(device):
        raise InputError(
            f"--device {device} was asked for, but torch sees {torch.cuda.device_count()} CUDA GPUs; "
            f"choose --device cpu, or install a CUDA build of torch."
        )


def moved(thing: Thing, device: str | None) -> Thing:
    """The same on that device; itself where None is named. Raises InputError as `check_device`."""
    if device is None:
        return thing
    check_device(device)
    return thing.to(device)
