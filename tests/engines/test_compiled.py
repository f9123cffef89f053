"""Compiled derivatives against the eager engine in float64, their fallback, and what bfloat16 costs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from problems import SmoothNet
from rich.console import Console
from torch import Tensor, nn

from astdistill.autodiff import derivatives
from astdistill.autodiff.compiled import CompiledEngine, compiled_engine, in_bfloat16, products
from astdistill.autodiff.engine import EagerEngine
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime import progress
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import rng, seeded


def network(name: str, classes: int = 3, shape: tuple[int, int, int] = (3, 8, 8)) -> FlatModel:
    if name == "smooth":
        with seeded(3, "network"):
            return FlatModel(SmoothNet(channels=shape[0], classes=classes, size=shape[1]).double())
    return FlatModel(build_model(name, shape, classes).double())


class Case:
    """A network, a batch, a direction: float64, fixed."""

    def __init__(self, name: str = "convnet-d1-w4", batch: int = 4) -> None:
        generator = rng(0, "case", name)
        self.model = network(name)
        self.theta = self.model.flatten()
        self.direction = torch.randn(len(self.theta), generator=generator, dtype=torch.float64)
        self.images = torch.randn(batch, 3, 8, 8, generator=generator, dtype=torch.float64)
        self.targets = torch.randn(batch, 3, generator=generator, dtype=torch.float64).softmax(1)


NAMES = "convnet-d1-w4", "convnet-d2-w4-layernorm-maxpool", "smooth"
FUNCTIONS: dict[str, Callable[[Any, Case], tuple[Tensor, ...]]] = {
    "gradient": lambda engine, case: engine.gradient(case.theta, case.images, case.targets),
    "directional": lambda engine, case: engine.directional(case.theta, case.direction, case.images, case.targets),
    "mixed": lambda engine, case: engine.directional(
        case.theta, case.direction, case.images, case.targets, curvature=False
    ),
    "penalised": lambda engine, case: engine.penalised(case.theta, case.images, case.targets, 2.0, 0.6),
    "penalised-pixel": lambda engine, case: engine.penalised(case.theta, case.images, None, 2.0, form="pixel"),
}


def close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for ours, true in zip(found, wanted, strict=True):
        assert ours.shape == true.shape
        assert not ours.requires_grad
        torch.testing.assert_close(ours, true, rtol=1e-10, atol=1e-12)


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """What the package's console prints."""
    stream, before = io.StringIO(), progress.Output.console
    progress.Output.console = Console(file=stream, width=500)
    yield stream
    progress.Output.console = before


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """torch.compile hands the function back; the list holds the options of each compile."""
    asked: list[dict[str, Any]] = []

    def compile(function: Any, **options: Any) -> Any:
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    return asked


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_the_formulas_that_are_compiled_equal_eager_ones(
    name: str, function: str, uncompiled: list[dict[str, Any]], printed: io.StringIO
) -> None:
    case, calls = Case(name), 1
    engine, wanted = CompiledEngine(case.model), FUNCTIONS[function](EagerEngine(case.model), case)
    if name == "smooth" and function in ("directional", "mixed"):
        # the forward-mode rule of nn.GroupNorm refuses channels-last tensors: the second call takes the plain layout
        calls = 2
    for _ in range(calls):
        close(FUNCTIONS[function](engine, case), wanted)
    assert len(uncompiled) == calls
    assert [len(shapes) for shapes in engine._compiled.values()] == [1], "compiled in the end"
    assert not printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("function", ["directional", "penalised"])
def test_compiled_equals_eager(function: str, printed: io.StringIO) -> None:
    case = Case()
    engine = CompiledEngine(case.model)
    wanted = FUNCTIONS[function](EagerEngine(case.model), case)
    close(FUNCTIONS[function](engine, case), wanted)
    case.images = case.images.to(memory_format=torch.channels_last).requires_grad_()
    with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile"):
        close(FUNCTIONS[function](engine, case), wanted)
    assert not printed.getvalue()


def test_a_fifth_shape_is_not_compiled(uncompiled: list[dict[str, Any]]) -> None:
    model = Case().model
    engine = CompiledEngine(model)
    for batch in (6, 5, 4, 3, 2, 6, 3, 1):
        case = Case(batch=batch)
        close(FUNCTIONS["gradient"](engine, case), FUNCTIONS["gradient"](EagerEngine(model), case))
    assert len(uncompiled) == 4
    assert all(options["dynamic"] is False and options["fullgraph"] is True for options in uncompiled)
    FUNCTIONS["penalised"](engine, Case())
    assert len(uncompiled) == 5, "every function has shapes of its own"


