"""The figures of docs/how-it-works.md and of the quickstart: the script that makes them runs, and what it says of distances is true."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from matplotlib import image

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "figures.py"
pytestmark = pytest.mark.drawn
FIGURES = ("demo-curves", "how-course", "how-loss", "how-parts", "how-segment")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plane_of_a_segment_keeps_the_loss(figures: ModuleType) -> None:
    draw = torch.Generator().manual_seed(0)
    start, target, points = (torch.randn(*shape, 40, generator=draw) for shape in ((), (), (7,)))
    flat, unit = figures.aside(points, start, target), (target - start).square().sum()
    assert flat.shape == (7, 2)
    torch.testing.assert_close(
        (flat - torch.tensor([1.0, 0.0])).square().sum(dim=1), (points - target).square().sum(dim=1) / unit
    )
    torch.testing.assert_close(flat.square().sum(dim=1), (points - start).square().sum(dim=1) / unit)


def test_components_are_the_directions_of_most_spread(figures: ModuleType) -> None:
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(30, 50, generator=draw) * torch.tensor([9.0, 5.0, *[0.1] * 48])
    flat = figures.components(points)
    assert flat.shape == (30, 2)
    assert float((torch.cdist(flat, flat) - torch.cdist(points[:, :2], points[:, :2])).abs().max()) < 0.2
    assert float(flat[:, 0].std()) > float(flat[:, 1].std())


def test_the_committed_figures_are_small() -> None:
    pictures = [ROOT / "docs" / "images" / f"{name}.png" for name in (*FIGURES, "demo-quality", "report-demo")]
    sizes = {path.name: path.stat().st_size for path in pictures}
    assert all(1000 < size < 200_000 for size in sizes.values()), sizes


@pytest.mark.slow
def test_the_script_makes_every_figure(figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    words = ["--tiny", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    figures.main()
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == sorted(FIGURES)
    assert all(image.imread(path).std() > 0.03 for path in (tmp_path / "out").iterdir())
