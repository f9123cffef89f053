"""Every preset runs from pictures on disk to scores, with its counts turned down from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import published_cells
import pytest
import torch
from PIL import Image

from astdistill.cli.main import main
from astdistill.cli.options import parse
from astdistill.data import medmnist
from astdistill.data.image_folders import IMAGENET_SUBSETS
from astdistill.data.synthetic import load
from astdistill.distillation.settings import DistillSettings
from astdistill.experiment.config import Experiment, Published, check_numbers
from astdistill.experiment.cost import dataset_size
from astdistill.experiment.presets import (
    CELLS,
    FEATURES,
    FRESH,
    MEDMNIST,
    PRESETS,
    SELECTED,
    SQUARED,
    matching,
    with_method,
)
from astdistill.experiment.work import Speed
from astdistill.methods.back_propagation_through_training import BackPropagationThroughTraining
from astdistill.methods.class_matching import ExpertFeatureMatching
from astdistill.methods.distribution_matching import DM
from astdistill.methods.initialisation import HardLabels
from astdistill.methods.outer import LossThreshold
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.methods.rded import CropInit
from astdistill.methods.registry import find_method, methods
from astdistill.methods.segments import GrowingWindow
from astdistill.methods.trajectory_matching import AST, MTT
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError
from astdistill.runtime.trust import trusting

COUNTS = [
    "--experts.count", "1", "--method.expert.epochs", "4", "--method.expert.batch", "64", "--distill.iterations", "1",
    "--method.step.syn-steps", "3", "--method.step.batch-syn", "20", "--method.step.max-start-epoch", "1", "--evaluation.recipe.epochs", "1",
    "--evaluation.recipe.full-epochs", "1", "--evaluation.networks", "1", "--quiet",
]  # fmt: skip


WAYS = {
    each.method.name: name
    for name, each in sorted(PRESETS.items(), key=lambda item: -item[1].ipc)
    if each.data.source.startswith(("digits", "cifar"))
    and "borrowed" not in each.published.source
    and each.method.expert is not None
}
"""One preset for each method, of the fewest images: the settings of the others are checked below."""


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS.values())
def test_preset_runs_end_to_end_with_counts_turned_down(
    name: str, cifar_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTDISTILL_DATA", str(cifar_folder))
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    preset = PRESETS[name]
    counts = COUNTS
    if not isinstance(preset.method.step, TrajectoryMatching):
        counts = [*COUNTS[:8], *COUNTS[14:]]
    if isinstance(preset.method.step, ExpertFeatureMatching):
        counts += ["--method.step.batch-real", "2"]
    if preset.evaluation.architectures:
        counts += ["--evaluation.architectures", "convnet-d2-w4-batchnorm"]
    words = [*counts, "--ipc", "1", "--data.per-class", "2", "--data.first-classes", "10"]
    if isinstance(preset.method.sample, GrowingWindow):
        words += ["--method.sample.lower", "0", "--method.sample.begins", "None"]
    if preset.data.whiten == "zca":
        words += [
            "--data.whiten",
            "zca",
            "--data.size",
            "16",
        ]  # a 768-dimensional whitening; the full one is tested beside kornia
    words += ["--model", "convnet-d2-w4"]
    assert main(["run", name, *words]) == 0
    synthetic = load(f"runs/{name}")
    assert len(synthetic.images) == len(synthetic.classes)
    assert synthetic.data.whiten == preset.data.whiten
    scores = json.loads(Path(f"runs/{name}/scores.json").read_text())
    assert tuple(scores["baselines"]) == preset.evaluation.baselines


BPTT = {
    # name → published accuracy, T, W, real images, image rate, images of a class and classes of a training step
    "cifar10-ipc10-rat-bptt": (69.4, 200, 60, 5000, 1e-3, None, None),
    "cifar100-ipc1-rat-bptt": (35.3, 130, 90, 5000, 3e-4, None, None),
    "cifar100-ipc10-rat-bptt": (47.5, 300, 100, 5000, 1e-3, 1, 100),
    "tiny_imagenet-ipc10-rat-bptt": (24.4, 300, 100, 1000, 3e-4, 1, 50),
    "cifar10-ipc10-at-bptt": (74.9, 32, 16, 5000, 1e-3, None, None),
    "cifar100-ipc10-at-bptt": (50.6, 300, 100, 5000, 1e-3, 1, 100),
    "tiny_imagenet-ipc10-at-bptt": (34.3, 300, 100, 1000, 3e-4, 1, 50),
}


@pytest.mark.parametrize("name", BPTT)
def test_settings_of_back_propagation_through_training(name: str) -> None:
    preset = PRESETS[name]
    step = preset.method.step
    assert isinstance(step, BackPropagationThroughTraining)
    rates = preset.distill.lr_img, step.per_class, step.classes_at_once
    assert (preset.published.accuracy, step.unroll, step.window, step.batch_real, *rates) == BPTT[name]
    assert preset.distill.lr_targets == preset.distill.lr_img
    assert preset.published.protocol == preset.evaluation.recipe.name == "RaT-BPTT"
    assert preset.evaluation.networks == 8
    assert preset.data.whiten == {"tiny_imagenet": "standard"}.get(preset.data.source, "rat")
    assert preset.method.labels.kind == ("hard" if name == "cifar10-ipc10-rat-bptt" else "weights")
    assert ("targets" in preset.method.learn) == (name != "cifar10-ipc10-rat-bptt")


@pytest.mark.slow
def test_back_propagation_through_training_runs_end_to_end(
    cifar_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTDISTILL_DATA", str(cifar_folder))
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    words = [
        "--ipc", "1", "--data.per-class", "2", "--data.whiten", "standard", "--model", "convnet-d2-w4", "--quiet",
        "--distill.iterations", "2", "--method.step.unroll", "4", "--method.step.window", "2", "--evaluation.networks", "1",
        "--method.step.window-range", "1", "--evaluation.recipe.steps", "3", "--evaluation.baselines", "random",
    ]  # fmt: skip
    assert main(["run", "cifar10-ipc10-at-bptt", *words]) == 0
    synthetic = load("runs/cifar10-ipc10-at-bptt")
    assert synthetic.labels == "weights"
    scores = json.loads(Path("runs/cifar10-ipc10-at-bptt/scores.json").read_text())
    rows = [*scores["architecture"].values(), *scores["baselines"].values()]
    assert [len(row["by_steps"][0]) for row in rows] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "depth"), [("tiny_imagenet-ipc1", 4), ("imagenet-nette-ipc1-ftd", 5)])
def test_larger_pictures_run_end_to_end(name: str, depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTDISTILL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    (write_tiny_imagenet if name.startswith("tiny") else write_imagenet)(tmp_path / "data")
    assert main(["run", name, *COUNTS, "--model", f"convnet-d{depth}-w4"]) == 0
    synthetic = load(f"runs/{name}")
    assert tuple(synthetic.images.shape) == ((3, 3, 64, 64) if depth == 4 else (10, 3, 128, 128))
    assert set(json.loads(Path(f"runs/{name}/scores.json").read_text())["baselines"]) == {"random", "kmeans"}


def write_picture(path: Path, size: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path, "JPEG")


def write_tiny_imagenet(data: Path) -> None:
    """Three classes in the layout of tiny-imagenet-200, three training pictures and one validation picture each."""
    folder, wnids, lines = data / "tiny_imagenet", ["n01443537", "n02124075", "n03355925"], []
    for place, wnid in enumerate(wnids):
        for number in range(3):
            write_picture(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", 64, 3 * place + number)
        write_picture(folder / "val" / "images" / f"val_{place}.JPEG", 64, 100 + place)
        lines.append(f"val_{place}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(wnids))


def write_imagenet(data: Path) -> None:
    """A thousand class folders, of which those of 'nette' hold three training pictures and one validation picture
    each."""
    wnids = [f"n{10 * number + 1440764:08d}" for number in range(1000)]
    for part in ("train", "val"):
        for wnid in wnids:
            (data / "imagenet" / part / wnid).mkdir(parents=True)
    for index in IMAGENET_SUBSETS["nette"]:
        for number in range(3):
            write_picture(data / "imagenet" / "train" / wnids[index] / f"{number}.JPEG", 140, index + 1000 * number)
        write_picture(data / "imagenet" / "val" / wnids[index] / "val.JPEG", 140, index)


def test_medmnist_runs_from_a_file_by_path_and_its_presets_say_whose_settings_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ASTDISTILL_DATA", raising=False)
    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = np.random.default_rng(0).integers(0, 256, (22, 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(22) % 11)[:, None].astype(np.uint8)
    np.savez(tmp_path / "organcmnist.npz", **arrays)  # pyright: ignore[reportArgumentType]
    words = [*COUNTS, "--data", "organcmnist.npz", "--model", "convnet-d2-w4"]
    assert main(["run", "organcmnist-ipc1", *words]) == 0
    synthetic = load("runs/organcmnist-ipc1")
    assert (synthetic.classes[4], tuple(synthetic.images.shape)) == ("kidney-left", (11, 1, 32, 32))
    capsys.readouterr()
    assert main(["run", "bloodmnist_64-ipc1", *COUNTS]) == 2
    assert "download bloodmnist_64.npz of MedMNIST" in capsys.readouterr().err


def test_the_presets_of_medmnist() -> None:
    assert len(MEDMNIST) == 44
    assert {each.data.source for each in MEDMNIST} == set(medmnist.NAMES) - {"chestmnist", "chestmnist_64"}
    for each in MEDMNIST:
        assert each.method.name == "ast"
        assert each.published.accuracy is None
        assert "settings are ours" in each.published.source
        assert each.method.expert is not None
        mirrored = "flip" in each.distill.augmentation
        assert mirrored == ("flip" in each.method.expert.augmentation) == (not each.data.source.startswith("organ"))
        assert each.model == ("convnet-d4" if each.data.source.endswith("_64") else "convnet-d3")
    assert PRESETS["breastmnist-ipc10"].method.expert.batch == 32  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("name", ["digits-ipc1", "cifar100-ipc10-ftd", "cifar10-ipc10-datm"])
def test_preset_dry_runs_with_its_estimate(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Speed, "_measured", lambda self, step: 1.0)
    assert main(["run", name, "--dry-run", "--json", "--model", "convnet-d2-w4"]) == 0
    shown = capsys.readouterr().out
    resolved = Experiment.model_validate(json.loads(shown)["settings"])
    assert resolved == PRESETS[name].replace(model="convnet-d2-w4", published=Published())
    for stage in (
        f"{PRESETS[name].experts.count} experts",
        f"{PRESETS[name].distill.iterations} outer steps",
        "together",
    ):
        assert stage in shown
    assert list(tmp_path.iterdir()) == []


def test_presets_are_what_the_command_line_makes_of_their_names_and_their_settings_fit() -> None:
    """What the dry run checks before it times anything."""
    for name, preset in PRESETS.items():
        request = parse("run", [name])
        assert request.experiment == preset, name
        check_numbers(request.experiment)
        size = dataset_size(request.experiment)
        assert request.experiment.ipc * size.classes <= size.train, name


def test_presets_survive_json() -> None:
    for name, preset in PRESETS.items():
        assert Experiment.model_validate(json.loads(json.dumps(preset.to_json()))) == preset, name


def test_the_acceptance_cell_is_the_published_one() -> None:
    cell = PRESETS["cifar100-ipc1"]
    settings, expert = cell.distill, cell.method.recipe
    assert (cell.data.source, cell.data.whiten, cell.ipc, cell.model, cell.experts.count) == (
        "cifar100",
        "zca",
        1,
        "convnet-d3",
        100,
    )
    assert (cell.method.step.counts, cell.method.step.last_epoch) == ("20/3/20", 22)
    assert (settings.lr_img, settings.lr_lr, settings.lr_init, settings.iterations) == (1000, 1e-5, 0.01, 5000)
    assert (expert.epochs, expert.lr, expert.momentum, expert.weight_decay, expert.lr_drop) == (
        50,
        0.003,
        0.9,
        1e-3,
        0.6,
    )
    assert (expert.clipped_epochs, expert.penalty, cell.method.momentum) == (10, 2.0, 0.9)


def test_another_method_keeps_the_cell() -> None:
    cell = with_method(PRESETS["cifar100-ten-ipc10"], "mtt")
    assert cell.method.name == "mtt"
    assert cell.method.recipe.epochs == 15
    assert cell.method.recipe.momentum == 0.0
    assert cell.distill == PRESETS["cifar100-ten-ipc10"].distill
    assert cell.method.step == PRESETS["cifar100-ten-ipc10"].method.step


def test_numbers_of_an_outer_step_stay_where_another_method_has_the_same() -> None:
    cell = PRESETS["cifar100-ipc50-mtt"]
    assert cell.method.step.counts == "80/2/40"
    with trusting("users_paper"):
        for name in ("ast", "datm", "tesla", "users_paper:STEADY"):
            assert with_method(cell, name).method.step == cell.method.step
    alone = with_method(cell, "dm")
    assert alone.method == DM
    assert (
        not {"syn_steps", "batch_syn", "inner_steps"} & (alone.method.step.to_json() | alone.distill.to_json()).keys()
    )


@pytest.mark.parametrize("name", published_cells.CELLS)
def test_cells_are_the_published_ones(name: str) -> None:
    """Accuracy, T, M, start epochs, rates and batch of every cell, written out once more."""
    cell, settings, step = PRESETS[name], PRESETS[name].distill, PRESETS[name].method.step
    assert isinstance(step, TrajectoryMatching)
    found = (
        cell.published.accuracy, step.syn_steps, step.expert_epochs, step.max_start_epoch,
        settings.lr_img, settings.lr_lr, step.batch_syn, cell.data.whiten, settings.lr_init,
    )  # fmt: skip
    assert found == published_cells.CELLS[name]
    assert cell.experts.count == 100
    assert step.max_start_epoch - 1 + step.expert_epochs <= cell.method.recipe.epochs
    assert cell.method.recipe.epochs == (100 if cell.method.name == "datm" else 50)


def test_no_cell_is_left_out() -> None:
    assert {cell.name for cell in CELLS} == set(published_cells.CELLS)
    tables = CELLS, FEATURES, BPTT, FRESH, SQUARED, SELECTED, MEDMNIST
    assert len(PRESETS) == sum(map(len, tables)) + 2  # no name twice


OF_FRESH = {
    "dm": {"cifar10": (26.0, 48.9, 63.0), "cifar100": (11.4, 29.7, 43.6), "tiny_imagenet": (3.9, 12.9, 24.1)},
    "dc": {"cifar10": (28.3, 44.9, 53.9), "cifar100": (12.8, 25.2)},
    "dsa": {"cifar10": (28.8, 52.1, 60.6), "cifar100": (13.9, 32.3, 42.8)},
}
"""At 1, 10 and 50 images per class."""


@pytest.mark.parametrize("cell", FRESH, ids=lambda cell: cell.name)
def test_cells_of_fresh_networks_are_the_published_ones(cell: Experiment) -> None:
    name, settings, recipe = cell.method.name, cell.distill, cell.evaluation.recipe
    assert cell.published.accuracy == OF_FRESH[name][cell.data.source][(1, 10, 50).index(cell.ipc)]
    rates = settings.lr_img, settings.outer_momentum, settings.lr_init
    assert rates == ({"dm": 1.0}.get(name, 0.1), 0.5, 0.01)
    assert cell.data.whiten == "standard"
    assert settings.iterations == {"dm": 20_000}.get(name, 1000 * cell.ipc)
    assert settings.augmentation == {"dc": ""}.get(name, "color_crop_cutout_flip_scale_rotate")
    assert (recipe.name, recipe.epochs, recipe.reported) == (*{"dc": ("DC", 300)}.get(name, ("MTT", 1000)), "final")
    assert (cell.published.protocol, cell.method.expert) == (recipe.name, None)


OF_CROPS = {
    "cifar10": (None, None, 68.4, 1e-3, ((1, 10), (10, 50), (50, 100)), 256),
    "cifar100": (19.6, 48.1, 57.0, 2e-3, (), 25),
    "tiny_imagenet": (None, None, 47.6, 1e-3, (), 100),
}
"""RDED's accuracies at 1, 10 and 50 images per class, None where no second source confirmed one, and its student's
learning rate and batches."""


@pytest.mark.parametrize("cell", SELECTED, ids=lambda cell: cell.name)
def test_cells_of_crops_are_the_published_ones(cell: Experiment) -> None:
    recipe, figures = cell.evaluation.recipe, OF_CROPS[cell.data.source]
    assert cell.published.accuracy == figures[(1, 10, 50).index(cell.ipc)]
    assert (recipe.lr, recipe.batches, recipe.batch) == figures[3:]
    assert (recipe.name, recipe.epochs, recipe.temperature, recipe.reported) == ("RDED", 300, 20.0, "best")
    assert cell.evaluation.architectures == (f"{cell.model}-batchnorm",)
    assert (cell.distill.factor, cell.experts.count, cell.data.whiten) == (1, 1, "standard")
    assert isinstance(cell.method.init, CropInit)
    assert (cell.method.init.images, cell.method.init.crops) == (300, 5)


@pytest.mark.parametrize("cell", SQUARED, ids=lambda cell: cell.name)
def test_cells_of_squared_differences_are_the_published_ones(cell: Experiment) -> None:
    step, settings, recipe = cell.method.step, cell.distill, cell.evaluation.recipe
    assert cell.published.accuracy == {1: 50.0, 10: 67.5, 50: 74.5}[cell.ipc]
    assert step.to_json() | {"differences": "squared", "net_images": 2000, "matchings": 100} == step.to_json()
    assert (settings.iterations, settings.factor, settings.augmentation) == (200_000, 2, "color_crop_cutout")
    assert settings.lr_img == pytest.approx(5e-3 * cell.ipc / 10 * 16 * 2)
    assert (recipe.epochs, recipe.batch, recipe.reported, recipe.cutmix) == (1000, 64, "best", 0.5)


FIGURES = {
    "tgdd": {"cifar10": (None, 71.9, 76.5), "cifar100": (None, 51.3, 54.6), "tiny_imagenet": (None, 29.3, 30.9)},
    "ncfm": {"cifar10": (49.5, 71.8, 77.4), "cifar100": (34.4, 48.7, 54.7), "tiny_imagenet": (18.2, 26.8, 29.6)},
}
"""At 1, 10 and 50 images per class."""


@pytest.mark.parametrize("cell", FEATURES, ids=lambda cell: cell.name)
def test_cells_of_slots_say_what_their_figures_are(cell: Experiment) -> None:
    name, place = cell.method.name, (1, 10, 50).index(cell.ipc)
    assert cell.published.accuracy == FIGURES[name][cell.data.source][place]
    assert "best test epoch, four sub-images in each slot" in cell.published.source
    assert (cell.evaluation.recipe.name, cell.evaluation.recipe.reported) == (cell.published.protocol, "best")
    assert (cell.distill.factor, cell.data.whiten, cell.distill.augmentation) == (2, "standard", "color_crop_cutout")
    assert cell.experts.count == {"tgdd": 5, "ncfm": 20}[name]
    assert Experiment.model_validate(cell.to_json()) == cell


def test_a_rate_of_pixels_becomes_one_of_standardised_images_and_of_joint_steps() -> None:
    assert PRESETS["cifar10-ipc10-tgdd"].distill.lr_img == pytest.approx(2 * 0.1 * 16)
    assert PRESETS["cifar10-ipc10-tgdd"].distill.outer_momentum == 0
    assert PRESETS["cifar10-ipc10-ncfm"].distill.lr_img == pytest.approx(1e-3 * 20**0.5 * 4)
    assert PRESETS["cifar100-ipc10-ncfm"].distill.outer_optimiser == "sgd"
    assert all(cell.distill.plateau == {"ncfm": 500}.get(cell.method.name, 0) for cell in PRESETS.values())


@pytest.mark.parametrize("name", published_cells.DATM)
def test_datms_cells_are_the_published_ones(name: str) -> None:
    """Window, target rate, average and threshold of the authors' configurations."""
    cell, settings = PRESETS[name], PRESETS[name].distill
    sample, step_filter = cell.method.sample, cell.method.step_filter
    assert isinstance(sample, GrowingWindow)
    assert isinstance(step_filter, LossThreshold)
    found = (
        (sample.lower, sample.begins, sample.full_by),
        settings.lr_targets,
        cell.method.ema_decay,
        step_filter.threshold,
    )
    assert found == published_cells.DATM[name]
    assert (settings.iterations, settings.targets_momentum, cell.data.whiten) == (10000, 0.9, "zca")


