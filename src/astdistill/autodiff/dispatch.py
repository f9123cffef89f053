"""Selects the engine: the fastest that supports the network, its device and its precision."""

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


_REQUESTED: ContextVar[str | None] = ContextVar("engine", default=None)
"""The engine named by `using`: for one thread, not for processes that it starts, which get it as data."""


@contextmanager
def using(name: str | None) -> Iterator[None]:
    """Compute with this engine inside the block, in this thread only; None and "auto" keep the choice of the outer
    block.

    Raises InputError for an unknown engine.
    """
    if name in (None, "auto"):
        name = _REQUESTED.get()
    before = _REQUESTED.set(name)
    try:
        chosen()
        yield
    finally:
        _REQUESTED.reset(before)


@contextmanager
def computing(
    engine: str | None = None, threads: int | None = None, cluster: str | None = None, allow_mixed: bool = False
) -> Iterator[None]:
    """Combine `using` (the engine), `limited` (the number of CPU threads) and `on_cluster` (the cluster for jobs) for a
    block."""
    with using(engine), limited(threads), on_cluster(cluster, threads, allow_mixed):
        yield


@contextmanager
def on_cluster(address: str | None, threads: int | None = None, allow_mixed: bool = False) -> Iterator[None]:
    """Inside the block, experts and evaluated networks are trained on the nodes of the Ray cluster at `address`, "auto"
    or HOST:PORT, each with `threads` threads (None: one). An address of None keeps the choice of the outer block.

    Nodes whose engine, instruction set or versions differ from this machine are refused, unless `allow_mixed`. Raises
    InputError for any other address.
    """
    if address is None:
        yield
        return
    with clustered(Cluster(address, threads or 1, allow_mixed, partial(engine_here, chosen()))):
        yield


def engine_here(name: str) -> dict[str, str]:
    """The engine that the CPU of this machine uses for `name`, as text that differs wherever results may differ in
    bits; and the compiler."""
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
    """The requested engine: that of `using`, else `$ASTDISTILL_ENGINE`, else auto. Raises InputError for an unknown
    one."""
    name = _REQUESTED.get()
    if name is None:
        name = os.environ.get(VARIABLE) or "auto"
    if name not in get_args(EngineName):
        raise unknown("engine", name, get_args(EngineName))
    return name


class ChosenEngine:
    """Forwards each call to the engine for θ and the images; caches the engines that it has created."""

    def __init__(self, model: Callable[[Params, Batch], Logits], module: nn.Module | None) -> None:
        self._model, self._module = model, module
        self._engines: dict[object, Engine] = {}

    def _select(self, theta: Params, images: Batch) -> Engine:
        name = chosen()
        if name == "auto" and theta.is_cuda:
            name = "compiled"
        if name == "compiled":
            return self._cached(name, lambda: compiled_engine(self._model))
        if name == "compiled-bfloat16":
            return self._cached(name, lambda: compiled_engine(self._model, precision="bfloat16"))
        if name != "eager" and (native := self._native(theta, images)) is not None:
            return native
        return self._cached("eager", lambda: EagerEngine(self._model))

    def name(self, theta: Params, images: Batch) -> str:
        """The engine for θ and the images: native, compiled, compiled-bfloat16 or eager."""
        match self._select(theta, images):
            case CompiledEngine(precision="bfloat16"):
                return "compiled-bfloat16"
            case CompiledEngine():
                return "compiled"
            case NativeEngine():
                return "native"
            case _:
                return "eager"

    def _cached(self, key: object, make: Callable[[], Engine]) -> Engine:
        if key not in self._engines:
            self._engines[key] = make()
        return self._engines[key]

    def _native(self, theta: Params, images: Batch) -> Engine | None:
        if theta.dtype != torch.float32 or images.dtype != torch.float32 or theta.is_cuda or self._module is None:
            return None
        shape = images.shape[1], images.shape[2], images.shape[3]
        if shape not in self._engines:
            self._engines[shape] = self._create_native(shape)
        return self._engines[shape]

    def _create_native(self, shape: tuple[int, int, int]) -> Engine:
        if isinstance(self._model, FlatModel) and self._module is not None:
            blocks = blocks_of(self._module, shape)
            if blocks is not None and (kernels := library()) is not None:
                return NativeEngine(self._model, blocks, kernels, Workspace())
        return EagerEngine(self._model)

    def held_bytes(self) -> int:
        """Bytes that the native engine keeps between calls."""
        spaces = [engine.space for engine in self._engines.values() if isinstance(engine, NativeEngine)]
        return sum(buffer.nbytes for space in spaces for buffer in space.buffers.values())

    def logits(self, theta: Params, images: Batch) -> Logits:
        """f(θ, x)."""
        return self._select(theta, images).logits(theta, images)

    def features(self, theta: Params, images: Batch) -> Features:
        """The input of the last linear layer. Differentiable in the images, with native kernels once; θ is constant."""
        engine = self._select(theta, images)
        if isinstance(engine, NativeEngine):
            return _Features.apply(images, theta.detach(), engine)
        assert isinstance(self._model, FlatModel), "other functions of θ and images have no features"
        return self._model.features(theta.detach(), images)

    def gradient(self, theta: Params, images: Batch, targets: Targets) -> Gradient:
        """ℓ, f and ∇_θ ℓ."""
        return self._select(theta, images).gradient(theta, images, targets)

    def directional(
        self, theta: Params, direction: Params, images: Batch, targets: Targets, curvature: bool = True
    ) -> Directional:
        """The derivative along `direction`."""
        return self._select(theta, images).directional(theta, direction, images, targets, curvature)

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
        return self._select(theta, images).penalised(theta, images, targets, penalty, clip, form)


def engine_of(model: Callable[[Params, Batch], Logits]) -> ChosenEngine:
    """The engine of a network, the same one for the same `FlatModel`; any other function of (θ, images) is
    differentiated by torch."""
    if not isinstance(model, FlatModel):
        return ChosenEngine(model, None)
    # Stored on the network, so that its buffers live exactly as long.
    return vars(model).setdefault("_engine", ChosenEngine(model, model.module))


class _Features(torch.autograd.Function):
    """Features by the native kernels, with `features_back` as the backward pass."""

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
    """The engine of this network for θ and the images: native, compiled, compiled-bfloat16 or eager."""
    return engine_of(model).name(theta, images)


def held_bytes(model: FlatModel | None) -> int:
    """The bytes that the engine of a network keeps between calls."""
    if model is None:
        return 0
    return engine_of(model).held_bytes()