def test_networks_built_alike_share_an_engine(uncompiled: list[dict[str, Any]]) -> None:
    first, second = (FlatModel(build_model("convnet-d1-w4", (3, 8, 8), 3, seed=seed).double()) for seed in (0, 1))
    engine, case = compiled_engine(first), Case()
    for model in (first, second):
        assert compiled_engine(model) is engine
        case.theta = model.flatten()
        close(FUNCTIONS["gradient"](engine, case), FUNCTIONS["gradient"](EagerEngine(model), case))
    assert len(uncompiled) == 1
    others = [
        network(name)
        for name in ("convnet-d1-w8", "convnet-d1-w4-leakyrelu", "convnet-d1-w4-maxpool", "smooth", "smooth")
    ]
    engines = [engine, compiled_engine(first, precision="bfloat16"), *map(compiled_engine, others)]
    assert len({id(each) for each in engines}) == len(engines)


def test_another_shape_or_dtype_is_compiled_anew(uncompiled: list[dict[str, Any]]) -> None:
    """Two networks of one architecture and as many parameters share an engine, for images of other sides."""
    models = [FlatModel(build_model("convnet-d1-w4-nopool", shape, 3)) for shape in ((3, 4, 8), (3, 8, 4))]
    engine, compiled = compiled_engine(models[0]), 0
    for model, shape in zip(models, ((6, 3, 4, 8), (6, 3, 8, 4)), strict=True):
        for dtype in (torch.float32, torch.float64):
            assert compiled_engine(model) is engine
            theta, images = model.flatten().to(dtype), torch.rand(shape, generator=rng(0, "images"), dtype=dtype)
            targets = torch.eye(3, dtype=dtype).repeat(2, 1)
            wanted = EagerEngine(model).gradient(theta, images, targets)
            compiled += 1
            for _ in range(2):
                found = engine.gradient(theta, images, targets)
                assert found.theta.dtype == dtype
                torch.testing.assert_close(tuple(found), tuple(wanted))
            assert len(uncompiled) == compiled


def test_factors_may_change_without_compiling_again(uncompiled: list[dict[str, Any]]) -> None:
    case = Case()
    engine, eager = CompiledEngine(case.model), EagerEngine(case.model)
    for clip in (0.5, 0.55, 1.0):
        close(
            engine.penalised(case.theta, case.images, case.targets, 2.0, clip),
            eager.penalised(case.theta, case.images, case.targets, 2.0, clip),
        )
    assert len(uncompiled) == 1


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_failed_compile_warns_once_and_runs_eager_for_good(
    function: str, monkeypatch: pytest.MonkeyPatch, printed: io.StringIO
) -> None:
    calls = []

    def compile(*words: Any, **options: Any) -> Any:
        calls.append(words)
        raise RuntimeError("no C++ compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", compile)
    case = Case()
    engine = CompiledEngine(case.model)
    for _ in range(4):
        close(FUNCTIONS[function](engine, case), FUNCTIONS[function](EagerEngine(case.model), case))
    FUNCTIONS["gradient"](engine, case)
    assert len(calls) == 2, "once for each layout"
    assert printed.getvalue().count("\n") == 1
    assert "RuntimeError: no C++ compiler)" in printed.getvalue()


class Branching(nn.Module):
    """A network that looks at its numbers, which no compiler can trace into one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.linear(images.flatten(1))
        return logits if float(logits.detach().sum()) > 0 else 2 * logits


def test_a_network_that_cannot_be_traced_runs_eager(printed: io.StringIO) -> None:
    case = Case()
    case.model = FlatModel(Branching().double())
    case.theta = case.model.flatten()
    engine = CompiledEngine(case.model)
    for _ in range(3):
        close(FUNCTIONS["gradient"](engine, case), FUNCTIONS["gradient"](EagerEngine(case.model), case))
    assert printed.getvalue().count("it runs without a compiler from here on") == 1


def test_a_fault_of_the_input_is_not_blamed_on_the_compiler(
    uncompiled: list[dict[str, Any]], printed: io.StringIO
) -> None:
    case = Case()
    engine = CompiledEngine(case.model)
    with pytest.raises(InputError, match="was it made for another model"):
        engine.gradient(case.theta[:-1], case.images, case.targets)
    assert not printed.getvalue()
    FUNCTIONS["gradient"](engine, case)
    assert len(uncompiled) == 2, "the next call is compiled as ever"


def test_outputs_of_cuda_graphs_are_copied(uncompiled: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay writes into the memory that the last one returned."""
    kept = torch.zeros(3)
    monkeypatch.setattr(derivatives, "gradient", lambda model: lambda *given: (kept, kept, kept))
    monkeypatch.setattr("astdistill.autodiff.compiled._with_new_code", lambda function: function)
    case = Case()
    found = CompiledEngine(case.model, mode="reduce-overhead").gradient(case.theta, case.images, case.targets)
    kept += 1
    assert float(found.theta.sum()) == 0
    assert uncompiled[0]["mode"] == "reduce-overhead"


