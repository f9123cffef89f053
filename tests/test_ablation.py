"""The ablation: which variants it runs, with what seeds, and the table's arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from astdistill.cli.ablation import NONE, Ablation, AblationRow, seeded, table, variants
from astdistill.cli.main import main
from astdistill.experiment.presets import preset, with_method
from astdistill.interop.distilled import load
from astdistill.methods.method import PARTS
from astdistill.runtime.errors import InputError
from astdistill.runtime.tables import markdown

TINY = [
    "--experts.count", "1", "--method.expert.epochs", "3", "--model", "convnet-d1-w4", "--distill.iterations", "2",
    "--method.step.max-start-epoch", "2", "--method.step.syn-steps", "2", "--evaluation.recipe.epochs", "2", "--evaluation.networks", "2",
    "--data.per-class", "8", "--quiet",
]  # fmt: skip


def test_variants_are_the_whole_one_off_each_and_all_off() -> None:
    whole = preset("digits-ipc1")
    found = variants(whole)
    assert list(found) == ["ast", *(f"without {part}" for part in PARTS), NONE]
    assert found["ast"] == whole
    for part in PARTS:
        assert found[f"without {part}"].method == whole.method.without(part)
    assert all(found[NONE].method.without(part) == found[NONE].method for part in PARTS)
    assert len({each.digest() for each in found.values()}) == len(found)


def test_a_part_that_is_off_already_is_left_out() -> None:
    whole = preset("digits-ipc1")
    found = variants(whole.replace(method=whole.method.without("penalty")))
    assert "without penalty" not in found
    assert "without clipping" in found


def test_a_method_without_the_parts_is_refused() -> None:
    with pytest.raises(InputError, match="'mtt' has none of AST's six parts"):
        variants(with_method(preset("digits-ipc1"), "mtt"))


def test_every_seed_has_its_own_experts_and_draws() -> None:
    first, second = (seeded(preset("digits-ipc1"), number) for number in (0, 1))
    assert (first.seed, first.experts.seed) == (0, 0)
    assert (second.seed, second.experts.seed) == (1, 1)
    assert second.evaluation.baselines == ()


def test_changes_are_taken_seed_by_seed() -> None:
    rows = (
        AblationRow(variant="ast", final=((50.0, 52.0), (60.0, 62.0))),
        AblationRow(variant="without penalty", final=((49.0, 49.0), (57.0, 57.0))),
    )
    found = Ablation(base="cell", method="ast", seeds=2, protocol="Protocol MTT: 3 epochs; mean ± x", rows=rows)
    assert found.change(rows[1]) == (-2.0, -4.0)
    text = markdown(table(found))
    assert "| ast | 56.0 ± 7.1 |  | 2 × 2 |" in text
    assert "| without penalty | 53.0 ± 5.7 | -3.0 ± 1.4 | 2 × 2 |" in text
    assert "Protocol MTT: 3 epochs. n: whole runs" in text


@pytest.mark.slow
def test_the_command_runs_resumes_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    fewer = [
        word for part in ("penalty", "representative", "intermediate", "perturbation") for word in ("--without", part)
    ]
    words = ["run", "ablation", "--base", "digits-ipc1", "--seeds", "2", *fewer, *TINY]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "without balanced" in shown
    out = Path("runs/ablation-digits-ipc1")
    found = Ablation.model_validate(json.loads((out / "ablation.json").read_text()))
    assert [len(row.final) for row in found.rows] == [2] * 4
    assert [row.variant for row in found.rows] == ["ast", "without clipping", "without balanced", NONE]
    assert len(list(Path("experts").glob("*"))) == 4, "with and without clipping, for each of two seeds"
    assert (out / "ablation.md").read_text() == markdown(table(found))
    config = json.loads((out / "without-balanced-seed1" / "config.json").read_text())
    assert (config["seed"], config["experts"]["seed"]) == (1, 1)
    images, written = load(out / "ast-seed0").images, (out / "ast-seed0" / "scores.partial.json").stat().st_mtime_ns
    assert main(words) == 0
    assert torch.equal(load(out / "ast-seed0").images, images)
    assert (out / "ast-seed0" / "scores.partial.json").stat().st_mtime_ns == written, "a network was trained again"
    assert Ablation.model_validate(json.loads((out / "ablation.json").read_text())) == found


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "--base cifar100-ten-ipc10"),
        (["--base", "digits-ipc2"], "digits-ipc1"),
        (["--base", "digits-ipc1", "--seeds", "0"], "--seeds 0 was given"),
    ],
)
def test_wrong_words_are_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "ablation", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_dry_run_tells_the_cost_of_every_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "ablation", "--base", "digits-ipc1", *TINY, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("shared") == 4, "of eight variants four have the whole method's experts"
    assert not list(tmp_path.iterdir())
