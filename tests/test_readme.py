"""The README's code is run as it stands there, with smaller counts put in; its commands are the ones that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import astdistill as ad
from astdistill.cli import VERBS
from astdistill.presets import PRESETS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)

SMALLER = {
    'whiten="zca"': 'whiten="zca", per_class=4, first_classes=6, size=16',
    'model="convnet-d3"': 'model="convnet-d1-w4"',
    "recipe=ad.methods.AST.expert": "recipe=ad.methods.AST.expert.replace(epochs=4)",
    "count=100": "count=2",
    "ipc=1,": "ipc=1, settings=ad.DistillSettings(iterations=2, inner_steps=3, max_start_epoch=2),",
    "seeds=5": 'seeds=2, recipe=ad.PROTOCOLS["mtt"].replace(epochs=2)',
}


@pytest.mark.slow
def test_the_five_lines_run(cifar_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTDISTILL_DATA", str(cifar_folder))
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
    assert synthetic.images.shape == (6, 3, 16, 16)
    assert torch.equal(ad.load("runs/c100-ipc1").images, synthetic.images)
    assert scores.architecture["convnet-d1-w4"].n == 2


@pytest.mark.slow
def test_the_three_lines_that_use_a_file_run(cifar_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = ad.load_dataset("digits", per_class=5)
    recipe = ad.methods.MTT.expert.replace(epochs=3)
    store = ad.train_experts(dataset, model="convnet-d1-w4", recipe=recipe, count=1, store=tmp_path / "experts")
    settings = ad.DistillSettings(iterations=1, inner_steps=2, max_start_epoch=1)
    ad.distill(dataset, store, settings=settings, out=tmp_path / "runs/demo")
    names: dict[str, object] = {}
    exec(BLOCKS[1], names)
    assert isinstance(names["pixels"], torch.Tensor)
    assert names["pixels"].shape == (10, 1, 8, 8)


def test_every_command_in_the_readme_exists() -> None:
    verbs = re.findall(r"^ *astdistill (\w+)", README, flags=re.MULTILINE)
    assert verbs
    assert set(verbs) <= set(VERBS)
    presets = re.findall(r"^ *astdistill run ([\w-]+)", README, flags=re.MULTILINE)
    assert presets
    assert set(presets) <= set(PRESETS)


def test_every_picture_in_the_readme_is_there() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert (Path(__file__).parents[1] / picture).stat().st_size > 1000