def test_bfloat16_stays_near_float64() -> None:
    """The docstring gives the compiled figures; here are the same formulas without a compiler, a little worse, and a
    bound for both.

    Five seeds on a processor with AMX: `penalised` 0.970 to 0.986, the others 0.993 to 0.998.
    """
    model = FlatModel(build_model("convnet-d3-w32", (3, 32, 32), 10))
    theta, generator = model.flatten(), rng(0, "bfloat16")
    images, direction = torch.randn(10, 3, 32, 32, generator=generator), torch.randn(len(theta), generator=generator)
    targets = torch.eye(10)
    exact = EagerEngine(FlatModel(build_model("convnet-d3-w32", (3, 32, 32), 10).double()))
    double = [part.double() for part in (theta, images, targets)]
    rounded, factors = derivatives.channels_last(in_bfloat16(model)), (torch.tensor(2.0), torch.tensor(1.0))
    found = {
        "gradient": derivatives.gradient(rounded)(theta, images, targets)[2],
        "theta": (along := derivatives.directional(rounded, True)(theta, direction, images, targets))[1],
        "images": along[2],
        "penalised": derivatives.penalised(rounded, "image")(theta, images, *factors, targets)[2],
    }
    true = exact.directional(double[0], direction.double(), double[1], double[2])
    wanted = {
        "gradient": exact.gradient(double[0], double[1], double[2]).theta,
        "theta": true.theta,
        "images": true.images,
        "penalised": exact.penalised(double[0], double[1], double[2], 2.0).theta,
    }
    for name, ours in found.items():
        assert ours.dtype == torch.float32
        cosine = float(torch.nn.functional.cosine_similarity(ours.double().flatten(), wanted[name].flatten(), dim=0))
        assert (0.95 if name == "penalised" else 0.99) < cosine < 0.99999, (name, cosine)


def test_bfloat16_is_what_the_engine_runs(uncompiled: list[dict[str, Any]]) -> None:
    case = Case()
    exact = EagerEngine(case.model).gradient(case.theta, case.images, case.targets).theta
    given = case.theta.float(), case.images.float(), case.targets.float()
    errors = []
    for precision in ("float32", "bfloat16"):
        engine = CompiledEngine(case.model, precision=precision)
        compiled, (loss, _, eager) = engine.gradient(*given).theta, engine._eager.gradient(*given)
        assert loss.dtype == torch.float32
        errors.append([float((found - exact).norm() / exact.norm()) for found in (compiled, eager)])
    assert max(errors[0]) < 1e-5
    assert min(errors[1]) > 1e-4
    assert max(errors[1]) < 0.1


def test_products_sets_and_restores_both_switches() -> None:
    def state() -> tuple[str, bool, bool, bool]:
        return (
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch._C._get_cublas_allow_tf32(),
            torch._C._get_cudnn_allow_tf32(),
        )

    before, cuda = state(), torch.device("cuda")
    with products("tf32", cuda):
        assert state() == ("high", True, True, True)
        with products("float32", cuda):
            assert state() == ("highest", False, False, False)
        assert state() == ("high", True, True, True)
    assert state() == before
    with products("tf32", torch.device("cpu")):
        assert state() == before


def test_unknown_words_are_refused() -> None:
    with pytest.raises(InputError, match="reduce-overhead"):
        CompiledEngine(Case().model, mode="reduce-overheads")
    with pytest.raises(InputError, match="bfloat16"):
        CompiledEngine(Case().model, precision="bfloat")  # pyright: ignore[reportArgumentType]