@pytest.mark.parametrize("name", published_cells.FTD)
def test_ftd_has_the_gap_and_the_average_of_its_table(name: str) -> None:
    method = PRESETS[name].method
    assert (method.recipe.surrogate_gap, method.ema_decay) == published_cells.FTD[name]
    assert method.recipe.sam_rho == 0.01


PARTS = {"init", "weight", "perturb", "loss"}
"""What AST's outer step has and MTT's has not."""
LEFT_OUT = {
    "cifar100-ipc10": {"weight"},
    "cifar100-ipc50": {"perturb", "weight", "loss"},
    "cifar10-ipc10": {"init"},
    "tiny_imagenet-ipc1": {"init", "weight"},
}
"""The parts that the flags of AST's script leave out; its README's command has all."""


def test_ast_has_the_parts_that_its_script_has_and_all_six_beside_it() -> None:
    for cell in (each for each in CELLS if each.method.name == "ast"):
        missing = {part for part in PARTS if getattr(cell.method, part) == getattr(MTT, part)}
        assert missing == LEFT_OUT.get(cell.name, set()), cell.name
        assert cell.method.expert == AST.expert
    assert {cell.name for cell in CELLS if cell.name.endswith("all-six")} == {f"{name}-all-six" for name in LEFT_OUT}


