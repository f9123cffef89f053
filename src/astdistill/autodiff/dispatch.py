"""Which engine computes: the fastest that can do the network, where it lies, in its precision."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..models.flat import FlatModel
from ..runtime.cluster import Cluster, clustered
from ..runtime.devices import EngineName
from ..runtime.errors import unknown
from ..runtime.parallel import limited
from ..runtime.shapes import Batch, Features, Logits, Params, Targets
from .compiled import CompiledEngine, compiled_engine
from .engine import Directional, EagerEngine, Engine, Gradient, PenaltyForm
from .native.build import library
from .native.engine import NativeEngine
from .native.layout import Workspace, blocks_of
from .native.variants import compiler_version, find_compiler

VARIABLE = "ASTDISTILL_ENGINE"


_ASKED: ContextVar[str | None] = ContextVar("engine", default=None)
"""What `using` names: for one thread, and never for a process that it starts, which is told as data."""


@contextmanager
def using(name: str | None) -> Iterator[None]:
    """Compute with this engine inside the block, in this thread alone; None and "auto" leave the surroundings' choice.

    Raises InputError for an unknown engine.
    """
    if name in (None, "auto"):
        name = _ASKED.get()
    before = _ASKED.set(name)
    try:
        chosen()
        yield
    finally:
        _ASKED.reset(before)


@contextmanager
def computing(
    engine: str | None = None, threads: int | None = None, cluster: str | None = None, allow_mixed: bool = False
) -> Iterator[None]:
    """Compute inside the block with this engine, as `using`, and on so many threads of the CPU, as `limited`; jobs on
    this cluster, as `on_cluster`."""
    with using(engine), limited(threads), on_cluster(cluster, threads, allow_mixed):
        yield


@contextmanager
def on_cluster(address: str | None, threads: int | None = None, allow_mixed: bool = False) -> Iterator[None]:
    """Inside the block, experts and evaluated networks are trained on the nodes of the Ray cluster at `address`, "auto"
    or HOST:PORT, each by so many threads (None: one); None leaves the surroundings' choice.

    Nodes whose engine, instruction set or versions are others than here are refused, unless `allow_mixed`. Raises
    InputError for another address.
    """
    if address is None:
        yield
        return
    with clustered(Cluster(address, threads or 1, allow_mixed, partial(engine_here, chosen()))):
        yield


def engine_here(name: str) -> dict[str, str]:
    """What computes on the CPU of this machine where the engine `name` is asked for, in words that differ where bits
    may; and the compiler."""
    compiler = find_compiler()
    facts = {"engine": name, "compiler": "none"}
    if compiler is not None:
        facts["compiler"] = compiler_version(compiler).partition("\n")[0]
    if name in ("auto", "native"):
        facts["engine"] = "eager"
        if (kernels := library()) is not None:
            facts["engine"] = f"native {Path(kernels._name).name.rpartition('-')[0]}"
    return facts


def chosen() -> str:
    """The engine asked for: that of `using`, else `$ASTDISTILL_ENGINE`, else auto. Raises InputError for an unknown
    one."""
    name = _ASKED.get() or os.environ.get(VARIABLE) or "auto"
    if name not in get_args(EngineName):
        raise unknown("engine", name, get_args(EngineName))
    return name


class ChosenEngine:
    """Asks, at every call, the engine that suits θ and the images; keeps each engine that it has made."""

    def __init__(self, model: Callable[[Params, Batch], Logits], module: nn.Module | None) -> None:
        self._model, self._module = model, module
        self._made: dict[object, Engine] = {}

    def _for(self, theta: Params, images: Batch) -> Engine:
        wanted = chosen()
        if wanted == "auto" and theta.is_cuda:
            wanted = "compiled"
        if wanted == "compiled":
            return self._kept(wanted, lambda: compiled_engine(self._model))
        if wanted == "compiled-bfloat16":
            return self._kept(wanted, lambda: compiled_engine(self._model, precision="bfloat16"))
        if wanted != "eager" and (native := self._native(theta, images)) is not None:
            return native
        return self._kept("eager", lambda: EagerEngine(self._model))

    def name(self, theta: Params, images: Batch) -> str:
        """What computes at θ and the images: native, compiled, compiled-bfloat16 or eager."""
        match self._for(theta, images):
            case CompiledEngine(precision="bfloat16"):
                return "compiled-bfloat16"
            case CompiledEngine():
                return "compiled"
            case NativeEngine():
                return "native"
            case _:
                return "eager"

    def _kept(self, key: object, make: Callable[[], Engine]) -> Engine:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _native(self, theta: Params, images: Batch) -> Engine | None:
        if theta.dtype != torch.float32 or images.dtype != torch.float32 or theta.is_cuda or self._module is None:
            return None
        shape = images.shape[1], images.shape[2], images.shape[3]
        if shape not in self._made:
            self._made[shape] = self._best(shape)
        return self._made[shape]

    def _best(self, shape: tuple[int, int, int]) -> Engine:
        if isinstance(self._model, FlatModel) and self._module is not None:
            blocks = blocks_of(self._module, shape)
            if blocks is not None and (kernels := library()) is not None:
                return NativeEngine(self._model, blocks, kernels, Workspace())
        return EagerEngine(self._model)

    def held_bytes(self) -> int:
        """What the native engine keeps between calls."""
        spaces = [made.space for made in self._made.values() if isinstance(made, NativeEngine)]
        return sum(buffer.nbytes for space in spaces for buffer in space.kept.values())

    def logits(self, theta: Params, images: Batch) -> Logits:
        """f(θ, x)."""
        return self._for(theta, images).logits(theta, images)

    def features(self, theta: Params, images: Batch) -> Features:
        """What the last linear layer is given. Differentiable in the images, by native kernels once; θ is constant."""
        engine = self._for(theta, images)
        if isinstance(engine, NativeEngine):
            return _Features.apply(images, theta.detach(), engine)
        assert isinstance(self._model, FlatModel), "other functions of θ and images have no features"
        return self._model.features(theta.detach(), images)

    def gradient(self, theta: Params, images: Batch, targets: Targets) -> Gradient:
        """ℓ, f and ∇_θ ℓ."""
        return self._for(theta, images).gradient(theta, images, targets)

    def directional(
        self, theta: Params, direction: Params, images: Batch, targets: Targets, curvature: bool = True
    ) -> Directional:
        """The derivative along `direction`."""
        return self._for(theta, images).directional(theta, direction, images, targets, curvature)

    def penalised(
        self,
        theta: Params,
        images: Batch,
        targets: Targets | None,
        penalty: float,
        clip: float = 1.0,
        form: PenaltyForm = "image",
    ) -> Gradient:
        """The gradient of the penalised loss."""
        return self._for(theta, images).penalised(theta, images, targets, penalty, clip, form)


def engine_of(model: Callable[[Params, Batch], Logits]) -> ChosenEngine:
    """The engine of a network, the same one for the same `FlatModel`; any other function of (θ, images) is
    differentiated by torch."""
    if not isinstance(model, FlatModel):
        return ChosenEngine(model, None)
    # Kept with the network, because its buffers should live exactly as long.
    return vars(model).setdefault("_engine", ChosenEngine(model, model.module))


class _Features(torch.autograd.Function):
    """Features by the native kernels, through which torch goes back by `features_back`."""

    @staticmethod
    def forward(ctx: Any, images: Batch, theta: Params, engine: NativeEngine) -> Features:
        ctx.save_for_backward(images, theta)
        ctx.engine = engine
        return engine.features(theta, images.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Features) -> tuple[Batch, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        images, theta = ctx.saved_tensors
        return ctx.engine.features_back(theta, images.detach(), grad_outputs[0]), None, None


def engine_name(model: FlatModel, theta: Params, images: Batch) -> str:
    """What computes this network at θ and the images: native, compiled, compiled-bfloat16 or eager."""
    return engine_of(model).name(theta, images)


def held_bytes(model: FlatModel | None) -> int:
    """The bytes that the engine of a network keeps between calls."""
    if model is None:
        return 0
    return engine_of(model).held_bytes()
