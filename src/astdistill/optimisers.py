"""The state of a torch optimiser as named tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

PREFIX = "optimiser."


def pack(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of the optimiser's state, named `optimiser.<parameter>.<name>`."""
    state = optimiser.state_dict()["state"]
    return {
        f"{PREFIX}{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def unpack(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimiser the state that `pack` took; tensors of other names are passed over."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(PREFIX):
            index, _, name = key.removeprefix(PREFIX).partition(".")
            state.setdefault(int(index), {})[name] = value.clone()
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
