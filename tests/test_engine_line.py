"""What the first line of a run says of its engine."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from astdistill.autodiff.dispatch import using
from astdistill.autodiff.native import build
from astdistill.autodiff.training import Trainee
from astdistill.experiment.pipeline import prepare
from astdistill.experiment.presets import preset
from astdistill.experiment.work import Network
from astdistill.models.convnets import ConvNet
from astdistill.runtime import progress
from astdistill.runtime.provenance import instructions, machine
from astdistill.runtime.text import many
from astdistill.runtime.trust import trust_modules

NETWORK = "convnet-d2-w32", (1, 8, 8), 10


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    text = io.StringIO()
    monkeypatch.setattr(progress.Output, "console", Console(file=text, width=300))
    monkeypatch.setattr(progress.Output, "quiet", False)
    build.library.cache_clear()
    yield text
    build.library.cache_clear()


@pytest.mark.skipif(build.library() is None, reason="no C compiler on this machine")
def test_the_native_engine_is_named_with_its_instructions() -> None:
    with using("native"):
        words = Network(*NETWORK).engine_text()
    assert words.startswith(f"native ({build.for_this_processor().instructions} kernels ")
    assert words.endswith(many(torch.get_num_threads(), "thread"))


def test_a_slow_engine_is_named_with_its_cause(said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    with using("eager"):
        assert "as requested; --engine auto" in Network(*NETWORK).engine_text()
    monkeypatch.setenv("CC", "false")
    build.library.cache_clear()
    words = Network(*NETWORK).engine_text()
    assert words.startswith(f"eager (torch's own derivatives, {instructions()})")
    assert said.getvalue().count("false ended with code 1") == 1
    assert said.getvalue().count("install gcc") == 1


@pytest.mark.skipif(build.library() is None, reason="no C compiler on this machine")
def test_a_network_that_the_kernels_do_not_know_says_so() -> None:
    assert "supports instance-norm ConvNets only" in Network("resnet18", (3, 32, 32), 10).engine_text()


class Doubled(ConvNet):
    """A ConvNet of somebody else's, whose forward pass is another one."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


def doubled(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    return Doubled(channels, classes, size, depth=2, width=16)


@pytest.mark.parametrize(
    ("model", "engine", "device", "trained", "outer"),
    [
        ("convnet-d2-w16", "compiled", "cpu", "compiled", "compiled"),
        ("convnet-d2-w16", "auto", "cuda", "compiled", "compiled"),
        ("convnet-d2-w16", "native", "cuda", "eager", "eager"),
        ("convnet-d2-w16-batchnorm", "auto", "cuda", "eager", "eager"),
        ("test_engine_line:doubled", "auto", "cpu", "eager", "eager"),
        ("test_engine_line:doubled", "auto", "cuda", "eager", "compiled"),
        ("test_engine_line:doubled", "compiled-bfloat16", "cpu", "eager", "compiled-bfloat16"),
        ("mlp-w8", "auto", "cpu", "eager", "eager"),
        ("mlp-w8", "compiled", "cpu", "eager", "compiled"),
    ],
)
def test_the_engine_that_is_named_is_the_one_that_computes(
    model: str, engine: str, device: str, trained: str, outer: str
) -> None:
    """Only a plain ConvNet is trained by an engine; outer steps differentiate any network as a function of θ."""
    trust_modules([model])
    network = Network(model, (1, 8, 8), 10, device)
    with using(engine):
        assert (network.engine, network.engine_of_steps) == (trained, outer)
        assert network.engine == "eager" or Trainee(network.module).model is not None
        words = network.engine_text()
    assert words.startswith(trained)
    assert (f"; outer steps: {outer}" in words) == (trained != outer)


def test_a_run_says_it_first(said: io.StringIO, tmp_path: Path) -> None:
    prepare(preset("digits-ipc1"), tmp_path / "run")
    assert said.getvalue().count("engine: ") == 1


def test_results_name_the_instructions() -> None:
    assert machine()["instructions"] == instructions()
    assert instructions() in {"AVX-512", "AVX2", "SSE", "NEON"}
