"""Every preset runs from pictures on disk to scores, with its counts turned down from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from astdistill.cli import main
from astdistill.experiment import Experiment, Published, check_numbers
from astdistill.methods.parts import GrowingWindow, LossThreshold
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
    ipc = min(preset.ipc, {"cifar10": 10, "cifar100": 50}.get(preset.data.source, preset.ipc))  # so many pictures are there
    words = [*COUNTS, "--ipc", str(ipc), "--data.per-class", str(ipc + 1)]
    if isinstance(preset.method.sample, GrowingWindow):
        words += ["--method.sample.lower", "0", "--method.sample.begins", "None"]
    if preset.data.whiten == "zca":
        words += ["--data.whiten", "zca", "--data.size", "16"]  # a 768-dimensional whitening; the full one is tested beside kornia
    words += ["--model", "convnet-d2-w4"]
    assert main(["run", name, *words]) == 0
    synthetic = load(f"runs/{name}")
    assert synthetic.ipc == ipc
    assert len(synthetic.images) == ipc * len(synthetic.classes)
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


DATM_CELLS = {
    "cifar10-ipc1-datm": (46.9, 80, 2, (0, None, 0, 4), 100, 5, 1e-7, 0.995, 10, 1.1),
    "cifar10-ipc10-datm": (66.8, 80, 2, (0, 10, 1000, 20), 100, 2, 1e-5, 0.9995, 100, 1.0),
    "cifar10-ipc50-datm": (76.1, 80, 2, (0, 20, 2000, 40), 1000, 2, 1e-5, 0.995, 500, 1.0),
    "cifar10-ipc500-datm": (None, 40, 2, (40, None, 0, 60), 50, 10, 1e-5, 0.995, 1000, 1.0),
    "cifar10-ipc1000-datm": (None, 100, 2, (40, None, 0, 60), 50, 10, 1e-5, 0.995, 1000, 1.0),
    "cifar100-ipc1-datm": (27.9, 40, 3, (0, 10, 1000, 20), 1000, 10, 1e-5, 0.9995, 1000, 1.0),
    "cifar100-ipc10-datm": (47.2, 80, 2, (0, 30, 2000, 50), 1000, 10, 1e-5, 0.9995, 1000, 1.0),
    "cifar100-ipc50-datm": (55.0, 80, 2, (20, None, 0, 70), 1000, 10, 1e-5, 0.9995, 1000, 1.0),
    "cifar100-ipc100-datm": (None, 80, 2, (30, None, 0, 70), 50, 10, 1e-5, 0.9995, 1000, 1.0),
}


@pytest.mark.parametrize("name", DATM_CELLS)
def test_datms_cells_are_the_published_ones(name: str) -> None:
    """T, M, window, rates, average, batch and threshold of the authors' configurations, written out once more."""
    cell, settings = PRESETS[name], PRESETS[name].distill
    sample, accept = cell.method.sample, cell.method.accept
    assert isinstance(sample, GrowingWindow)
    assert isinstance(accept, LossThreshold)
    found = (
        cell.published.accuracy, settings.inner_steps, settings.matched_epochs,
        (sample.lower, sample.begins, sample.full_by, settings.max_start_epoch),
        settings.lr_img, settings.lr_targets, settings.lr_lr, cell.method.average, settings.batch_syn, accept.threshold,
    )  # fmt: skip
    assert found == DATM_CELLS[name]
    assert (settings.iterations, settings.targets_momentum, settings.lr_init, cell.data.whiten) == (10000, 0.9, 0.01, "zca")
    assert settings.max_start_epoch - 1 + settings.matched_epochs <= cell.method.expert.epochs == 100


def test_every_cell_names_its_method_and_source() -> None:
    methods = {
        name: [cell.name for cell in PRESETS.values() if cell.method.name == name] for name in ("ast", "mtt", "ftd", "tesla", "datm")
    }
    assert {name: len(cells) for name, cells in methods.items()} == {"ast": 6, "mtt": 2, "ftd": 1, "tesla": 2, "datm": 9}
    for name, cells in methods.items():
        assert all(cell.endswith(f"-{name}") for cell in cells) or name == "ast"
    assert all("arXiv" in cell.published.source for cell in PRESETS.values() if cell.experts.count == 100)


@pytest.mark.parametrize("method", ["mtt", "ftd", "tesla", "datm", "att", "ast_soft_window:AST_SOFT_WINDOW"])
def test_every_method_runs_in_the_cells_of_others(method: str) -> None:
    for cell in ("cifar100-ipc1", "cifar100-ipc50-datm"):
        found = with_method(PRESETS[cell], method)
        check_numbers(found)
        assert found.method.expert.epochs == PRESETS[cell].method.expert.epochs
