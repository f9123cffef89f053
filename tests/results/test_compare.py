"""Run folders side by side: what may share a column, what is published, and every sentence on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from problems import TINY, blobs

from astdistill.cli.main import main
from astdistill.data.synthetic import SyntheticSet, one_hot
from astdistill.evaluation.protocol import AST_RELEASED_PROTOCOL, MTT_PROTOCOL, EvalRecipe
from astdistill.evaluation.scores import RowScores, Scores, SetInfo
from astdistill.evaluation.training import NetworkResult
from astdistill.report.compare import compared, read_finished
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import write_json
from astdistill.runtime.tables import Tabulation

RECIPE = MTT_PROTOCOL.replace(augmentation="flip", full_epochs=30)


def entry(*finals: float, recipe: EvalRecipe = RECIPE) -> RowScores:
    best = 1.0 if recipe.check_every else None
    return RowScores.of(
        [NetworkResult(final, None if best is None else final + best) for final in finals], recipe.reported
    )


def distilled(labels: str = "hard") -> SyntheticSet:
    data = blobs()
    first = torch.stack([data.train.of_class(label)[0] for label in range(3)])
    found = SyntheticSet(
        data.train.images[first], one_hot(data.train.labels[first], 3), torch.tensor(0.05), data.classes, data.preprocessing,
        data.config, TINY, method="ast",
    )  # fmt: skip
    return replace(found, labels=labels)  # pyright: ignore[reportArgumentType]


def run(
    folder: Path,
    *,
    labels: str = "hard",
    recipe: EvalRecipe = RECIPE,
    published: tuple[float, str] | None = (61.5, "Somebody (arXiv 1)"),
    networks: tuple[str, ...] = (TINY,),
    baselines: tuple[str, ...] = ("random", "kmeans", "full"),
    split: str = "test",
    told: bool = True,
) -> Path:
    """A folder as a run leaves it, as far as a comparison reads it."""
    found = distilled(labels)
    found.save(folder / "synthetic.safetensors")
    known = {} if published is None else {"accuracy": published[0], "source": published[1]}
    write_json(folder / "config.json", {"name": "cell", "published": known})
    scores = Scores(
        recipe=recipe,
        architecture={name: entry(60.0 + number, 62.0 + number, recipe=recipe) for number, name in enumerate(networks)},
        baselines={name: entry(10.0 * (1 + number), recipe=recipe) for number, name in enumerate(baselines)},
        split=split,  # pyright: ignore[reportArgumentType]
        subject=SetInfo.of(found) if told else None,
    )
    scores.write(folder / "scores.json")
    return folder


def cells(table: Tabulation) -> list[dict[str, str]]:
    return [dict(zip([column.name for column in table.columns], row, strict=True)) for row in table.rows]


def test_a_run_stands_beside_its_published_figure_and_its_baselines(tmp_path: Path) -> None:
    (table,) = compared([read_finished(run(tmp_path / "mine"))])
    (row,) = cells(table)
    assert row == {
        "run": "mine", "data": "blobs, standard", "ipc": "1", "images per slot": "1", "stored": "768 B", "labels": "hard labels", "protocol": "MTT", "method": "ast", "network": TINY, "final": "61.0 ± 1.4", "n": "2",
        "published": "61.5 [1]", "random real": "10.0", "K-means real": "20.0", "full data": "30.0",
    }  # fmt: skip
    assert table.notes == ("Somebody (arXiv 1)",)
    for words in (
        "Protocol MTT: 1000 epochs",
        "augmentation flip",
        "test accuracy",
        "last epoch",
        "full data 30 epochs",
        "n = 1 to 2",
    ):
        assert words in table.caption
    assert table.title == "Hard labels"
    assert [column.name for column in table.columns if column.bold] == ["final"]


def test_labels_protocols_and_splits_never_share_a_table(tmp_path: Path) -> None:
    paths = [
        run(tmp_path / "soft", labels="soft"),
        run(tmp_path / "one"),
        run(tmp_path / "short", recipe=RECIPE.replace(epochs=300)),
        run(tmp_path / "two"),
        run(tmp_path / "released", recipe=AST_RELEASED_PROTOCOL),
        run(tmp_path / "held-out", split="validation"),
    ]
    tables = compared([read_finished(path) for path in paths])
    assert [(table.title, [row["run"] for row in cells(table)]) for table in tables] == [
        ("Hard labels", ["one", "two"]),
        ("Hard labels", ["short"]),
        ("Hard labels", ["released"]),
        ("Hard labels", ["held-out"]),
        ("Soft labels", ["soft"]),
    ]
    _, short, released, held_out, _ = tables
    assert "300 epochs" in short.caption
    assert "Published figures: protocol MTT, 1000 epochs" in short.caption
    assert "Published figures" not in tables[0].caption
    assert cells(released)[0]["best on test"] == "62.0 ± 1.4"
    assert cells(released)[0]["final"] == "61.0 ± 1.4"
    assert "best: of checks on the test images every 20 epochs" in released.caption
    assert "published" not in cells(held_out)[0]
    assert "validation accuracy" in held_out.caption


def test_real_images_beside_other_labels_or_slots_say_what_they_have(tmp_path: Path) -> None:
    (table,) = compared([read_finished(run(tmp_path / "soft", labels="soft"))])
    assert {"random real, hard labels", "full data, hard labels"} < {column.name for column in table.columns}
    (table,) = compared([read_finished(run(tmp_path / "hard"))])
    assert "random real" in {column.name for column in table.columns}
    seen = run(tmp_path / "teacher")  # under a protocol whose teacher labels the real images, too
    scores = Scores.read(seen)
    assert scores.subject is not None
    scores.replace(subject=scores.subject.replace(labels="teacher")).write(seen / "scores.json")
    (table,) = compared([read_finished(seen)])
    assert "random real" in {column.name for column in table.columns}


def test_sources_are_numbered_once_and_absent_cells_are_dashes(tmp_path: Path) -> None:
    paths = [
        run(tmp_path / "a"),
        run(tmp_path / "b", published=None, baselines=("random",)),
        run(tmp_path / "c", published=(50.0, "Another")),
        run(tmp_path / "d", published=(51.0, "Somebody (arXiv 1)")),
    ]
    (table,) = compared([read_finished(path) for path in paths])
    assert [row["published"] for row in cells(table)] == ["61.5 [1]", "–", "50.0 [2]", "51.0 [1]"]
    assert [row["full data"] for row in cells(table)] == ["30.0", "–", "30.0", "30.0"]
    assert table.notes == ("Somebody (arXiv 1)", "Another")


def test_several_networks_make_a_second_table(tmp_path: Path) -> None:
    paths = [
        run(tmp_path / "a", networks=(TINY, "mlp", "lenet")),
        run(tmp_path / "b"),
        run(tmp_path / "c", networks=("mlp", TINY)),
    ]
    main_table, across = compared([read_finished(path) for path in paths])
    assert [row["network"] for row in cells(main_table)] == [TINY, TINY, TINY]
    assert [row["random real"] for row in cells(main_table)] == ["10.0", "10.0", "–"]  # c's baselines are mlp's
    assert [list(row.values())[8:] for row in cells(across)] == [
        ["61.0 ± 1.4", "62.0 ± 1.4", "63.0 ± 1.4"],
        ["62.0 ± 1.4", "61.0 ± 1.4", "–"],
    ]
    assert [column.name for column in across.columns][8:] == [TINY, "mlp", "lenet"]
    assert across.title == "Hard labels, across architectures"
    assert "n = 2" in across.caption


def test_evaluation_folders_older_scores_and_equal_names(tmp_path: Path) -> None:
    first = run(tmp_path / "one/x", told=False)
    inside = first / "evaluation-mtt-300-epochs"
    Scores.read(first).replace(recipe=RECIPE.replace(epochs=300)).write(inside / "scores.json")
    found = read_finished(inside)
    assert (found.name, found.subject, found.published.accuracy) == ("x", SetInfo.of(distilled()), 61.5)
    second = run(tmp_path / "two/x", told=False)
    tables = compared([read_finished(path) for path in (first, first / "scores.json", inside, second)])
    assert [[row["run"] for row in cells(table)] for table in tables] == [["one/x", "two/x"], ["x"]]


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no folder .*gone; name finished runs"):
        read_finished(tmp_path / "gone")
    folder = run(tmp_path / "fresh")
    (folder / "scores.json").unlink()
    with pytest.raises(InputError, match=r"no scores.json; evaluate it first: astdistill evaluate .*fresh"):
        read_finished(folder)
    with pytest.raises(InputError, match="name finished runs"):
        read_finished(tmp_path)
    Scores(recipe=RECIPE, architecture={}).write(folder / "scores.json")
    with pytest.raises(InputError, match="no finished network"):
        read_finished(folder)
    alone = tmp_path / "alone"
    Scores(recipe=RECIPE, architecture={TINY: entry(1.0)}).write(alone / "scores.json")
    with pytest.raises(InputError, match="does not name the set that was evaluated"):
        read_finished(alone)


def test_of_several_paths_those_without_scores_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    place = tmp_path / "runs"
    finished = str(run(place / "hard_one"))
    begun, search, page = run(place / "begun"), place / "search", place / "page.html"
    (begun / "scores.json").unlink()
    search.mkdir()
    page.write_text("<p>")
    assert main(["compare", finished, str(begun), str(search), str(page)]) == 0
    said = capsys.readouterr()
    assert "hard_one" in said.out
    assert f"astdistill: Left out: {begun} holds no scores.json; evaluate it first: " in said.err
    assert f"Left out: {search} holds no scores.json; name finished runs: astdistill compare runs/*" in said.err
    assert f"Left out: {page} is no folder of a run;" in said.err
    assert main(["compare", str(begun), str(search)]) == 2
    assert f"{begun} holds no scores.json" in capsys.readouterr().err
    assert main(["compare", finished, str(place / "nowhere")]) == 2
    assert main(["compare", str(place)]) == 2
    assert f"name finished runs: astdistill compare {place}/*" in capsys.readouterr().err


def test_the_verb_prints_or_writes_each_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    hard, soft = str(run(tmp_path / "hard_one")), str(run(tmp_path / "soft", labels="soft"))
    assert main(["compare", hard, soft]) == 0
    shown = capsys.readouterr().out
    assert shown.index("Hard labels") < shown.index("hard_one") < shown.index("Soft labels")
    assert main(["compare", hard, soft, "--format", "latex"]) == 0
    assert capsys.readouterr().out.count(r"\begin{table}") == 2
    for name, word in (("text", "hard_one"), ("markdown", "| hard_one |"), ("latex", r"hard\_one &")):
        out = tmp_path / f"out.{name}"
        assert main(["compare", hard, "--format", name, "--out", str(out)]) == 0
        assert word in out.read_text(encoding="utf-8")
        assert capsys.readouterr().out == ""
    assert main(["compare", hard, "--out", str(tmp_path)]) == 2
    assert "name a file" in capsys.readouterr().err
    assert main(["compare"]) == 2
    assert "astdistill compare runs/*" in capsys.readouterr().err
