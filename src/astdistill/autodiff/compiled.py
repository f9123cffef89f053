"""The engine for CUDA, and for networks without native kernels: each derivative as one compiled graph, in a chosen
precision."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from ..models.convnets import architecture, is_plain
from ..models.flat import FlatModel
from ..runtime.errors import unknown
from ..runtime.progress import console
from ..runtime.shapes import Batch, Logits, Params, Targets
from . import derivatives
from .engine import Directional, EagerEngine, Gradient, PenaltyForm

Precision = Literal["float32", "tf32", "bfloat16"]
"""float32: all bits; tf32: products of 10 bits on CUDA, float32 elsewhere; bfloat16: the network by autocast, 7
bits."""


def checked(precision: str) -> Precision:
    """The precision itself. Raises InputError for an unknown one."""
    for each in get_args(Precision):
        if precision == each:
            return each
    raise unknown("precision", precision, get_args(Precision))


@contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute the matrix products and convolutions of the block in TF32 or in float32, and restore the settings of the
    process afterwards.

    Nothing changes on the CPU. The two settings below are consistent with all getters of torch 2.13: after
    `torch.backends.cuda.matmul.fp32_precision = "tf32"` alone, or `cudnn.conv.fp32_precision = "ieee"` alone, the older
    getters, which `torch.compile` still calls, raise "you have used mix of the legacy and new APIs".
    """
    if device.type != "cuda":
        yield
        return
    allowed = precision != "float32"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def in_bfloat16(model: Callable[[Params, Batch], Logits]) -> Callable[[Params, Batch], Logits]:
    """The same network with its convolutions and products in bfloat16 by autocast; θ, its gradient and the logits keep
    their dtype.

    Sums inside those products run in float32. Casts are not cached: the cache of autocast persists across the passes
    of one derivative and would use the weights of a tangent for a primal.
    """

    def rounded(theta: Params, images: Batch) -> Logits:
        with torch.autocast(theta.device.type, torch.bfloat16, cache_enabled=False):
            logits = model(theta, images)
        return logits.to(theta.dtype)

    return rounded


Result = TypeVar("Result")
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
SHAPES = 4
"""Number of shapes that a function is compiled for; it runs eager for others, since each compilation takes tens of
seconds.

Two kinds of sets (synthetic, real) have one full and one last batch each.
"""


@dataclass(frozen=True)
class _Task:
    """A function to compile: its name, the function that builds it, and its inputs."""

    name: str
    build: Callable[[derivatives.Model], derivatives.Function]
    inputs: tuple[Tensor, ...]

    @property
    def shape(self) -> Hashable:
        """Equal for two calls that can use the same compiled function."""
        return (*(part.shape for part in self.inputs), self.inputs[0].dtype, self.inputs[0].device)


