"""The README's code is run as it stands there, with smaller counts put in; its commands are the ones that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import forking
import pytest
import torch

import astdistill as ad
from astdistill.cli.main import VERBS
from astdistill.experiment.presets import PRESETS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)

SMALLER = {
    'load_dataset("digits")': 'load_dataset("digits", per_class=20)',
    "epochs=20": "epochs=4",
    "convnet-d2-w16": "convnet-d1-w4",
    "syn_steps=20, max_start_epoch=10": "syn_steps=3, max_start_epoch=2",
    "iterations=50": "iterations=2",
    "seeds=3": 'seeds=2, recipe=ad.PROTOCOLS["mtt"].replace(epochs=2)',
}


@pytest.mark.slow
def test_the_lines_that_distil_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    code = BLOCKS[0]
    for text, smaller in SMALLER.items():
        assert text in code
        code = code.replace(text, smaller)
    names: dict[str, object] = {}
    exec(code, names)
    synthetic, scores = names["synthetic"], names["scores"]
    assert isinstance(synthetic, ad.SyntheticSet)
    assert isinstance(scores, ad.Scores)
    assert synthetic.images.shape == (10, 1, 8, 8)
    assert torch.equal(ad.load("runs/first").images, synthetic.images)
    assert scores.architecture["convnet-d1-w4"].n == 2


STRANGER = f"""{forking.FORKED}
import warnings
warnings.simplefilter("error")
import torch
from sklearn.datasets import load_digits
torch.set_num_threads(1)
torch.manual_seed(0)
images, numbers = load_digits(return_X_y=True)
photos, labels = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(numbers)
my_network = torch.nn.Sequential(
    torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.GroupNorm(8, 32), torch.nn.ReLU(), torch.nn.AvgPool2d(2),
    torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.GroupNorm(8, 32), torch.nn.ReLU(), torch.nn.AvgPool2d(2),
    torch.nn.Flatten(), torch.nn.Linear(128, 10),
)
BLOCK
right = 100 * float((logits.argmax(dim=1) == labels).float().mean())
assert abs(right - synthetic.accuracy(network, photos, labels)) < 0.01
print("read", right)
"""
"""A project of somebody else's, who has the digits, a network without instance norm, and the file."""


@pytest.mark.slow
def test_the_lines_that_use_a_file_run_where_nothing_but_the_file_is(tmp_path: Path) -> None:
    """Ten distilled images teach a stranger's network most of the digits, of which a fifth had no part in the
    distillation."""
    (tmp_path / "runs/first").mkdir(parents=True)
    shutil.copy(
        Path(__file__).parent / "data/frozen/synthetic-format-1.safetensors",
        tmp_path / "runs/first/synthetic.safetensors",
    )
    # The reader's own network and photos, and fewer epochs than the protocol's.
    block, count = re.subn(r"^(my_network|photos) = .*\n", "", BLOCKS[1], flags=re.MULTILINE)
    code = STRANGER.replace("BLOCK", block.replace("train(my_network)", "train(my_network, epochs=100)"))
    assert (count, "epochs=100" in code) == (2, True)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("read")[-1]) > 60  # chance is 10
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["synthetic.safetensors"]


def test_every_command_in_the_readme_exists() -> None:
    verbs = re.findall(r"^ *astdistill ([\w-]+)", README, flags=re.MULTILINE)
    assert verbs
    assert set(verbs) <= set(VERBS)
    presets = re.findall(r"^ *astdistill run (\w[\w-]*)", README, flags=re.MULTILINE)
    assert presets
    assert set(presets) <= {*PRESETS, "ablation"}
    assert set(re.findall(r"--base ([\w-]+)", README)) <= set(PRESETS)


def test_every_picture_in_the_readme_is_there() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert (Path(__file__).parents[1] / picture).stat().st_size > 1000


def test_every_table_of_figures_is_made_from_the_files_of_results() -> None:
    script = Path(__file__).parents[1] / "benchmarks/tables.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "all tables are as measured\n"
    page = (script.parents[1] / "docs/results.md").read_text(encoding="utf-8")
    assert re.findall(r"<!-- table ([\w-]+): made", page) == [
        "cells",
        "held-out",
        "gpu",
        "digits",
        "ten-classes",
        "ablation",
        "families-hard",
        "families-slots",
        "families-soft",
        "families-rates",
        "families-own-cifar100-hard",
        "families-own-cifar10-hard",
        "families-own-cifar100-slots",
        "families-own-cifar10-slots",
        "families-own-cifar100-soft",
        "families-own-cifar10-soft",
        "architectures",
        "speed",
    ]
    assert "<!-- table" in README
    assert not re.search(r"made by benchmarks/tables.py -->\s*<!-- end", page + README)
