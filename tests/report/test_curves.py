from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from astdistill.report.figures import curve, save_curves
from astdistill.runtime.errors import InputError

LINES = [{"iteration": i, "loss": 1.0 / (1 + i), "lr": 0.01} for i in range(60)]


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_curve_keeps_what_was_logged_and_sets_non_finite_values_apart() -> None:
    lines = [
        {"iteration": 0, "loss": 2.0},
        {"iteration": 1, "loss": math.nan},
        {"iteration": 2, "loss": None},
        {"iteration": 3},
        {"iteration": 4, "loss": math.inf},
        {"iteration": 5, "loss": 1},
    ]
    found = curve(lines, "loss")
    assert (found.iterations, found.values, found.broken) == ([0, 5], [2.0, 1.0], [1, 4])


def test_figure_gains_a_panel_where_validation_was_logged(tmp_path: Path) -> None:
    save_curves(LINES, tmp_path / "two.png")
    save_curves([*LINES, {"iteration": 60, "loss": math.nan, "lr": 0.02, "validation": 33.0}], tmp_path / "three.png")
    assert size(tmp_path / "two.png") == (1408, 544)
    assert size(tmp_path / "three.png") == (2112, 544)


def test_one_iteration_is_enough_and_none_is_refused(tmp_path: Path) -> None:
    save_curves(LINES[:1], tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()
    with pytest.raises(InputError, match="no iteration"):
        save_curves([], tmp_path / "none.png")
