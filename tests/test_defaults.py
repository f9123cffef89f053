"""Defaults: the device that auto stands for, one-line names of large things, and full data that is trained once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from problems import blobs, exit_code

from astdistill.data.loading import load_dataset
from astdistill.data.synthetic import SyntheticSet
from astdistill.evaluation.protocol import EvalRecipe
from astdistill.evaluation.rows import random_real
from astdistill.evaluation.runner import evaluate_all
from astdistill.experiment.config import evaluation_recipe
from astdistill.experiment.presets import preset
from astdistill.experts.training import train_experts
from astdistill.methods.trajectory_matching import MTT
from astdistill.runtime import devices
from astdistill.runtime.errors import InputError
from astdistill.runtime.progress import be_quiet


@pytest.mark.parametrize("usable", [True, False])
def test_auto_is_the_gpu_where_one_is_usable(usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "usable_cuda", lambda: usable)
    assert devices.settled_device("auto") == {True: "cuda", False: "cpu"}[usable]
    assert devices.settled_device("cpu") == "cpu"
    with pytest.raises(InputError, match="mps is not tested; choose --device auto, cpu or cuda"):
        devices.supported("mps")


def test_a_card_on_which_no_kernel_runs_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", no_kernel)
    devices.usable_cuda.cache_clear()
    assert not devices.usable_cuda()
    devices.usable_cuda.cache_clear()


COUNTS = (
    "--experts.count", "1", "--method.expert.epochs", "2", "--model", "convnet-d1-w4", "--distill.iterations", "1",
    "--method.step.max-start-epoch", "1", "--method.step.syn-steps", "1", "--method.step.expert-epochs", "1",
    "--evaluation.recipe.epochs", "1", "--evaluation.networks", "1", "--evaluation.baselines", "random",
)  # fmt: skip


def test_a_run_says_first_where_it_computes_and_notes_the_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "usable_cuda", lambda: False)
    be_quiet(False)
    assert exit_code("run", "digits-ipc1", *COUNTS, "--out", "out") == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("Device: cpu, engine: ")
    config = json.loads(Path("out/config.json").read_text())
    assert config["device"] == "cpu"  # as it was when cpu was the default: what tells runs apart has not changed
    assert exit_code("run", "digits-ipc1", *COUNTS, "--out", "out") == 0
    assert "out was finished before" in capsys.readouterr().err


def test_large_things_are_one_line(tmp_path: Path) -> None:
    dataset = load_dataset("digits", per_class=20)
    assert repr(dataset) == "Dataset(digits: 200 training, 360 test images of 1×8×8, 10 classes, whiten standard)"
    assert repr(dataset.train) == "Split(200 images of 1×8×8)"
    synthetic = random_real(dataset, 1, 0)
    assert repr(synthetic) == "SyntheticSet(10 images of 1×8×8, 10 classes, hard labels, random real images)"
    recipe = MTT.recipe.replace(epochs=1, augmentation="")
    experts = train_experts(dataset, model="convnet-d1-w4", recipe=recipe, count=2, store=tmp_path)
    assert repr(experts) == f"TrajectoryStore(2 experts, convnet-d1-w4, {experts.folder})"


def test_full_data_trains_as_long_as_the_experts_where_it_is_asked_for() -> None:
    cell = preset("cifar100-ipc1")
    assert evaluation_recipe(cell).full_epochs is None
    with_full = cell.replace(evaluation=cell.evaluation.replace(baselines=("full",)))
    assert evaluation_recipe(with_full).full_epochs == cell.method.recipe.epochs
    assert evaluation_recipe(preset("digits-ipc1")).full_epochs == 30


def test_networks_on_full_data_are_trained_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, recipe = blobs(), EvalRecipe(name="short", epochs=2)
    synthetic = random_real(data, 1, 0)

    def full(out: str, source: SyntheticSet, wanted: EvalRecipe = recipe) -> tuple[float, ...]:
        scores = evaluate_all(source, data, wanted, "convnet-d1-w4", 2, ("full",), tmp_path / out)
        return scores.baselines["full"].final

    first, trained = full("one", synthetic), []
    monkeypatch.setattr(
        "astdistill.evaluation.runner.train_network",
        lambda network, examples, *rest: (
            trained.append(examples.images_per_epoch) or _trained(network, examples, *rest)
        ),
    )
    assert full("two", random_real(data, 1, 1)) == first
    assert trained == [len(synthetic.images)] * 2  # the set's own networks alone
    full("three", synthetic, recipe.replace(full_epochs=3))
    assert trained.count(len(data.train)) == 2


def _trained(*words: object) -> object:
    from astdistill.evaluation.training import train_network

    return train_network(*words)  # type: ignore[arg-type]