def test_every_cell_names_its_method_and_source() -> None:
    methods = {
        name: [cell.name for cell in CELLS if cell.method.name == name]
        for name in ("ast", "mtt", "ftd", "tesla", "datm")
    }
    counts = {"ast": 12, "mtt": 21, "ftd": 20, "tesla": 6, "datm": 12}
    assert {name: len(cells) for name, cells in methods.items()} == counts
    for name, cells in methods.items():
        assert all(cell.endswith(f"-{name}") for cell in cells) or name == "ast"
    assert all("arXiv" in cell.published.source for cell in CELLS)


def test_figures_of_others_never_stand_as_those_of_ast() -> None:
    """Its own tables are not available: the column is empty, and the best of the others stands in a column of its
    own."""
    best = {"cifar10": (48.5, 67.7, 74.5), "cifar100": (26.1, 44.2, 51.2), "tiny_imagenet": (11.0, 25.8, None)}
    for cell in CELLS:
        if cell.method.name == "ast":
            assert cell.published.accuracy is None
            assert cell.published.peer.accuracy == best[cell.data.source][(1, 10, 50).index(cell.ipc)]
            assert "arXiv" in cell.published.peer.source
        else:
            assert cell.published.peer.accuracy is None


def test_a_cell_has_the_kind_of_labels_that_its_figure_was_reached_with() -> None:
    """NUMBERS.md lists MTT, FTD, TESLA and AST's bar among hard labels, DATM among learned soft ones."""
    for cell in CELLS:
        assert isinstance(cell.method.labels, HardLabels) == (cell.method.name != "datm"), cell.name


