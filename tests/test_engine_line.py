"""What the first line of a run says of its engine."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from astdistill.autodiff.dispatch import using
from astdistill.autodiff.native import build
from astdistill.experiment.pipeline import prepare
from astdistill.experiment.presets import preset
from astdistill.experiment.work import Network
from astdistill.runtime import progress
from astdistill.runtime.provenance import instructions, machine
from astdistill.runtime.text import many

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


def test_a_run_says_it_first(said: io.StringIO, tmp_path: Path) -> None:
    prepare(preset("digits-ipc1"), tmp_path / "run")
    assert said.getvalue().count("engine: ") == 1


def test_results_name_the_instructions() -> None:
    assert machine()["instructions"] == instructions()
    assert instructions() in {"AVX-512", "AVX2", "SSE", "NEON"}
