"""Which engine computes, in words; what is computed where no engine of ours can; compilers and systems of others."""

from __future__ import annotations

import copy
import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jobs
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from astdistill.autodiff import dispatch
from astdistill.autodiff.compiled import CompiledEngine
from astdistill.autodiff.dispatch import engine_here, engine_name, engine_of, held_bytes, using
from astdistill.autodiff.native import build, variants
from astdistill.autodiff.training import Trainee
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model

PICTURES, LABELS = torch.rand(4, 1, 8, 8), torch.eye(3)[torch.tensor([0, 1, 2, 0])]


def flat_net() -> tuple[FlatModel, Tensor]:
    """A small ConvNet and its θ."""
    model = FlatModel(build_model("convnet-d1-w4", (1, 8, 8), 3))
    return model, model.flatten()


def linear(theta: Tensor, images: Tensor) -> Tensor:
    """A function that is no network of ours."""
    return images.flatten(1) @ theta.view(64, 3)


def test_any_function_is_differentiated_by_torch() -> None:
    theta = torch.randn(192, generator=torch.Generator().manual_seed(0))
    engine = engine_of(linear)
    loss, logits, slope = engine.gradient(theta, PICTURES, LABELS)
    wanted = theta.clone().requires_grad_()
    cross_entropy(linear(wanted, PICTURES), LABELS).backward()
    assert wanted.grad is not None
    torch.testing.assert_close(slope, wanted.grad)
    torch.testing.assert_close((loss, logits), (cross_entropy(logits, LABELS), linear(theta, PICTURES)))
    assert engine.name(theta, PICTURES) == "eager"
    assert held_bytes(None) == 0


def test_the_engine_is_named_and_auto_is_compiled_on_a_gpu() -> None:
    model, theta = flat_net()
    for name in ("compiled", "compiled-bfloat16", "eager"):
        with using(name):
            assert engine_name(model, theta, PICTURES) == name
    elsewhere: Any = SimpleNamespace(is_cuda=True)
    with using("auto"):
        assert engine_name(model, elsewhere, PICTURES) == "compiled"
    assert CompiledEngine(model)._mode(torch.device("cuda")) == "reduce-overhead"
    assert CompiledEngine(model)._mode(torch.device("cpu")) == "default"


def test_test_images_are_passed_through_uncompiled() -> None:
    model, theta = flat_net()
    with using("compiled"):
        found = engine_of(model).logits(theta, PICTURES)
    torch.testing.assert_close(found, model(theta, PICTURES))


def test_what_a_node_computes_with_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "find_compiler", lambda: None)
    monkeypatch.setattr(dispatch, "library", lambda: None)
    assert engine_here("auto") == {"engine": "eager", "compiler": "none"}
    monkeypatch.setattr(dispatch, "library", lambda: SimpleNamespace(_name="/cache/kernels/avx2-0123-4567.so"))
    assert engine_here("native")["engine"] == "native avx2-0123"
    assert engine_here("eager")["engine"] == "eager"