def test_what_is_borrowed_is_said() -> None:
    """A paper's own settings stand without a word; borrowed ones are those of the other method, to the number."""
    borrowed = {cell.name: cell for cell in CELLS if "borrowed from MTT" in cell.published.source}
    assert set(borrowed) == {
        "cifar10-ipc10-tesla", "cifar10-ipc50-tesla", "cifar100-ipc1-tesla", "cifar100-ipc10-tesla"
    }  # fmt: skip
    for name, cell in borrowed.items():
        lender = PRESETS[name.replace("-tesla", "-mtt")]
        assert (cell.distill, cell.data) == (lender.distill, lender.data)
    ours = {cell.name for cell in CELLS if "settings are ours" in cell.published.source}
    assert ours == {"cifar10-ipc1", "cifar10-ipc50", "tiny_imagenet-ipc10"}
    for name in ours:
        assert PRESETS[name].distill == PRESETS[f"{name}-mtt"].distill
    halved = {cell.name: cell.distill.lr_img for cell in CELLS if "half of the published 1000" in cell.published.source}
    assert halved == {"cifar10-ipc1-tesla": 500, "cifar100-ipc50-tesla": 500}


SHAPES = {"cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "tiny_imagenet": (3, 64, 64)}


@pytest.mark.parametrize(
    ("data", "depth"), [*((data, 4 if data == "tiny_imagenet" else 3) for data in SHAPES), ("imagenet", 5)]
)
def test_cells_of_a_data_set_share_one_network_that_fits_its_images(data: str, depth: int) -> None:
    cells = [cell for cell in CELLS if cell.data.source.split("-")[0] == data]
    shape, classes = SHAPES.get(data, (3, 128, 128)), dataset_size(cells[0]).classes
    assert {cell.model for cell in cells} == {f"convnet-d{depth}"}
    assert {dataset_size(cell).shape for cell in cells} == {shape}
    assert build_model(f"convnet-d{depth}", shape, classes)(torch.zeros(1, *shape)).shape == (1, classes)


@pytest.mark.parametrize("method", ["mtt", "ftd", "tesla", "datm", "att", "ast_soft_window:AST_SOFT_WINDOW"])
def test_every_method_runs_in_the_cells_of_others(method: str) -> None:
    for cell in ("cifar100-ipc1", "cifar100-ipc50-datm"):
        with trusting(method):
            found = with_method(PRESETS[cell], method)
        check_numbers(found)
        assert found.method.recipe.epochs == PRESETS[cell].method.recipe.epochs


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("cell", ["ncfm", "tgdd", "dc", "dsa", "idc", "rat-bptt", "at-bptt", "rded", "dm"])
def test_a_method_of_another_family_takes_nothing_over_from_that_of_the_preset(cell: str, name: str) -> None:
    """Its rates and optimiser are those that a plain trajectory preset gives it; between methods of one kind the number
    of steps and the augmentation stay, where both leave them to the preset."""
    source = {"at-bptt": "tiny_imagenet"}.get(cell, "cifar10")
    begun = PRESETS[f"{source}-ipc10-{cell}"]
    found, method = with_method(begun, name).distill, find_method(name)
    if type(method.step) is type(begun.method.step):
        assert found == begun.distill
        return
    wanted = DistillSettings().replace(**method.step.usual_settings(10), factor=begun.distill.factor)
    kinds = {"ncfm", "tgdd", "ast-tgdd"}, {"rat-bptt", "at-bptt"}, {"idc", "dsa"}
    if any({cell, name} <= kind for kind in kinds):
        wanted = wanted.replace(augmentation=begun.distill.augmentation)
    if {cell, name} <= kinds[1]:
        wanted = wanted.replace(iterations=begun.distill.iterations)
    assert found == wanted


@pytest.mark.parametrize(("name", "epochs", "networks"), [("dc", 300, 5), ("tgdd", 1500, 5), ("rat", 1000, 8)])
def test_a_protocol_comes_with_its_own_epochs_and_networks(name: str, epochs: int, networks: int) -> None:
    for preset in ("cifar10-ipc10-mtt", "digits-ipc1"):
        found = parse("run", [preset, "--protocol", name]).experiment.evaluation
        assert (found.recipe.epochs, found.networks) == (epochs, networks)
        assert found.recipe.full_epochs == PRESETS[preset].evaluation.recipe.full_epochs
    asked = parse("run", ["digits-ipc1", "--protocol", name, "--evaluation.networks", "3"]).experiment.evaluation
    assert asked.networks == 3


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["digits-ipc1"], {"digits-ipc1"}),
        (["tiny", "datm"], {"tiny_imagenet-ipc1-datm", "tiny_imagenet-ipc10-datm", "tiny_imagenet-ipc50-datm"}),
        (
            ["cifar10", "ipc1"],
            {"cifar10-ipc1"}
            | {
                f"cifar10-ipc1-{method}"
                for method in ("mtt", "ftd", "tesla", "datm", "dm", "ncfm", "dc", "dsa", "idc", "rded")
            },
        ),
        (["ast", "cifar10"], {"cifar10-ipc1", "cifar10-ipc10", "cifar10-ipc10-all-six", "cifar10-ipc50"}),
        ([], set(PRESETS)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_words_choose_presets(words: list[str], names: set[str]) -> None:
    """A word that something has whole ('cifar10', 'ipc1') does not stand for what it is a part of."""
    assert {each.name for each in matching(words)} == names


@pytest.mark.parametrize(
    ("words", "sentence"), [(["cifar101"], "Did you mean 'cifar10'"), (["mtt", "datm"], "leave some out")]
)
def test_words_that_choose_nothing_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        matching(words)


def test_only_the_subsets_of_imagenet_are_squashed() -> None:
    """As MTT's and FTD's released code does; one's own pictures are cropped."""
    squashed = {name for name, found in PRESETS.items() if found.data.resize == "squash"}
    assert squashed == {name for name in PRESETS if name.startswith("imagenet-")}
    assert len(squashed) == 4 * len(IMAGENET_SUBSETS)