class CompiledEngine:
    """`torch.compile` of `derivatives`, for each function and shape at its first call.

    `mode` is that of torch.compile; None takes "reduce-overhead" on CUDA (CUDA graphs: one launch a call) and "default"
    elsewhere. A network that cannot be compiled runs on `EagerEngine` from then on, with one warning that names the
    cause. Torch caches compiled kernels across processes, in TORCHINDUCTOR_CACHE_DIR or `torchinductor_<user>` in the
    folder for temporary files; each process traces again.

    With `precision="bfloat16"` the cosine with float64 falls to 0.9975 (∇_θ ℓ), 0.9967 and 0.9956 (`directional`, in θ
    and x), and that of `penalised` to 0.97 on a processor with AMX (Xeon; 0.971 and 0.979, n = 2 seeds) and to 0.9982
    on one without (EPYC, n = 1), the others alike on both: convnet-d3-w32 at its initialisation, ten random 32 px
    images, one direction, torch 2.13. Raises InputError for an unknown mode or precision.
    """

    def __init__(
        self, model: Callable[[Params, Batch], Logits], *, mode: str | None = None, precision: Precision = "tf32"
    ) -> None:
        if mode is not None and mode not in MODES:
            raise unknown("compile mode", mode, MODES)
        self.precision: Precision = checked(precision)
        self.model, self.mode = model, mode
        if precision == "bfloat16":
            self.model = in_bfloat16(model)
        self._eager = EagerEngine(self.model)
        self._compiled: dict[str, dict[Hashable, derivatives.Function]] = {}
        self._scalars: dict[Hashable, Tensor] = {}
        self._layouts = [derivatives.channels_last(self.model), self.model]

    def logits(self, theta: Params, images: Batch) -> Logits:
        """f(θ, x), never compiled: test batches have too many shapes for the gain of a single forward pass."""
        with products(self.precision, theta.device):
            return self._eager.logits(theta, images)

    def gradient(self, theta: Params, images: Batch, targets: Targets) -> Gradient:
        """ℓ, f and ∇_θ ℓ."""
        return self._compute(
            _Task("gradient", derivatives.gradient, (theta, images, targets)),
            lambda parts: Gradient(*parts),
            lambda: self._eager.gradient(theta, images, targets),
        )

    def directional(
        self, theta: Params, direction: Params, images: Batch, targets: Targets, curvature: bool = True
    ) -> Directional:
        """The derivative along `direction` in θ; without `curvature`, zeros replace (∂²ℓ/∂θ²) m."""
        return self._compute(
            _Task(
                f"directional, curvature {curvature}",
                partial(derivatives.directional, curvature=curvature),
                (theta, direction, images, targets),
            ),
            lambda parts: Directional.of(theta, *parts),
            lambda: self._eager.directional(theta, direction, images, targets, curvature),
        )

    def penalised(
        self,
        theta: Params,
        images: Batch,
        targets: Targets | None,
        penalty: float,
        clip: float = 1.0,
        form: PenaltyForm = "image",
    ) -> Gradient:
        """`gradient` of clip·ℓ + penalty·mean (‖∇_x Σ_k f_k‖₂ − 1)²; the factors may change from call to call."""
        inputs: tuple[Tensor, ...] = (
            theta,
            images,
            self._scalar_tensor(penalty, theta),
            self._scalar_tensor(clip, theta),
        )
        if targets is not None:
            inputs = *inputs, targets
        return self._compute(
            _Task(f"penalised {form}", partial(derivatives.penalised, form=form), inputs),
            lambda parts: Gradient(*parts),
            lambda: self._eager.penalised(theta, images, targets, penalty, clip, form),
        )

    def _compute(
        self, task: _Task, pack: Callable[[tuple[Tensor, ...]], Result], eager: Callable[[], Result]
    ) -> Result:
        """The result of the compiled function of `task`, or of `eager` if it is not compiled."""
        theta, error = task.inputs[0], None
        with products(self.precision, theta.device):
            if self._should_compile(task):
                try:
                    return pack(self._run(task))
                except Exception as failure:
                    self._compiled[task.name].pop(task.shape, None)
                    error = failure
            result = eager()  # raises if the input, not the compiler, causes the error
        if error is not None:
            self._drop_layout(error)
        return result

    def _should_compile(self, task: _Task) -> bool:
        compiled = self._compiled.setdefault(task.name, {})
        return bool(self._layouts) and (task.shape in compiled or len(compiled) < SHAPES)

    def _run(self, task: _Task) -> tuple[Tensor, ...]:
        compiled, mode = self._compiled[task.name], self._mode(task.inputs[0].device)
        if task.shape not in compiled:
            compiled[task.shape] = torch.compile(
                _with_new_code(task.build(self._layouts[0])), fullgraph=True, dynamic=False, mode=mode
            )
        # One layout, and no gradient mode: torch.compile would recompile for any other.
        inputs = (part.detach().contiguous() for part in task.inputs)
        with torch.no_grad():
            if mode == "default":
                return compiled[task.shape](*inputs)
            # With CUDA graphs the next replay overwrites the results of this one.
            torch.compiler.cudagraph_mark_step_begin()
            return tuple(part.clone() for part in compiled[task.shape](*inputs))

    def _mode(self, device: torch.device) -> str:
        if self.mode is None and device.type == "cuda":
            return "reduce-overhead"
        return self.mode or "default"

    def _scalar_tensor(self, value: float, like: Tensor) -> Tensor:
        """`value` as a tensor, filled on the device: a copy from the host would wait for all pending work."""
        key = value, like.dtype, like.device
        if key not in self._scalars:
            self._scalars[key] = torch.full((), value, dtype=like.dtype, device=like.device)
        return self._scalars[key]

    def _drop_layout(self, error: Exception) -> None:
        """Continue with the next layout (the forward-mode rule of `nn.GroupNorm` takes only the contiguous one), or
        without a compiler."""
        self._layouts.pop(0)
        self._compiled.clear()
        if self._layouts:
            return
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        console().print(
            f"Compiling this network failed ({type(error).__name__}: {lines[0].strip()}); "
            "it runs without a compiler from here on, with the same results.",
            style="yellow",
            markup=False,
            highlight=False,
        )


_SHARED: dict[Hashable, CompiledEngine] = {}


def compiled_engine(
    model: Callable[[Params, Batch], Logits], *, mode: str | None = None, precision: Precision = "tf32"
) -> CompiledEngine:
    """One engine for all ConvNets of the same architecture, for any parameters: fifty experts compile once. A new
    engine for any other function.

    Only a plain ConvNet is known to be the same function of θ.
    """
    if not (isinstance(model, FlatModel) and is_plain(model.module)):
        return CompiledEngine(model, mode=mode, precision=precision)
    key = architecture(model.module), model.size, mode, precision
    if key not in _SHARED:
        _SHARED[key] = CompiledEngine(model, mode=mode, precision=precision)
    return _SHARED[key]


def _with_new_code(function: derivatives.Function) -> derivatives.Function:
    """The function with a new code object: torch counts compiled variants per code object, and stops at 8 in a
    process."""
    assert isinstance(function, FunctionType)
    return FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
