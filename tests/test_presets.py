"""Every preset runs from pictures on disk to scores, with its counts turned down from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from astdistill.cli import main
from astdistill.experiment import Experiment, Published
from astdistill.presets import PRESETS, with_method
from astdistill.synthetic import load

COUNTS = [
    "--experts.count", "1", "--method.expert.epochs", "4", "--method.expert.batch", "64", "--distill.iterations", "1",
    "--distill.inner-steps", "3", "--distill.batch-syn", "20", "--distill.max-start-epoch", "1", "--evaluation.recipe.epochs", "1",
    "--evaluation.recipe.full-epochs", "1", "--evaluation.networks", "1", "--quiet",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_preset_runs_end_to_end_with_counts_turned_down(
    name: str, cifar_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTDISTILL_DATA", str(cifar_folder))
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    preset = PRESETS[name]
    words = [*COUNTS, "--data.per-class", str(preset.ipc + 1)]
    if preset.data.whiten == "zca":
        words += ["--data.whiten", "zca", "--data.size", "16"]  # a 768-dimensional whitening; the full one is tested beside kornia
    words += ["--model", "convnet-d2-w4"]
    assert main(["run", name, *words]) == 0
    synthetic = load(f"runs/{name}")
    assert synthetic.ipc == preset.ipc
    assert len(synthetic.images) == preset.ipc * len(synthetic.classes)
    assert synthetic.data.whiten == preset.data.whiten
    scores = json.loads(Path(f"runs/{name}/scores.json").read_text())
    assert set(scores["baselines"]) == {"random", "kmeans", "full"}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_dry_runs_with_its_estimate(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", name, "--dry-run", "--model", "convnet-d2-w4"]) == 0
    shown = capsys.readouterr().out
    resolved = Experiment.model_validate(json.loads(shown[: shown.rindex("}") + 1]))
    assert resolved == PRESETS[name].replace(model="convnet-d2-w4", published=Published())
    for stage in (f"{PRESETS[name].experts.count} experts", f"{PRESETS[name].distill.iterations} outer steps", "together"):
        assert stage in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("experiment", PRESETS.values(), ids=PRESETS)
def test_presets_survive_json(experiment: Experiment) -> None:
    assert Experiment.model_validate(json.loads(json.dumps(experiment.to_json()))) == experiment


def test_the_acceptance_cell_is_the_published_one() -> None:
    cell = PRESETS["cifar100-ipc1"]
    settings, expert = cell.distill, cell.method.expert
    assert (cell.data.source, cell.data.whiten, cell.ipc, cell.model, cell.experts.count) == ("cifar100", "zca", 1, "convnet-d3", 100)
    assert (settings.inner_steps, settings.matched_epochs, settings.max_start_epoch) == (20, 3, 20)
    assert (settings.lr_img, settings.lr_lr, settings.lr_init, settings.iterations) == (1000, 1e-5, 0.01, 5000)
    assert (expert.epochs, expert.lr, expert.momentum, expert.weight_decay, expert.lr_drop) == (50, 0.003, 0.9, 1e-3, 0.6)
    assert (expert.clip_epochs, expert.penalty, cell.method.momentum) == (10, 2.0, 0.9)


def test_another_method_keeps_the_cell() -> None:
    cell = with_method(PRESETS["cifar100-ten-ipc10"], "mtt")
    assert cell.method.name == "mtt"
    assert cell.method.expert.epochs == 15
    assert cell.method.expert.momentum == 0.0
    assert cell.distill == PRESETS["cifar100-ten-ipc10"].distill
