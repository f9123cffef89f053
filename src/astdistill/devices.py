"""What numbers can be computed on: the devices that are supported, and whether they are there."""

from __future__ import annotations

import torch

from .errors import InputError


def supported(device: str) -> torch.device:
    """The device of that name: cpu, cuda or cuda:N, whether it is there or not. Raises InputError for any other."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"'{device}' is not a device; choose --device cpu or --device cuda.") from error
    if found.type not in ("cpu", "cuda"):
        raise InputError(f"--device {device} was asked for, but only cpu and cuda are supported; choose one of them.")
    return found


def is_there(device: str) -> bool:
    """Whether this machine has it."""
    found = supported(device)
    return found.type == "cpu" or (found.index or 0) < torch.cuda.device_count()


def check_device(device: str) -> None:
    """Raise InputError for a device that is not supported, or not there."""
    if not is_there(device):
        raise InputError(
            f"--device {device} was asked for, but torch sees {torch.cuda.device_count()} CUDA GPUs; choose --device cpu, or install a "
            "CUDA build of torch."
        )