class Smooth(nn.Module):
    """A network of somebody else's, whose input gradient depends on θ and on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 5), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(images.flatten(1))))


@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_gradient_penalty_of_any_module(clip: float | None) -> None:
    """Against central differences of the loss, in float64."""
    torch.manual_seed(0)
    trainee, images = Trainee(Smooth().double()), PICTURES.double()
    targets, weight = None, 0.0
    if clip is not None:
        targets, weight = LABELS.double(), clip

    def loss() -> Tensor:
        seen = images.clone().requires_grad_()
        logits = trainee.network(seen)
        (slope,) = torch.autograd.grad(logits.sum(), seen)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        return (2.0 * penalty + weight * cross_entropy(logits, LABELS.double())).detach()

    found, _ = trainee.penalised(images, targets, 2.0, weight)
    torch.testing.assert_close(found, loss())
    assert trainee.theta.grad is not None
    slopes, step = trainee.theta.grad.clone(), 1e-6
    for place in (0, 100, 330):
        values = []
        for side in (step, -2 * step):
            with torch.no_grad():
                trainee.theta[place] += side
            values.append(loss())
        with torch.no_grad():
            trainee.theta[place] += step
        torch.testing.assert_close(slopes[place], (values[0] - values[1]) / (2 * step), rtol=1e-4, atol=1e-7)


# compilers and systems of others


def test_openmp_is_asked_of_each_compiler_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, flags in (
        ("gcc (Debian) 12.2", (["-fopenmp"], [])),
        ("Debian clang version 14", (["-fopenmp"], ["-fopenmp"])),
    ):
        monkeypatch.setattr(variants, "compiler_version", lambda _, said=version: said)
        assert variants._openmp_flags(["cc"]) == flags
    monkeypatch.setattr(variants.sys, "platform", "darwin")
    assert variants._openmp_flags(["cc"]) == (["-Xclang", "-fopenmp"], ["-undefined", "dynamic_lookup"])


def test_torchs_openmp_is_made_visible_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []

    def opened(path: str | None, mode: int = 0) -> object:
        if path is not None:
            loaded.append((path, mode))
        return object()

    own = str(Path(torch.__file__).parent / "lib" / "libgomp.so")
    known = [("/usr/lib/libomp.so", "openmp"), (own, "openmp"), ("/usr/lib/libblas.so", "blas")]
    monkeypatch.setattr(
        build, "threadpool_info", lambda: [{"filepath": path, "user_api": kind} for path, kind in known]
    )
    monkeypatch.setattr(build.ctypes, "CDLL", opened)
    build.share_openmp()
    assert loaded == [(own, ctypes.RTLD_GLOBAL)]


def test_a_library_that_vanishes_or_is_none_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the wheel, and in the cache; where that cannot be written to, one is built for the process."""
    kind = build.Variant("plain", "plain C")
    path = variants.named_by_content(tmp_path, "plain-0", b"no library")
    path.write_bytes(b"no library")
    monkeypatch.setattr(build, "BUNDLED", tmp_path)
    assert build._load_bundled(kind) is None
    folder = tmp_path / "kernels"
    folder.mkdir(mode=0o700)
    variants.named_by_content(folder, "plain-0", b"no library").write_bytes(b"no library")
    built: list[str] = []
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(build, "_label", lambda *_: "plain-0")
    monkeypatch.setattr(build, "_build_temporary", lambda *given: built.append(given[-1]))
    monkeypatch.setattr(build.os, "access", lambda *_: False)
    build._find_or_build(["cc"], kind)
    assert built == ["plain-0"]


def test_files_are_ours_where_the_system_knows_no_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.so"
    path.touch(mode=0o666)
    path.chmod(0o666)
    assert not build._is_private(path)
    monkeypatch.delattr(build.os, "geteuid")
    assert build._is_private(path)


def test_a_users_network_is_a_module_of_its_own() -> None:
    trainee = Trainee(jobs.factory(1, 3, (8, 8)))
    assert engine_of(linear).name(trainee.theta, PICTURES) == "eager"


@pytest.mark.parametrize("name", ["convnet-d2-w16", "mlp"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_temperature_is_that_of_the_written_out_loss(name: str, dtype: torch.dtype) -> None:
    """In float64 the engine is torch's own; in float32 the ConvNet has the native one."""
    network = build_model(name, (1, 8, 8), 3, seed=2).to(dtype)
    wanted, images, targets = copy.deepcopy(network), PICTURES.to(dtype), LABELS.to(dtype)
    trainee = Trainee(network, temperature=20.0)
    loss, logits = trainee.gradient(images, targets)
    expected = wanted(images) / 20
    value = cross_entropy(expected, targets)
    value.backward()
    slope = torch.cat([part.grad.reshape(-1) for part in wanted.parameters() if part.grad is not None])
    rtol, atol = {torch.float64: (1e-10, 1e-14), torch.float32: (1e-3, 1e-6)}[dtype]
    torch.testing.assert_close(loss, value.detach(), rtol=rtol, atol=atol)
    torch.testing.assert_close(logits, expected.detach(), rtol=rtol, atol=atol)
    torch.testing.assert_close(trainee.theta.grad, slope, rtol=rtol, atol=atol)
    torch.testing.assert_close(trainee.logits(images), 20 * expected.detach(), rtol=rtol, atol=atol)
