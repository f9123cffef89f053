"""DM: its gradient, its steps without experts, and a run of it from the command line to the report."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from killing import Killed
from problems import SmoothNet, blobs
from torch import Tensor

from astdistill.autodiff.dispatch import engine_name, using
from astdistill.cli.main import main
from astdistill.data.augmentation import apply, draw
from astdistill.data.dataset import Dataset
from astdistill.distillation.loop import distill
from astdistill.distillation.run import Distillation
from astdistill.distillation.settings import DistillSettings
from astdistill.distillation.state import DistillState
from astdistill.experts.store import TrajectoryStore
from astdistill.methods import class_matching
from astdistill.methods.distribution_matching import DM, DistributionMatching
from astdistill.methods.initialisation import RepresentativeInit
from astdistill.methods.outer_step import Setup
from astdistill.methods.trajectory_matching import AST, MTT
from astdistill.methods.unroll import MetaGradient, Variables
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import load_tensors, read_json, read_lines
from astdistill.runtime.seeds import rng, seeded

SHAPE = (2, 6, 6)
STEP = DistributionMatching(batch_real=5)


class Smooth(Setup):
    """A student whose every derivative exists, in float64."""

    def fresh(self, seed: int, iteration: int) -> Tensor:
        with seeded(seed, "smooth", iteration):
            return self.model.flatten(SmoothNet().double())


@pytest.fixture(params=["", "color", "crop", "cutout", "flip", "scale", "rotate"])
def setup(request: pytest.FixtureRequest) -> Setup:
    settings = DistillSettings(augmentation=request.param)
    dataset = blobs(shape=SHAPE, count=8)
    return Smooth(dataset, None, "smooth", FlatModel(SmoothNet().double()), DM, settings)


@pytest.fixture
def variables() -> Variables:
    images = torch.randn(6, *SHAPE, generator=rng(3, "images"), dtype=torch.float64)
    return Variables(
        images, torch.eye(3, dtype=torch.float64).repeat_interleave(2, 0), torch.tensor(0.01, dtype=torch.float64)
    )


def distance(setup: Setup, images: Tensor) -> Tensor:
    """The loss of `STEP` at iteration 4 of seed 7, class by class and image by image."""
    network = SmoothNet().double()
    setup.model.load(network, setup.fresh(7, 4))

    def features(image: Tensor) -> Tensor:
        hidden = torch.tanh(network.norm(network.convolution(image[None])))
        return torch.nn.functional.avg_pool2d(hidden, 2).flatten()

    total = torch.zeros((), dtype=torch.float64)
    for label in range(3):
        members = [row for row in range(len(setup.dataset.train)) if int(setup.dataset.train.labels[row]) == label]
        chosen = torch.randperm(len(members), generator=rng(7, "real", 4, label))[:5]
        numbers = draw(setup.settings.augmentation, 1, SHAPE, rng(7, "augmentation", 4, label))
        real = [setup.dataset.train.batch(torch.tensor([members[row]]))[0].double() for row in chosen.tolist()]
        means = []
        for group in (real, list(images[2 * label : 2 * label + 2])):
            seen = [features(apply(image[None], numbers)[0]) for image in group]
            means.append(torch.stack(seen).sum(dim=0) / len(seen))
        total = total + ((means[0] - means[1]) ** 2).sum()
    return total


def test_the_gradient_is_that_of_the_written_out_loss(setup: Setup, variables: Variables) -> None:
    found = STEP(setup, variables, 4, 7)
    images = variables.images.clone().requires_grad_()
    wanted = distance(setup, images)
    (slope,) = torch.autograd.grad(wanted, images)
    torch.testing.assert_close(found.loss, wanted.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.images, slope, rtol=1e-10, atol=1e-14)
    assert set(found) == {"images"}, "it depends on nothing else"


@pytest.mark.parametrize("pixel", [(0, 0, 2, 3), (3, 1, 3, 3), (5, 0, 1, 4)])
def test_the_gradient_is_a_finite_difference(variables: Variables, pixel: tuple[int, ...]) -> None:
    settings = DistillSettings(augmentation="scale")
    setup = Smooth(blobs(shape=SHAPE, count=8), None, "smooth", FlatModel(SmoothNet().double()), DM, settings)
    width, moved = 1e-5, []
    for sign in (1, -1):
        images = variables.images.clone()
        images[pixel] += sign * width
        moved.append(float(STEP(setup, Variables(images, variables.targets, variables.lr), 4, 7).loss))
    slope = float(STEP(setup, variables, 4, 7).images[pixel])
    assert slope == pytest.approx((moved[0] - moved[1]) / (2 * width), rel=1e-6)
    assert abs(slope) > 1e-6


def test_classes_taken_in_groups_give_the_same(
    setup: Setup, variables: Variables, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = STEP(setup, variables, 4, 7)
    monkeypatch.setattr(class_matching, "TOGETHER", 10)  # two classes of five real images, then one
    parts = STEP(setup, variables, 4, 7)
    torch.testing.assert_close(parts.images, whole.images, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(parts.loss, whole.loss, rtol=1e-12, atol=0)


def test_the_kernels_give_the_gradient_of_torch() -> None:
    dataset, name = blobs(shape=(3, 16, 16), count=8), "convnet-d2-w32"
    model = FlatModel(build_model(name, dataset.shape, 3))
    setup = Setup(dataset, None, name, model, DM, DistillSettings(augmentation="scale"))
    images = torch.randn(6, *dataset.shape, generator=rng(3, "images"))
    own = Variables(images, torch.eye(3).repeat_interleave(2, 0), torch.tensor(0.01))
    assert engine_name(model, setup.fresh(7, 4), images) == "native"
    found = STEP(setup, own, 4, 7)
    with using("eager"):
        wanted = STEP(setup, own, 4, 7)
    assert not torch.equal(found.images, wanted.images)
    assert float((found.images - wanted.images).norm() / wanted.images.norm()) < 1e-3
    assert float(found.loss) == pytest.approx(float(wanted.loss), rel=1e-4)


def test_every_step_has_a_network_and_images_of_its_own(setup: Setup, variables: Variables) -> None:
    losses = {float(STEP(setup, variables, iteration, seed).loss) for iteration in (0, 1) for seed in (0, 1)}
    assert len(losses) == 4
    assert float(STEP(setup, variables, 1, 1).loss) in losses


def test_fresh_networks_are_those_of_the_library(dataset: Dataset) -> None:
    module = build_model("convnet-d1-w4", dataset.shape, 3)
    setup = Setup(dataset, None, "convnet-d1-w4", FlatModel(module), DM, DistillSettings())
    before = torch.get_rng_state()
    first = setup.fresh(0, 0)
    assert torch.equal(torch.get_rng_state(), before), "the caller's own draws go on as they were"
    assert torch.equal(first, setup.fresh(0, 0))
    assert not torch.equal(first, setup.fresh(0, 1))
    assert first.shape == (setup.model.size,)


def test_experts_are_neither_asked_for_nor_taken(dataset: Dataset, experts: TrajectoryStore) -> None:
    with pytest.raises(
        InputError, match=r"Method 'dm' takes no experts; pass None in their place, and the network's name as model="
    ):
        distill(dataset, experts, method=DM)
    with pytest.raises(InputError, match=r"Method 'dm' has no experts that say what its network is; name one"):
        distill(dataset, method=DM)
    with pytest.raises(InputError, match=r"Method 'mtt' needs experts, and none were given"):
        distill(dataset, method=MTT)
    with pytest.raises(InputError, match=r"model='convnet-d3' was given, but the experts are networks"):
        distill(dataset, experts, method=MTT, model="convnet-d3")


def test_parts_that_read_experts_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"RepresentativeInit reads experts, but method 'dm' trains none; .*--init real"
    ):
        DM.replace(init=RepresentativeInit())
    with pytest.raises(ValueError, match=r"TrajectoryMatching reads experts, but method 'mtt' trains none"):
        MTT.replace(expert=None)
    assert AST.replace(step=DistributionMatching()).expert is not None, "its start still reads them"
    assert DM.without("clipping") == DM


def test_a_run_without_experts_belongs_to_its_data_and_network(dataset: Dataset, tmp_path: Path) -> None:
    model = FlatModel(build_model("convnet-d1-w4", dataset.shape, 3))
    run = Distillation(dataset, None, DM, 2, DistillSettings(iterations=1), tmp_path, 0, model, "convnet-d1-w4")
    other = Distillation(blobs(seed=1), None, DM, 2, DistillSettings(iterations=1), tmp_path, 0, model, "convnet-d1-w4")
    wider = Distillation(dataset, None, DM, 2, DistillSettings(iterations=1), tmp_path, 0, model, "convnet-d1-w8")
    assert len({run.key, other.key, wider.key}) == 3


def test_a_killed_run_goes_on_to_the_same_bits(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DistillSettings(iterations=6, checkpoint_seconds=0)
    whole = distill(dataset, method=DM, model="convnet-d1-w4", ipc=2, settings=settings, out=tmp_path / "whole")
    call = DistributionMatching.__call__

    def killing(
        self: DistributionMatching, setup: Setup, variables: Variables, iteration: int, seed: int
    ) -> MetaGradient:
        if iteration == 4:
            raise Killed
        return call(self, setup, variables, iteration, seed)

    monkeypatch.setattr(DistributionMatching, "__call__", killing)
    with pytest.raises(Killed):
        distill(dataset, method=DM, model="convnet-d1-w4", ipc=2, settings=settings, out=tmp_path / "killed")
    monkeypatch.setattr(DistributionMatching, "__call__", call)
    assert load_tensors(tmp_path / "killed/state.safetensors")[1]["counters"]["iteration"] == 3
    resumed = distill(dataset, method=DM, model="convnet-d1-w4", ipc=2, settings=settings, out=tmp_path / "killed")
    assert torch.equal(resumed.images, whole.images)
    assert read_lines(tmp_path / "killed/metrics.jsonl") == read_lines(tmp_path / "whole/metrics.jsonl")
    state = DistillState(whole.images, whole.targets, DM, settings)
    assert float(whole.lr) == float(state.lr) == pytest.approx(0.01)


WORDS = [
    *(
        "digits-ipc1",
        "--method",
        "dm",
        "--model",
        "convnet-d1-w4",
        "--data.per-class",
        "20",
        "--workers",
        "1",
        "--quiet",
    ),
    *(
        "--distill.iterations",
        "3",
        "--evaluation.networks",
        "1",
        "--evaluation.recipe.epochs",
        "2",
        "--evaluation.baselines",
        "random",
    ),
]


def shown(page: Path) -> str:
    """The text that a reader of the page sees, with the captions of its figures."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", text, flags=re.DOTALL)
    captions = re.findall(r'(?:aria-label|<!--)="?([^">]*)', text)
    return " ".join([re.sub(r"<[^>]*>", " ", text), *captions]).lower()


