"""A device that is elsewhere: what a graphics card would refuse or wait for, found without one.

Tensors on "far" hold their numbers in a tensor of the CPU, so that every result can be compared to the bit; but they
cannot be read, mixed with the CPU's, or handed to numpy, as those of a card cannot. Every operation that makes the host
wait for a card is counted.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from astdistill.runtime.seeds import to_device

FAR = "far"
ops = torch.ops.aten
CROSSING = {ops._to_copy.default, ops.copy_.default}
"""What may take tensors of both devices."""
READS = {
    ops._local_scalar_dense.default,
    ops.nonzero.default,
    ops.equal.default,
    ops.is_nonzero.default,
    ops.masked_select.default,
}
"""What needs a number of the device on the host, if only to know how large the result is."""
INDEXED = {ops.index.Tensor, ops.index_put.default, ops.index_put_.default}

waits: Counter[str] = Counter()
"""How often the host waited, by the place in astdistill."""
uploads: Counter[str] = Counter()
"""How often a tensor of the host was copied there otherwise than by `seeds.to_device`, which pins it: a card's host
waits for these, too."""


class Far(torch.Tensor):
    """A tensor whose numbers are `near`'s, on a device of its own."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Far:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(FAR, 0),
        )

    def __init__(self, near: torch.Tensor) -> None:
        self.near = near

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Far({tuple(self.shape)})"

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, other: Far) -> None:
        self.near = other.near

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("a tensor that is elsewhere has no numpy array; call .cpu() first")

    def tolist(self) -> list[Any]:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied: torch.Tensor = Far(self.near.detach().clone())
        copied = torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied
        memo[id(self)] = copied
        return copied

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Operations that make a tensor from nothing, or from one of the CPU's, on the far device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_far(kwargs.get("device")) or any(isinstance(leaf, Far) for leaf in _leaves((args, kwargs))):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


class _FromNumbers(TorchFunctionMode):
    """`torch.tensor(numbers, device="far")`, which reaches no operation that can be seen: made here and sent."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _is_far(kwargs.get("device")):
            return func(*args, **(kwargs | {"device": "cpu"})).to(FAR)
        return func(*args, **kwargs)


@contextmanager
def far_device() -> Iterator[None]:
    """Inside the block tensors can be made on the device "far" (`register` it first)."""
    with _Factories(), _FromNumbers():
        yield


def register() -> None:
    """Tell torch of the device: once in a process, which cannot forget it, and before its first gradient."""
    _setup_privateuseone_for_python_backend(FAR)


def _is_far(device: Any) -> bool:
    return device is not None and torch.device(device).type == FAR


def _leaves(value: Any) -> Iterator[Any]:
    """What lists, tuples and dictionaries hold; torch's own functions for it know more kinds and take most of the
    time."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        yield value
        return
    for each in value:
        yield from _leaves(each)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same lists, tuples and dictionaries of changed leaves."""
    if isinstance(value, dict):
        return {name: _mapped(change, each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(change, each) for each in value])
    return change(value)


def _near(value: Any) -> Any:
    if isinstance(value, Far):
        return value.near
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == FAR else value


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    tensors = [leaf for leaf in _leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, Far)]
    _refuse_mixtures(func, args, tensors)
    out = func(*_mapped(_near, args), **_mapped(_near, kwargs))
    wanted = kwargs.get("device")
    leaves = bool(far) and not (wanted is None or _is_far(wanted))
    if func in READS or leaves or _lands_near(func, args) or _masks(func, args):
        waits[_place()] += 1
    if _enters(func, args, kwargs, far) and all(
        frame.f_code is not to_device.__code__ for frame, _ in traceback.walk_stack(None)
    ):
        uploads[_place()] += 1
    if leaves or func is ops._local_scalar_dense.default or (not far and not _is_far(wanted)):
        return out
    wrapped = _mapped(
        lambda value: Far(value) if isinstance(value, torch.Tensor) and not isinstance(value, Far) else value, out
    )
    return return_and_correct_aliasing(func, tuple(args), dict(kwargs), wrapped) if far else wrapped


def _refuse_mixtures(func: Any, args: Sequence[Any], tensors: Sequence[torch.Tensor]) -> None:
    """As a card: a number of the CPU may stand beside its tensors, a tensor may not, except as an index."""
    looked_at = list(_leaves((args[0], args[2:]))) if func in INDEXED else tensors
    near = [each for each in looked_at if isinstance(each, torch.Tensor) and not isinstance(each, Far) and each.dim()]
    if near and any(isinstance(tensor, Far) for tensor in tensors) and func not in CROSSING:
        raise RuntimeError(
            f"{func} was given tensors of two devices: {[(type(t).__name__, tuple(t.shape)) for t in tensors]}"
        )


def _lands_near(func: Any, args: Sequence[Any]) -> bool:
    return func is ops.copy_.default and isinstance(args[1], Far) and not isinstance(args[0], Far)


def _enters(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], far: Sequence[Any]) -> bool:
    if func is ops.copy_.default:
        return isinstance(args[0], Far) and not isinstance(args[1], Far)
    return func is ops._to_copy.default and not far and _is_far(kwargs.get("device"))


def _masks(func: Any, args: Sequence[Any]) -> bool:
    """Whether an index is a mask, whose number of ones the host must know, or lies on the CPU and has to be sent."""
    if func not in INDEXED or not isinstance(args[0], Far):
        return False
    return any(index is not None and (index.dtype == torch.bool or not isinstance(index, Far)) for index in args[1])


def _place() -> str:
    """The innermost function of astdistill that is at work."""
    own = [frame for frame in traceback.extract_stack() if "/astdistill/" in frame.filename]
    return f"{own[-1].filename.rsplit('/astdistill/', 1)[1]}:{own[-1].name}" if own else "elsewhere"
