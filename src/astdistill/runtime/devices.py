"""Supported devices and whether this machine has them, the names of engines, and the transfer of computed numbers to
the host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeVar

from .errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

AUTO = "auto"
"""The device name for a CUDA GPU if there is a usable one, and the CPU otherwise."""
EngineName = Literal["auto", "native", "compiled", "compiled-bfloat16", "eager"]
"""auto: native where it can be, compiled on an accelerator, else eager. native falls back to eager for what it cannot
do; compiled-bfloat16 is the approximate one (see `CompiledEngine`)."""


class Movable(Protocol):
    """Anything that can be moved to another device, such as a tensor or a data set."""

    def to(self, device: str, /) -> Self: ...


Thing = TypeVar("Thing", bound=Movable)


def read(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """The numbers that each scalar tensor holds, by its name; truth values are 1.0 and 0.0.

    However many there are, the host waits once for the device. float32 numbers come back exactly.
    """
    import torch  # imported in functions, because this module is also needed where nothing is computed

    return dict(
        zip(scalars, torch.stack([scalar.detach().double() for scalar in scalars.values()]).cpu().tolist(), strict=True)
    )


def settled_device(device: str | torch.device) -> str:
    """The device that a name resolves to: 'auto' is cuda if `usable_cuda`, otherwise cpu; other names are unchanged.

    Apple's mps is never chosen, because nothing here has been tested on it.
    """
    if device != AUTO:
        return str(device)
    if usable_cuda():
        return "cuda"
    return "cpu"


@lru_cache(maxsize=1)
def usable_cuda() -> bool:
    """Whether a kernel runs on the first CUDA GPU: an outdated driver, or a card that torch was not built for, is only
    detected by running one."""
    import torch

    if not torch.cuda.is_available():
        return False
    try:
        return (torch.ones(1, dtype=torch.float32, device="cuda") + 1).item() == 2
    except RuntimeError:
        return False


def supported(device: str) -> torch.device:
    """The device of that name: auto, cpu, cuda or cuda:N, whether this machine has it or not. Raises InputError for any
    other name."""
    import torch

    try:
        resolved = torch.device(settled_device(device))
    except RuntimeError as error:
        raise InputError(f"'{device}' is not a device; choose --device auto, cpu or cuda.") from error
    if resolved.type == "mps":
        raise InputError(f"--device {device} was asked for, but mps is not tested; choose --device auto, cpu or cuda.")
    if resolved.type not in ("cpu", "cuda"):
        raise InputError(
            f"--device {device} was asked for, but only cpu and cuda are supported; choose one of them, or auto."
        )
    return resolved


def is_available(device: str) -> bool:
    """Whether this machine has the device."""
    import torch

    resolved = supported(device)
    return resolved.type == "cpu" or (resolved.index or 0) < torch.cuda.device_count()


def check_device(device: str) -> None:
    """Raise InputError for a device that is not supported, or that this machine does not have."""
    import torch

    if not is_available(device):
        raise InputError(
            f"--device {device} was asked for, but torch sees {torch.cuda.device_count()} CUDA GPUs; "
            f"choose --device auto or cpu, or install a CUDA build of torch."
        )


def gpus(device: torch.device) -> int:
    """The number of GPUs that workers may divide among them for work on `device`: 0 for another kind of device, and if
    a GPU other than the first was named."""
    import torch

    if device.type != "cuda" or device.index:
        return 0
    return torch.cuda.device_count()


def own_gpu(number: int) -> dict[str, str]:
    """The environment of worker `number`, counted from 0, in which it sees one GPU, a different one for each worker."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(number + 1)))
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[number].strip()}


def moved(thing: Thing, device: str | None) -> Thing:
    """`thing` on that device; unchanged if `device` is None. Raises InputError as `check_device`."""
    if device is None:
        return thing
    check_device(device)
    return thing.to(settled_device(device))
