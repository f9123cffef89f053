from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table

from astdistill.experts.recipe import ExpertCurve
from astdistill.report.figures import epoch_table, quality_table, save_quality
from astdistill.runtime.errors import InputError

SMOOTH = [ExpertCurve([50.0, 60.0], [40.0, 48.0], [0.2, 0.1]), ExpertCurve([52.0, 62.0], [42.0, 50.0], [0.4, 0.3])]
ROUGH = [ExpertCurve([], [45.0, 57.0, 58.0], [27.0, 9.0, 7.0])]


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def printed(table: Table) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table)
    return " ".join(console.export_text().split())


def test_table_states_last_accuracy_with_spread_and_the_range_of_the_mean_step() -> None:
    shown = printed(quality_table({"AST": SMOOTH, "momentum": ROUGH}))
    assert "AST │ 2 │ 2 │ 49.0 ± 1.4 │ 61.0 ± 1.4 │ 0.2 – 0.3" in shown
    assert "momentum │ 1 │ 3 │ 58.0 │ – │ 7 – 27" in shown


def test_epoch_table_has_one_row_an_epoch_and_says_n() -> None:
    shown = printed(epoch_table("AST", SMOOTH))
    assert "epoch ┃ train, % ┃ test, % ┃ squared step" in shown
    assert "1 │ 51.0 ± 1.4 │ 41.0 ± 1.4 │ 0.3 ± 0.14 │" in shown
    assert "2 │ 61.0 ± 1.4 │ 49.0 ± 1.4 │ 0.2 ± 0.14 │" in shown
    assert "AST: mean ± standard deviation over n = 2 experts" in shown
    assert epoch_table("AST", SMOOTH).row_count == 2


def test_epoch_table_of_one_expert_without_train_accuracy() -> None:
    shown = printed(epoch_table("momentum", ROUGH))
    assert "1 │ – │ 45.0 │ 27 │" in shown
    assert "3 │ – │ 58.0 │ 7 │" in shown
    assert "momentum: n = 1 expert, so no deviation" in shown


def test_imported_experts_have_steps_alone(tmp_path: Path) -> None:
    moved = [ExpertCurve(step_squared=[2.0, 1.0]), ExpertCurve(step_squared=[4.0, 3.0])]
    assert "MTT │ 2 │ 2 │ – │ – │ 2 – 3" in printed(quality_table({"MTT": moved}))
    assert "1 │ – │ – │ 3 ± 1.4 │" in printed(epoch_table("MTT", moved))
    for name, stores in (("alone.png", {"MTT": moved}), ("beside.png", {"MTT": moved, "AST": SMOOTH})):
        save_quality(stores, tmp_path / name)
        assert size(tmp_path / name) == (1472, 592)


def test_figure_of_several_stores_is_one_png_and_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_quality({"AST": SMOOTH, "momentum": ROUGH}, tmp_path / name)
    assert size(tmp_path / "a.png") == (1472, 592)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    save_quality({"AST": SMOOTH}, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("curves", [[], [SMOOTH[0], ROUGH[0]], [ExpertCurve([1.0], [1.0, 2.0], [1.0, 2.0])]])
def test_stores_without_experts_or_of_mixed_length_are_named(curves: list[ExpertCurve], tmp_path: Path) -> None:
    for use in (
        lambda: quality_table({"AST": curves}),
        lambda: epoch_table("AST", curves),
        lambda: save_quality({"AST": curves}, tmp_path / "q.png"),
    ):
        with pytest.raises(InputError, match="store 'AST' holds"):
            use()
    assert not (tmp_path / "q.png").exists()
