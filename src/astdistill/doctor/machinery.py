"""What computes here: the hand-written kernels, torch's compiler, GPUs, and the engine that is taken."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..engines import EagerEngine, chosen, engine_name, engine_of
from ..engines.blocks import blocks_of
from ..engines.choice import VARIABLE
from ..engines.library import KernelError, lanes, make
from ..engines.native import NativeEngine
from ..engines.workspace import Workspace
from ..models import FlatModel, build_model
from ..progress import size
from ..seeds import rng, seeded
from .findings import Finding, shortened

SHAPE, CLASSES = (3, 32, 32), 10
LEAST_COSINE = 1 - 1e-6
TIMED = "convnet-d3", 32
"""The network of the published cells, and the images of one call."""


def kernels() -> Iterator[Finding]:
    """Whether the native engine's kernels can be made, and whether what they compute is right."""
    advice = "install gcc or clang, or set CC; until then torch's own derivatives take several times as long"
    try:
        library = make()
    except KernelError as error:
        yield Finding(name="native engine", state="note", text=f"not available: {error}", advice=advice)
        return
    model, given = _problem("convnet-d2-w32", 4)
    module = model.module
    blocks = blocks_of(module, SHAPE)
    assert blocks is not None
    ours = NativeEngine(model, blocks, library, Workspace()).directional(*given)
    theta, direction, images, targets = (part.double() for part in given)
    exact = EagerEngine(FlatModel(module.double())).directional(theta, direction, images, targets)
    cosine = min(_cosine(ours.theta, exact.theta), _cosine(ours.images, exact.images))
    good = cosine >= LEAST_COSINE
    text = f"kernels built, {lanes(library)} channels at once; cosine with torch in float64: {cosine:.8f}"
    advice = "" if good else f"set {VARIABLE}=eager, and report this with your compiler's version"
    yield Finding(name="native engine", state="good" if good else "bad", text=text, advice=advice)


def compiler() -> Iterator[Finding]:
    """Whether torch.compile works, on the CPU and on a GPU if there is one."""
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        name = f"torch.compile, {device}"
        numbers = torch.linspace(0, 1, 64, device=device)
        try:
            found = torch.compile(_curve, fullgraph=True)(numbers)
        except Exception as error:  # whatever the compilers below torch raise
            text = f"does not work: {type(error).__name__}: {shortened(str(error))}"
            needs = "a C++ compiler (g++)" if device == "cpu" else "triton and a C compiler"
            yield Finding(name=name, state="note", text=text, advice=f"it needs {needs}; without it --engine compiled runs as eager")
            continue
        right = torch.allclose(found, _curve(numbers))
        text = "works" if right else "gives other numbers than torch itself"
        yield Finding(name=name, state="good" if right else "bad", text=text, advice="" if right else "do not use --engine compiled")


def _curve(numbers: Tensor) -> Tensor:
    return (numbers.sin() * 2 + numbers.exp()).cumsum(0)


def gpus() -> Iterator[Finding]:
    """The CUDA devices that torch sees, and their free memory."""
    if not torch.cuda.is_available():
        build = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield Finding(name="GPU", state="note", text=f"none; {build}; everything runs on the CPU")
        return
    for number in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(number)
        text = f"{torch.cuda.get_device_name(number)}, {size(free)} of {size(whole)} free; use it with --device cuda:{number}"
        yield Finding(name=f"GPU {number}", state="good", text=text)


def engine() -> Iterator[Finding]:
    """The engine that is taken on each kind of device, and its rate."""
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        model, (theta, _, images, targets) = _problem(*TIMED, device=device)
        taken = engine_of(model)
        seconds = _fastest(lambda: taken.gradient(theta, images, targets), device)  # noqa: B023  (called at once)
        asked = f"${VARIABLE} asks for it" if os.environ.get(VARIABLE, "auto") != "auto" else "chosen by auto"
        text = f"{engine_name(model, theta, images)} ({asked}): {TIMED[1] / seconds:,.0f} images a second, gradient of {TIMED[0]}"
        yield Finding(name=f"engine, {device}", state="good", text=f"{text}, 32 px, batch {TIMED[1]}, {torch.get_num_threads()} threads")


def _fastest(step: Any, device: str) -> float:
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def _problem(name: str, batch: int, device: str = "cpu") -> tuple[FlatModel, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """A network, and θ, a direction, images and targets for it."""
    chosen()  # an unknown engine is an InputError here already
    with seeded(0, "doctor"):
        model = FlatModel(build_model(name, SHAPE, CLASSES).to(device))
    generator = rng(0, "doctor")
    theta = model.flatten().to(device)
    images = torch.randn(batch, *SHAPE, generator=generator).to(device)
    targets = torch.nn.functional.one_hot(torch.arange(batch) % CLASSES, CLASSES).float().to(device)
    return model, (theta, torch.randn(len(theta), generator=generator).to(device), images, targets)


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double().flatten(), other.flatten(), dim=0))