def test_a_run_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["astdistill"])  # the page shows the command, which is that of the tests
    assert main(["run", *WORDS, "--out", "run"]) == 0
    run = tmp_path / "run"
    assert {path.name for path in tmp_path.iterdir()} == {"run"}, "no store of experts is made"
    assert not (run / "experts.json").exists()
    config = read_json(run / "config.json")
    assert config["method"]["step"] == {"part": "DistributionMatching", "batch_real": 256}
    assert config["method"]["expert"] is None
    assert (config["distill"]["lr_img"], config["distill"]["iterations"]) == (1.0, 3)
    assert [line["stage"] for line in read_lines(run / "clock.jsonl") if "stage" in line] == [
        "distillation",
        "evaluation",
    ]
    text = shown(run / "report.html")
    assert "distribution distance" in text
    assert "random parameters" in text
    for word in ("expert", "trajector", "matching loss", "η"):
        assert word not in text, word
    assert main(["run", *WORDS, "--out", "run"]) == 0
    assert main(["watch", "run", "--once"]) == 0
    assert "expert" not in capsys.readouterr().out


def test_commands_about_experts_say_that_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["experts", *WORDS]) == 2
    assert "Method 'dm' trains no experts; distil with: astdistill run digits-ipc1 --method dm" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main(["run", *WORDS, "--init", "representative"]) == 2
    assert "RepresentativeInit reads experts, but method 'dm' trains none" in " ".join(capsys.readouterr().err.split())
    assert main(["run", *WORDS, "--dry-run"]) == 0
    table = capsys.readouterr().out.partition("What:")[2]
    assert "3 outer steps" in table
    assert not list(tmp_path.iterdir())


def test_a_preset_takes_the_rates_of_the_family(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from astdistill.experiment.presets import preset, with_method

    found = with_method(preset("cifar100-ipc50"), "dm").distill
    assert (found.iterations, found.lr_img, found.outer_momentum, found.lr_init) == (20_000, 1.0, 0.5, 0.01)
    assert DM.step.usual_settings(100)["lr_img"] == 10.0
    assert with_method(preset("cifar100-ipc50"), "mtt").distill == preset("cifar100-ipc50").distill


def test_features_are_what_the_last_linear_layer_is_given(dataset: Dataset) -> None:
    module = build_model("convnet-d1-w4", dataset.shape, 3)
    model, images = FlatModel(module), dataset.train.batch(torch.arange(5))
    theta = model.flatten()
    features = model.features(theta, images)
    last = module.get_submodule("classifier")
    assert isinstance(last, torch.nn.Linear)
    torch.testing.assert_close(features @ last.weight.T + last.bias, model(theta, images))
    with pytest.raises(InputError, match="Conv2d has no linear layer before which features could be read"):
        FlatModel(torch.nn.Conv2d(1, 3, 8)).features(torch.zeros(195), images)
