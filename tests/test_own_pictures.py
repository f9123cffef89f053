"""Pictures without a preset: what is chosen for them, what flags and presets do to it, and the guide as it is typed."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forking
import numpy as np
import pandas as pd
import pytest
from folders import own_cache
from PIL import Image
from problems import exit_code

from astdistill.cli.options import parse
from astdistill.data.dataset import DataConfig
from astdistill.data.decoding import stored_shape
from astdistill.data.survey import PictureSize, described_by_headers, survey
from astdistill.experiment.config import Experiment
from astdistill.experiment.cost import DatasetSize, counted
from astdistill.experiment.presets import preset
from astdistill.experiment.proposal import BUDGET, Proposal, propose
from astdistill.experiment.work import Costs
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError

ROOT = Path(__file__).parents[1]


def write(folder: Path, counts: dict[str, int], *sizes: tuple[int, int], mode: str = "RGB") -> Path:
    """Pictures (height, width) of random bytes, in turn of these sizes."""
    draw = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 255, (*sizes[number % len(sizes)], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{number}.png")
    return folder


def own(folder: Path, **fields: object) -> Proposal:
    return propose(DataConfig.model_validate({"source": str(folder), **fields}))


@pytest.mark.parametrize(
    ("sizes", "mode", "asked", "side", "depth"),
    [
        (((40, 36), (30, 52), (38, 80)), "RGB", 32, 32, 3),  # median short side 36
        (((100, 120),), "RGB", 128, 128, 5),
        (((400, 300),), "RGB", 128, 128, 5),
        (((64, 64),), "RGB", None, 64, 4),
        (((64, 70),), "RGB", 64, 64, 4),
        (((28, 28),), "L", None, 32, 3),
        (((28, 28),), "RGB", 32, 32, 3),
        (((5, 6),), "RGB", 8, 8, 2),
        (((17, 23),), "L", 16, 16, 2),
        (((45, 45), (46, 46), (47, 47)), "RGB", 64, 64, 4),  # 46 is nearer 64 than 32 by its logarithm
    ],
)
def test_size_is_a_power_of_two_near_the_median_and_depth_goes_with_it(
    sizes: tuple[tuple[int, int], ...], mode: str, asked: int | None, side: int, depth: int, tmp_path: Path
) -> None:
    found = own(write(tmp_path / "in", {"a": 6, "b": 6}, *sizes, mode=mode)).experiment
    assert found.data.size == asked
    assert found.model == f"convnet-d{depth}-w32"
    build_model(found.model, (3, side, side), 2)
    assert ("flip" in found.distill.augmentation) == (mode == "RGB")
    assert found.distill.augmentation == found.method.recipe.augmentation


def test_a_size_that_is_given_is_taken_and_so_are_chosen_classes(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"a": 6, "b": 6, "c": 6}, (64, 64))
    found = own(folder, size=24, classes=("a", "c")).experiment
    assert (found.data.size, found.data.classes, found.model) == (24, ("a", "c"), "convnet-d3-w32")
    assert survey(found.data).classes == ("a", "c")


def test_a_size_beyond_the_deepest_network_is_refused_with_what_to_choose(tmp_path: Path) -> None:
    """Before, the depth of a network that nobody had named was refused."""
    folder = write(tmp_path / "in", {"a": 6, "b": 6}, (64, 64))
    assert own(folder, size=1448).experiment.model.startswith("convnet-d8-")
    with pytest.raises(
        InputError, match=r"^--data.size 1449 is more than settings are chosen for; choose 1448 or less"
    ):
        own(folder, size=1449)


def test_a_survey_decodes_nothing_and_leaves_broken_pictures_to_reading(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"a": 8, "b": 4}, (20, 30))
    (folder / "a" / "0.png").write_bytes((folder / "a" / "0.png").read_bytes()[:100])  # the header is whole
    (folder / "b" / "1.png").write_bytes(b"nothing")
    seen = survey(DataConfig(source=str(folder)))
    assert (seen.train, seen.test, seen.channels) == ((8, 4), 0, 3)
    assert seen.sizes == (PictureSize(20, 30),) * 11
    assert seen.alike
    assert seen.median == 20


def test_a_dry_run_names_the_pictures_that_it_cannot_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"a": 8, "b": 8}, (16, 16))
    assert not [said for said in described_by_headers(DataConfig(source=str(folder))).read if "not readable" in said]
    (folder / "b" / "1.png").write_bytes(b"")
    (told,) = (said for said in described_by_headers(DataConfig(source=str(folder))).read if "not readable" in said)
    assert told == f"not readable, so that the run will stop: {folder / 'b' / '1.png'}"


def test_arrays_and_names_are_surveyed_too(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 255, (40, 28, 28), dtype=np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    found = own(tmp_path / "own.npz").experiment
    assert (found.name, found.data.size, found.model) == ("own", None, "convnet-d3-w32")
    named = propose(DataConfig(source="cifar10")).experiment  # known by name: not read, so no network
    assert (named.name, named.data.size, named.method.recipe.batch) == ("cifar10", None, 256)


def test_parquet_is_surveyed(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray(np.full((50, 60, 3), 9 * number, np.uint8)) for number in range(12)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    table = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 6}, features=features)
    (tmp_path / "in").mkdir()
    table.to_parquet(tmp_path / "in" / "train-00000-of-00001.parquet")
    assert own(tmp_path / "in").experiment.data.size == 64


def test_counts_go_with_the_images_and_stay_within_the_budget(tmp_path: Path) -> None:
    few = own(write(tmp_path / "few", {"a": 12, "b": 12}, (16, 16))).experiment
    many = propose(DataConfig(source="svhn")).experiment
    large = own(write(tmp_path / "large", {"a": 90, "b": 90}, (128, 128))).experiment
    assert few.method.recipe.batch == 8
    assert few.distill.iterations < many.distill.iterations
    assert few.method.recipe.epochs > many.method.recipe.epochs
    for found, known in (
        (few, DatasetSize((3, 16, 16), 2, 19, 5)),
        (many, DatasetSize((3, 32, 32), 10, 73257, 26032)),
        (large, DatasetSize((3, 128, 128), 2, 144, 36)),
    ):
        assert (found.method.step.last_epoch or 0) <= found.method.recipe.epochs
        assert counted(found, known, Costs("cpu")).together.work <= BUDGET
    assert many.experts.count < few.experts.count


def test_the_same_pictures_give_the_same_settings_wherever_they_lie(tmp_path: Path) -> None:
    folder = write(tmp_path / "a" / "in", {"a": 30, "b": 30}, (40, 36), (60, 80))
    shutil.copytree(folder, tmp_path / "b" / "in")
    first, second = own(folder).experiment, own(tmp_path / "b" / "in").experiment
    assert first == second.replace(data=first.data)


def test_flags_take_other_values_and_each_choice_says_why(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "my photos", {"a": 30, "b": 30}, (40, 36)))
    request = parse("run", ["--data", folder])
    assert request.proposal is not None
    assert request.experiment == request.proposal.experiment
    assert request.out == Path("runs/my-photos")
    told = dict(request.proposal.chosen_flags(request.experiment))
    assert told["--data.size 32"] == "all images are 40×36"
    assert "--model convnet-d3-w32" in told
    other = parse("run", ["--data", folder, "--model", "convnet-d2-w8", "--ipc", "2", "--experts.count", "1"])
    assert other.proposal is not None
    assert (other.experiment.model, other.experiment.ipc, other.experiment.experts.count) == ("convnet-d2-w8", 2, 1)
    assert dict(other.proposal.chosen_flags(other.experiment))["--model convnet-d2-w8"] == "as given"
    dm = parse("run", ["--data", folder, "--method", "dm"])
    assert dm.proposal is not None
    assert dm.experiment.method.name == "dm"
    assert not any("expert" in flag for flag, _ in dm.proposal.chosen_flags(dm.experiment) if "count" not in flag)
    smaller = parse("distill", ["--data", folder, "--data.size", "16"])
    assert smaller.experiment.model == "convnet-d2-w32"


def test_more_images_per_class_than_there_are_is_a_sentence(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "in", {"a": 10, "b": 10}, (16, 16)))
    with pytest.raises(InputError, match="lower --ipc"):
        parse("run", ["--data", folder, "--ipc", "50"])
    with pytest.raises(InputError, match=r"Name a preset.*astdistill run --data FOLDER"):
        parse("run", [])
    with pytest.raises(InputError, match=r"There is no preset '.*', but .*astdistill run --data .*in"):
        parse("run", [folder])


@pytest.mark.parametrize("name", ["cifar100-ten-ipc10", "digits-ipc1", "imagenet-nette-ipc1-mtt"])
def test_a_preset_gives_its_numbers_to_other_data_but_not_its_classes(name: str, tmp_path: Path) -> None:
    folder = str(write(tmp_path / "in", {"a": 30, "b": 30}, (16, 16)))
    request, cell = parse("run", [name, "--data", folder]), preset(name)
    assert request.proposal is None
    assert request.experiment.data == DataConfig(source=folder, whiten=cell.data.whiten, resize=cell.data.resize)
    assert (request.experiment.method, request.experiment.model) == (cell.method, cell.model)
    # Typed, they are taken; and the preset's own data elsewhere are the preset's own data.
    assert parse("run", [name, "--data", folder, "--data.first-classes", "2"]).experiment.data.first_classes == 2
    elsewhere = parse("run", [name, "--data", str(tmp_path / cell.data.source)]).experiment.data
    assert elsewhere == cell.data.replace(source=str(tmp_path / cell.data.source))


def test_what_is_taken_from_a_preset_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    folder = str(write(tmp_path / "in", {"a": 30, "b": 30}, (16, 16)))
    words = ["cifar100-ten-ipc10", "--data", folder, "--ipc", "1", "--model", "convnet-d2-w4"]
    assert exit_code("run", *words, "--dry-run") == 0
    shown = " ".join(capsys.readouterr().out.partition("{")[0].split())
    assert "From the preset cifar100-ten-ipc10: method ast, network convnet-d2-w4, ipc 1" in shown
    assert "not its choice of 10 classes of cifar100" in shown
    assert "2, each with 24 training images" in shown


def test_dry_run_without_a_preset_shows_data_choices_and_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    folder = str(write(tmp_path / "in", {"a": 12, "b": 12}, (18, 20)))
    assert exit_code("run", "--data", folder, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert (
        shown.index("Data: ") < shown.index("Chosen for these data") < shown.index("What:") < shown.index("Together:")
    )
    assert "--data.size 16" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert exit_code("run", "--data", folder, "--dry-run", "--json") == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert Experiment.model_validate(settings) == parse("run", ["--data", folder]).experiment


def commands() -> list[str]:
    """The lines of the guide's first block of commands."""
    page = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
    block = re.search(r"^```sh\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert block is not None
    return block[1].strip().splitlines()


def test_the_guide_is_four_commands_that_every_shell_takes() -> None:
    lines = commands()
    assert len(lines) == 4
    for line in lines:
        # No variable, quote, continuation, redirection, glob or list of commands: those differ from shell to shell.
        assert re.fullmatch(r"astdistill(?: [A-Za-z0-9./-]+)+", line), line


SHORTER = f"""{forking.FORKED}
import sys
from astdistill.cli.main import main
from astdistill.experiment import proposal
whole = proposal.EvaluationSettings
proposal.EPOCHS, proposal.ITERATIONS = (5, 5), (5, 5)
proposal.EvaluationSettings = lambda recipe, networks: whole(recipe=recipe.replace(epochs=5), networks=networks)
sys.exit(main(sys.argv[1:]))
"""
"""The command, but that it chooses fewer epochs and iterations."""


def test_the_guide_runs_as_typed_in_processes_of_its_own(tmp_path: Path) -> None:
    installed = shutil.which("astdistill", path=str(Path(sys.executable).parent))
    assert installed is not None, "the package is not installed in this environment"
    draw = np.random.default_rng(0)
    for tint, name in enumerate(("cats", "dogs")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = (draw.integers(0, 128, (9, 8, 3)) + 90 * tint).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    there = os.environ | {"ASTDISTILL_CACHE": str(own_cache(tmp_path / "cache")), "PYTHONIOENCODING": "utf-8"}
    told = []
    for number, line in enumerate(commands()):
        begin = [sys.executable, "-c", SHORTER] if number else [installed]
        done = subprocess.run(
            [*begin, *line.split()[1:]], cwd=tmp_path, env=there, capture_output=True, encoding="utf-8", timeout=300
        )
        assert done.returncode == 0, (line, done.stderr)
        told.append((done.stdout, done.stderr))
    assert told[0][0].startswith("Data: photos\n")
    for output in (told[1][1], told[2][1]):
        assert "Data: photos\n" in output
        assert "Chosen for these data" in output
        assert "Estimated for this machine" in output
    run = tmp_path / "runs" / "photos"
    for name in ("synthetic.safetensors", "scores.json", "report.html"):
        assert (run / name).stat().st_size > 0
    assert list((run / "exports" / "png").rglob("*.png"))
    assert '<section id="data">' in (run / "report.html").read_text(encoding="utf-8")


def test_nested_lists_are_surveyed_as_they_are_read(tmp_path: Path) -> None:
    rows = [np.full((8, 8), 4 * row).tolist() for row in range(20)]
    pd.DataFrame({"image": rows, "label": [0, 1] * 10}).to_parquet(tmp_path / "train.parquet")
    seen = survey(DataConfig(source=str(tmp_path)))
    assert (seen.sizes[0], seen.alike, seen.channels) == (PictureSize(8, 8), True, 1)


def test_a_survey_turns_pictures_upright_and_opens_no_other_formats(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for row in range(3):
            picture, exif = Image.new("L", (24, 16)), Image.Exif()
            exif[0x0112] = 6
            picture.save(tmp_path / name / f"{row}.jpg", exif=exif)
    seen = survey(DataConfig(source=str(tmp_path)))
    assert set(seen.sizes) == {PictureSize(24, 16)}
    assert seen.channels == 1
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "EPS")
    with pytest.raises(OSError, match="cannot identify"):
        stored_shape(buffer.getvalue())
