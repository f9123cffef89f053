"""The engine for CUDA, and for networks without kernels of their own: each derivative as one compiled graph, in a
chosen precision."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from ..models.convnets import ConvNet
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
    """The precision itself. Raises InputError for any other word."""
    for known in get_args(Precision):
        if precision == known:
            return known
    raise unknown("precision", precision, get_args(Precision))


@contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute the block's matrix products and convolutions in TF32 or in float32, and leave the process's setting as it
    was.

    Nothing changes on the CPU. The two switches below are the ones that every reader in torch 2.13 agrees with: after
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

    Sums inside those products run in float32. Casts are not cached: the cache of autocast lives across the passes of
    one derivative and would hand a tangent's weights to a primal.
    """

    def rounded(theta: Params, images: Batch) -> Logits:
        with torch.autocast(theta.device.type, torch.bfloat16, cache_enabled=False):
            logits = model(theta, images)
        return logits.to(theta.dtype)

    return rounded


Result = TypeVar("Result")
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
SHAPES = 4
"""A function is compiled for so many shapes, and runs eager for others, since each compile takes tens of seconds.

Two kinds of sets (synthetic, real) with one whole and one last batch each.
"""


@dataclass(frozen=True)
class _Task:
    """One function, how it is built, and what it is called with."""

    name: str
    build: Callable[[derivatives.Model], derivatives.Function]
    given: tuple[Tensor, ...]

    @property
    def shape(self) -> Hashable:
        """Equal for two calls that one compiled function can serve."""
        return (*(part.shape for part in self.given), self.given[0].dtype, self.given[0].device)


class CompiledEngine:
    """`torch.compile` of `derivatives`, for each function and shape when it is first asked for.

    `mode` is torch.compile's; None takes "reduce-overhead" on CUDA (CUDA graphs: one launch a call) and "default"
    elsewhere. What cannot be compiled runs on `EagerEngine` from then on, with one warning that names the cause.
    Compiled kernels are kept by torch across processes, in TORCHINDUCTOR_CACHE_DIR or `torchinductor_<user>` in the
    folder for temporary files; the next process traces anew.

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
        self._numbers: dict[Hashable, Tensor] = {}
        self._layouts = [derivatives.channels_last(self.model), self.model]

    def logits(self, theta: Params, images: Batch) -> Logits:
        """f(θ, x), never compiled: test batches come in too many shapes for what a single forward pass would gain."""
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
        """The derivative along `direction` in θ; without `curvature`, zeros stand where (∂²ℓ/∂θ²) m would."""
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
        given: tuple[Tensor, ...] = theta, images, self._number(penalty, theta), self._number(clip, theta)
        if targets is not None:
            given = *given, targets
        return self._compute(
            _Task(f"penalised {form}", partial(derivatives.penalised, form=form), given),
            lambda parts: Gradient(*parts),
            lambda: self._eager.penalised(theta, images, targets, penalty, clip, form),
        )

    def _compute(
        self, task: _Task, named: Callable[[tuple[Tensor, ...]], Result], eager: Callable[[], Result]
    ) -> Result:
        """What the compiled function of `task` returns, or `eager` where it is not to be, or cannot be, compiled."""
        theta, error = task.given[0], None
        with products(self.precision, theta.device):
            if self._compiles(task):
                try:
                    return named(self._run(task))
                except Exception as caught:
                    self._compiled[task.name].pop(task.shape, None)
                    error = caught
            result = eager()  # raises where the input is at fault, not the compiler
        if error is not None:
            self._give_up(error)
        return result

    def _compiles(self, task: _Task) -> bool:
        known = self._compiled.setdefault(task.name, {})
        return bool(self._layouts) and (task.shape in known or len(known) < SHAPES)

    def _run(self, task: _Task) -> tuple[Tensor, ...]:
        known, mode = self._compiled[task.name], self._mode(task.given[0].device)
        if task.shape not in known:
            known[task.shape] = torch.compile(
                _own_code(task.build(self._layouts[0])), fullgraph=True, dynamic=False, mode=mode
            )
        # One layout, and no gradient mode: torch.compile would compile anew for any other.
        given = (part.detach().contiguous() for part in task.given)
        with torch.no_grad():
            if mode == "default":
                return known[task.shape](*given)
            # With CUDA graphs the next replay writes over what this one returns.
            torch.compiler.cudagraph_mark_step_begin()
            return tuple(part.clone() for part in known[task.shape](*given))

    def _mode(self, device: torch.device) -> str:
        if self.mode is None and device.type == "cuda":
            return "reduce-overhead"
        return self.mode or "default"

    def _number(self, value: float, like: Tensor) -> Tensor:
        """`value` on the device, filled there: a copy from the host would wait for everything that is under way."""
        key = value, like.dtype, like.device
        if key not in self._numbers:
            self._numbers[key] = torch.full((), value, dtype=like.dtype, device=like.device)
        return self._numbers[key]

    def _give_up(self, error: Exception) -> None:
        """Go on to the next layout (the forward-mode rule of `nn.GroupNorm` takes only the plain one), or do without a
        compiler."""
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
    """One engine for all ConvNets built alike, whatever their parameters: fifty experts compile once. A new one for any
    other function.

    Only the ConvNet, whose text names everything that its forward pass depends on, is known to be the same function of
    θ.
    """
    if not (isinstance(model, FlatModel) and isinstance(model.module, ConvNet)):
        return CompiledEngine(model, mode=mode, precision=precision)
    key = str(model.module), model.size, mode, precision
    if key not in _SHARED:
        _SHARED[key] = CompiledEngine(model, mode=mode, precision=precision)
    return _SHARED[key]


def _own_code(function: derivatives.Function) -> derivatives.Function:
    """The function with a code object of its own: torch counts compiled variants per code object, and stops at 8 for a
    whole process."""
    assert isinstance(function, FunctionType)
    return FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
