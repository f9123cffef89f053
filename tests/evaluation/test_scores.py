from __future__ import annotations

import io
import json
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from astdistill.evaluation.protocol import AST_RELEASED_PROTOCOL, MTT_PROTOCOL
from astdistill.evaluation.scores import RowScores, Scores, table
from astdistill.evaluation.training import NetworkResult
from astdistill.runtime.errors import InputError
from astdistill.runtime.tables import markdown, terminal

FINAL = [NetworkResult(40.0), NetworkResult(42.0), NetworkResult(47.0)]
CHECKED = [NetworkResult(40.0, 44.0), NetworkResult(42.0, 43.0)]


def scores() -> Scores:
    return Scores(
        recipe=MTT_PROTOCOL,
        architecture={"convnet-d3": RowScores.of(FINAL, "final")},
        baselines={"random": RowScores.of(FINAL[:2], "final"), "full": RowScores.of(FINAL[:1], "final")},
    )


def text(shown: object) -> str:
    """What the terminal shows, line breaks undone."""
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(shown)
    return " ".join(console.export_text().split())


def test_spread_is_the_sample_deviation_and_unknown_for_one_network() -> None:
    entry = RowScores.of(FINAL, "final")
    assert (entry.mean, entry.n) == (43.0, 3)
    assert entry.std == pytest.approx(statistics.stdev([40.0, 42.0, 47.0]))
    assert entry.text == "43.0 ± 3.6"
    alone = RowScores.of(FINAL[:1], "final")
    assert alone.std is None
    assert alone.text == "40.0"


def test_reported_chooses_what_is_averaged_and_both_are_kept() -> None:
    assert RowScores.of(CHECKED, "final").mean == 41.0
    best = RowScores.of(CHECKED, "best")
    assert (best.mean, best.final, best.best) == (43.5, (40.0, 42.0), (44.0, 43.0))


def test_json_has_the_documented_layout_and_comes_back_equal(tmp_path: Path) -> None:
    scores().write(tmp_path / "scores.json")
    found = json.loads((tmp_path / "scores.json").read_text())
    assert {"recipe", "architecture", "baselines"} <= set(found)
    assert found["recipe"]["epochs"] == 1000
    entry = found["architecture"]["convnet-d3"]
    assert entry["final"] == [40.0, 42.0, 47.0]
    assert entry["best"] is None
    assert {"mean", "std", "n"} <= set(entry)
    assert set(found["baselines"]["random"]) == set(entry)
    assert Scores.read(tmp_path) == Scores.read(tmp_path / "scores.json") == scores()


@pytest.mark.parametrize("content", ["{}", "[1]", '{"recipe": 3, "architecture": {}}', "not json"])
def test_a_file_without_scores_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(InputError, match=r"scores\.json"):
        Scores.read(tmp_path)


def test_table_names_protocol_n_and_what_is_reported() -> None:
    shown = text(terminal(table(scores())))
    for word in (
        "synthetic, convnet-d3",
        "random real images",
        "full data",
        "43.0 ± 3.6",
        "Protocol MTT",
        "the last epoch",
        "n = 1 to 3",
    ):
        assert word in shown
    assert "best" not in shown
    assert "diverged" not in shown


def test_a_best_figure_stands_beside_the_final_one_and_is_named_so() -> None:
    checked = Scores(recipe=AST_RELEASED_PROTOCOL, architecture={"convnet-d3": RowScores.of(CHECKED, "best")})
    for shown in (text(terminal(table(checked))), markdown(table(checked))):
        assert "best on test" in shown
        assert "41.0 ± 1.4" in shown
        assert "43.5 ± 0.7" in shown
        assert "the best of checks on the test images every 20 epochs" in shown


def test_diverged_networks_and_shorter_full_training_show_in_the_table() -> None:
    bad = [NetworkResult(10.0, None, True), NetworkResult(41.0)]
    found = Scores(
        recipe=MTT_PROTOCOL.replace(full_epochs=30),
        architecture={"mlp": RowScores.of(bad, "final")},
        baselines={"full": RowScores.of(FINAL, "final")},
    )
    assert found.diverged == 1
    assert "| synthetic, mlp | 25.5 ± 21.9 | 2 | 1 |" in markdown(table(found))
    assert "full data, 30 epochs" in markdown(table(found))


COUNTS = ((3, 1), (2, 2))


def test_figures_by_class_are_kept_for_every_network_and_come_back_equal(tmp_path: Path) -> None:
    results = [
        NetworkResult(62.5, by_class=(75.0, 50.0), confusion=COUNTS),
        NetworkResult(50.0),
        NetworkResult(25.0, by_class=(25.0, None)),
    ]
    entry = RowScores.of(results, "final")
    assert entry.by_class == ((75.0, 50.0), None, (25.0, None))
    assert entry.confusion == (COUNTS, None, None)
    written = Scores(recipe=MTT_PROTOCOL, architecture={"mlp": entry}, classes=("ant", "bee"))
    written.write(tmp_path / "scores.json")
    assert Scores.read(tmp_path) == written


def test_counts_are_those_of_all_networks_together() -> None:
    other = NetworkResult(50.0, confusion=((4, 0), (4, 0)))
    assert RowScores.of([NetworkResult(62.5, confusion=COUNTS), NetworkResult(1.0), other], "final").counts == (
        (7, 1),
        (6, 2),
    )
    assert RowScores.of(FINAL, "final").counts is None


def test_a_file_of_an_earlier_version_still_loads(tmp_path: Path) -> None:
    old = scores().to_json()
    del old["classes"]
    for entry in (*old["architecture"].values(), *old["baselines"].values()):
        del entry["by_class"], entry["confusion"]
    (tmp_path / "scores.json").write_text(json.dumps(old))
    assert Scores.read(tmp_path) == scores()
