"""The estimate before a run: its work against written-out references, memory and disk against what is taken, time by a
clock of the test's own."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from short_methods import with_numbers
from torch.utils.flop_counter import FlopCounterMode
from weighing import most_allocated, saved_bytes

from astdistill.autodiff.dispatch import engine_of, held_bytes, using
from astdistill.autodiff.engine import EagerEngine
from astdistill.data import loading
from astdistill.data.loading import load_dataset
from astdistill.evaluation import PROTOCOLS
from astdistill.experiment import cost as estimate
from astdistill.experiment.config import EvaluationSettings, Experiment, expert_epochs
from astdistill.experiment.cost import NAMED, DatasetSize, Estimate, Stage, counted, dataset_size, operations, shortage
from astdistill.experiment.pipeline import obtain_experts
from astdistill.experiment.presets import PRESETS, with_method
from astdistill.experiment.work import (
    BACKWARD,
    FORWARD,
    GRADIENT_GRAPH,
    GRAPH,
    PENALISED,
    SECOND_GRAPH,
    TRAIN,
    WALK,
    WALK_FIRST_ORDER,
    Cost,
    Costs,
    Network,
    Passes,
    Speed,
    counted_operations,
    fair_share,
    training_passes,
    unroll_passes,
)
from astdistill.experts.recipe import ExpertRecipe
from astdistill.methods.estimators import Backprop, FirstOrder, Recompute, Truncated
from astdistill.methods.low_rank import LowRank
from astdistill.methods.outer_step import StepWork
from astdistill.methods.trajectory_matching import AST, AST_AS_RELEASED, FTD, MTT
from astdistill.models.flat import FlatModel
from astdistill.models.registry import FAMILIES, build_model
from astdistill.runtime.devices import settled_device
from astdistill.runtime.machine import Room, Started
from astdistill.runtime.parallel import START_S, WorkerPlan
from astdistill.runtime.seeds import rng
from astdistill.runtime.status import duration, size


def small(tmp_path: Path, dtype: str = "float32") -> Experiment:
    preset = PRESETS["digits-ipc1"].replace(model="convnet-d2-w32")
    experts = preset.experts.replace(count=2, store=tmp_path / "experts", dtype=dtype)
    return preset.replace(experts=experts, method=preset.method.replace(expert=preset.method.recipe.replace(epochs=3)))


def unmeasured(experiment: Experiment) -> Estimate:
    return counted(experiment, dataset_size(experiment), Costs("cpu"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_disk_of_experts_is_what_they_take(dtype: str, tmp_path: Path) -> None:
    experiment = small(tmp_path, dtype)
    told = unmeasured(experiment).stages[0].disk
    store = obtain_experts(experiment, load_dataset("digits"))
    taken = sum(store.path(expert).stat().st_size for expert in store.experts())
    assert told == pytest.approx(taken, rel=0.05)


def test_named_sets_are_known_as_they_are() -> None:
    dataset = load_dataset("digits")
    assert NAMED["digits"] == DatasetSize(dataset.shape, len(dataset.classes), len(dataset.train), len(dataset.test))


def test_subsets_are_counted() -> None:
    cell = PRESETS["cifar100-ten-ipc10"]
    assert dataset_size(cell) == DatasetSize((3, 32, 32), 10, 5000, 1000)
    held_out = dataset_size(cell.replace(data=cell.data.replace(per_class=100, validation=0.1)))
    assert (held_out.train, held_out.validation) == (900, 100)


def test_no_images_of_a_named_set_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "described_by_headers", None)
    assert unmeasured(PRESETS["cifar100-ipc1"]).together.work > 1e15


SHAPE = (3, 16, 16)


def convnet_multiply_adds(width: int, depth: int) -> tuple[int, int]:
    """A ConvNet's forward pass on one 16×16 image with 10 classes, written out: the first convolution, and the rest."""
    first = 16 * 16 * 9 * 3 * width
    rest = sum((16 >> block) ** 2 * 9 * width * width for block in range(1, depth))
    return first, rest + width * (16 >> depth) ** 2 * 10


@pytest.mark.parametrize(("width", "depth"), [(8, 2), (16, 3)])
def test_a_convnet_is_counted_as_written_out(width: int, depth: int) -> None:
    first, inner, values = Network(f"convnet-d{depth}-w{width}", SHAPE, 10).counts
    assert (first, inner) == convnet_multiply_adds(width, depth)
    # Convolution, norm and ReLU of each block, its pooling, and the logits.
    assert values == sum(width * (16 >> block) ** 2 * (3 + 1 / 4) for block in range(depth)) + 10


def hooked(model: str) -> int:
    """Multiply-adds of convolutions and linear layers for one image, by a hook on each."""
    network, found = build_model(model, SHAPE, 10).eval(), []

    def count(part: torch.nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(part, torch.nn.Conv2d | torch.nn.Linear)
        each = part.in_features if isinstance(part, torch.nn.Linear) else part.weight.numel() // part.out_channels
        found.append(output.numel() * each)

    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            part.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, *SHAPE))
    return sum(found)


@pytest.mark.parametrize("model", ["mlp", "lenet", "vgg11-batchnorm", "resnet18", "convnet-d2-w8-nopool"])
def test_other_networks_are_counted_as_hooks_count_them(model: str) -> None:
    assert Network(model, SHAPE, 10).multiply_adds(FORWARD) == hooked(model)


class Unusual(torch.nn.Module):
    """Operators that no network of ours has: attention, a recurrence, products without a module."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(3, 1, batch_first=True)
        self.recurrence = torch.nn.GRU(3, 4, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.flatten(2).transpose(1, 2)
        seen = torch.nn.functional.scaled_dot_product_attention(rows[:, None], rows[:, None], rows[:, None])
        square = torch.einsum("bnc,bnd->bcd", rows, rows)
        return self.attention(rows, rows, rows)[0].sum() + self.recurrence(rows)[0].sum() + seen.sum() + square.sum()


class Branched(torch.nn.Module):
    """One of two layers, by the values of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = torch.nn.Linear(16, 8), torch.nn.Linear(16, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cond(images.sum() > 0, self.one, self.other, (images,))


@pytest.mark.parametrize("model", [*FAMILIES, "unusual", "branched"])
def test_operations_are_those_that_torch_counts(model: str) -> None:
    own: dict[str, Callable[[], torch.nn.Module]] = {"unusual": Unusual, "branched": Branched}
    network = own.get(model, lambda: build_model(model, (3, 16, 16), 10))().eval()
    images = torch.zeros(1, 3, 16, 16)
    found = counted_operations(network, images)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    assert found == counter.get_total_flops() > 0


def test_counting_imports_no_compiler() -> None:
    """torch._dynamo takes longer than all the rest of `astdistill presets`."""
    code = (
        "import sys; from astdistill.experiment.work import Network; assert Network('vit', (3, 16, 16), 10).counts[1]; "
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class NoModules:
    """In the place of what follows modules, which stops inner derivatives by torch.autograd.grad."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def passed(model: FlatModel, what: Callable[[EagerEngine, torch.Tensor, torch.Tensor, torch.Tensor], object]) -> int:
    """Multiply-adds that torch counts in a step on one image."""
    images, targets = torch.randn(1, *SHAPE), torch.eye(10)[:1]
    counter = FlopCounterMode(display=False)
    vars(counter)["mod_tracker"] = NoModules()
    with counter:
        what(EagerEngine(model), model.flatten(), images, targets)
    return counter.get_total_flops() // 2


def test_passes_are_what_torch_computes() -> None:
    """Of a gradient and of derivatives with respect to the images; second derivatives by torch take about what our
    own do, which are counted, or more."""
    network = Network("convnet-d3-w8", SHAPE, 10)
    model = FlatModel(network.module)
    gradient = passed(model, lambda engine, theta, images, targets: engine.gradient(theta, images, targets))
    assert gradient == network.multiply_adds(TRAIN)

    def to_images(_: EagerEngine, theta: torch.Tensor, images: torch.Tensor, targets: torch.Tensor) -> None:
        (model(theta, images.requires_grad_()) * targets).sum().backward()

    assert passed(model, to_images) == network.multiply_adds(BACKWARD)
    penalised = passed(model, lambda engine, theta, images, targets: engine.penalised(theta, images, targets, 1.0))
    assert 0.99 * network.multiply_adds(PENALISED) <= penalised < 1.4 * network.multiply_adds(PENALISED)
    walk = passed(model, lambda engine, theta, images, targets: engine.directional(theta, theta, images, targets))
    assert 0.99 * network.multiply_adds(WALK) <= walk < 1.4 * network.multiply_adds(WALK)


def test_steps_are_made_of_their_passes() -> None:
    assert training_passes(MTT.recipe) == TRAIN
    assert training_passes(FTD.recipe) == TRAIN.times(2)
    assert training_passes(AST.recipe) == PENALISED
    assert training_passes(AST_AS_RELEASED.recipe) == TRAIN.plus(PENALISED)
    assert unroll_passes(Recompute(), 20) == Passes(20 * (TRAIN.first + WALK.first), 20 * (TRAIN.inner + WALK.inner))
    assert unroll_passes(FirstOrder(), 20) == TRAIN.plus(WALK_FIRST_ORDER).times(20)
    assert unroll_passes(Truncated(k=3), 20) == TRAIN.times(20).plus(WALK.times(3))
    assert unroll_passes(Truncated(k=30), 20) == unroll_passes(Recompute(), 20)
    assert unroll_passes(Backprop(), 20) == GRAPH.times(20)


def test_the_work_of_every_stage_is_written_out() -> None:
    cell = PRESETS["cifar100-ten-ipc10"]
    network = Network(cell.model, (3, 32, 32), 10)
    experts, distillation, evaluation = unmeasured(cell).stages
    forward, train = network.multiply_adds(FORWARD), network.multiply_adds(TRAIN)
    assert experts.work == 5 * 15 * (5000 * network.multiply_adds(PENALISED) + 1000 * forward)
    assert distillation.work == 400 * 10 * 100 * network.multiply_adds(TRAIN.plus(WALK))
    # The set, random and K-means images; E epochs are E + 1 passes.
    assert evaluation.work == 5 * (3 * 301 * 100 * train + 3 * 1000 * forward)
    # All images by name, for as long as the experts train; E epochs are E + 1 passes.
    full = unmeasured(cell.replace(evaluation=cell.evaluation.replace(baselines=("full",)))).stages[-1]
    assert full.work == 5 * (301 * 100 * train + 16 * 5000 * train + 2 * 1000 * forward)
    assert [name for name, _ in full.parts] == ["synthetic", "full"]


def test_the_work_of_matching_distributions_is_what_its_step_computes() -> None:
    cell = with_method(PRESETS["cifar100-ten-ipc10"], "dm")
    distillation = unmeasured(cell).stages[0]
    network = Network(cell.model, (3, 32, 32), 10)
    real, own = 10 * 256 * network.multiply_adds(FORWARD), 100 * network.multiply_adds(BACKWARD)
    assert distillation.work == 20_000 * (real + own)


def test_validation_is_a_part_of_the_distillation() -> None:
    cell = PRESETS["digits-ipc1"]
    often = cell.replace(
        data=cell.data.replace(validation=0.1), distill=cell.distill.replace(validate_every=10, validate_networks=2)
    )
    network = Network(cell.model, (1, 8, 8), 10)
    each = 300 * 10 * network.multiply_adds(TRAIN) + dataset_size(often).validation * network.multiply_adds(FORWARD)
    extra = unmeasured(often).stages[1].work - unmeasured(cell).stages[1].work
    assert extra == cell.distill.iterations // 10 * 2 * each


def test_each_network_of_the_evaluation_costs_its_own() -> None:
    cell = PRESETS["digits-ipc1"]
    wider = cell.replace(evaluation=cell.evaluation.replace(architectures=("convnet-d2-w64", "mlp"), baselines=()))
    steps = 5 * 301 * 10
    trained = sum(Network(name, (1, 8, 8), 10).multiply_adds(TRAIN) for name in ("convnet-d2-w64", "mlp"))
    tested = sum(Network(name, (1, 8, 8), 10).multiply_adds(FORWARD) for name in ("convnet-d2-w64", "mlp"))
    assert unmeasured(wider).stages[2].work == steps * trained + 5 * 360 * tested


def test_a_teacher_that_labels_every_batch_is_counted() -> None:
    cell = PRESETS["digits-ipc1"].replace(
        evaluation=EvaluationSettings(recipe=PROTOCOLS["rded"], baselines=("random",))
    )
    plain = cell.replace(evaluation=cell.evaluation.replace(recipe=PROTOCOLS["rded"].replace(temperature=0.0)))
    forward = Network(cell.model, (1, 8, 8), 10).multiply_adds(FORWARD)
    extra = unmeasured(cell).stages[-1].work - unmeasured(plain).stages[-1].work
    assert extra == 5 * 2 * 300 * 10 * forward  # five networks of two rows; in 300 epochs each sees ten images


def test_a_teacher_that_no_expert_is_is_trained_in_the_evaluation() -> None:
    cell = with_method(PRESETS["digits-ipc1"], "dm")
    taught = cell.replace(evaluation=cell.evaluation.replace(baselines=("random", "teacher")))
    again = cell.replace(evaluation=cell.evaluation.replace(baselines=("random", "kmeans")))
    network, recipe = Network(cell.model, (1, 8, 8), 10), MTT.recipe
    known = dataset_size(cell)
    each = known.train * network.multiply_adds(TRAIN) + known.test * network.multiply_adds(FORWARD)
    told = unmeasured(taught).stages[-1]
    assert told.work - unmeasured(again).stages[-1].work == recipe.epochs * each
    assert [name for name, _ in told.parts] == ["synthetic", "random", "teacher", "training of the teacher"]
    rded = with_method(PRESETS["digits-ipc1"], "rded")
    with_teacher = rded.replace(evaluation=rded.evaluation.replace(baselines=("random", "teacher")))
    with_kmeans = rded.replace(evaluation=rded.evaluation.replace(baselines=("random", "kmeans")))
    assert unmeasured(with_teacher).stages[-1].work == unmeasured(with_kmeans).stages[-1].work  # an expert is there


def test_an_expert_that_stops_early_goes_on_to_be_a_teacher() -> None:
    cell = with_method(PRESETS["cifar10-ipc1"], "mtt")
    taught = cell.replace(evaluation=cell.evaluation.replace(baselines=("random", "teacher")))
    again = cell.replace(evaluation=cell.evaluation.replace(baselines=("random", "kmeans")))
    network, known = Network(cell.model, (3, 32, 32), 10), dataset_size(cell)
    recipe, trained = cell.method.recipe, expert_epochs(cell)
    assert trained < recipe.epochs
    each = known.train * network.multiply_adds(TRAIN) + known.test * network.multiply_adds(FORWARD)
    extra = unmeasured(taught).stages[-1].work - unmeasured(again).stages[-1].work
    assert extra == pytest.approx((recipe.epochs - trained) * each, rel=1e-12)


def test_memory_grows_by_the_students_that_are_kept() -> None:
    cell = PRESETS["cifar100-ten-ipc10"].replace(model="convnet-d3-w8")
    few, many = (
        unmeasured(cell.replace(method=with_numbers(cell.method, syn_steps=steps))).stages[1].memory
        for steps in (10, 40)
    )
    assert many - few == 30 * 4 * Network(cell.model, (3, 32, 32), 10).parameters


def test_memory_and_disk_grow_by_an_approximation_of_the_curvature() -> None:
    """By its own two factors on disk, and in memory by those of the last one and of the new one; with a short window
    what is there while it is fitted is more."""
    cell = with_method(PRESETS["cifar100-ten-ipc10"], "at-bptt").replace(model="convnet-d3-w8")
    vector = 4 * Network(cell.model, (3, 32, 32), 10).parameters

    def grown(rank: int, window: int) -> tuple[float, float]:
        without, with_rank = (
            unmeasured(
                cell.replace(method=with_numbers(cell.method, curvature_rank=number, window=window, window_range=0))
            ).stages[-2]
            for number in (0, rank)
        )
        return (with_rank.memory - without.memory) / vector, (with_rank.disk - without.disk) / vector

    assert grown(rank=8, window=16) == (4 * 8, 2 * 8)
    assert grown(rank=8, window=2) == (2 * 8 + LowRank.peak_vectors(8) - 4 * 2, 2 * 8)


@pytest.mark.parametrize("rank", [8, 24])
def test_what_is_there_while_the_curvature_is_fitted(rank: int) -> None:
    """All that torch allocates for the fit, of a vector so long that nothing else counts."""
    like = torch.zeros(40_000)
    most = most_allocated(lambda: LowRank.fitted(lambda vector: 2 * vector, rank, like, rng(0, "curvature")))
    assert most / (4 * len(like)) == pytest.approx(LowRank.peak_vectors(rank), rel=0.1)


def test_memory_of_a_graph_is_what_torch_saves() -> None:
    """In the ConvNets of the presets, to a quarter."""
    network, images = Network("convnet-d3-w32", (3, 32, 32), 10), torch.randn(20, 3, 32, 32)
    model, targets = FlatModel(network.module), torch.eye(10).repeat(2, 1)
    engine, theta = EagerEngine(model), model.flatten()
    gradient = saved_bytes(lambda: engine.gradient(theta, images, targets))
    second = saved_bytes(lambda: engine.directional(theta, theta, images, targets))
    assert network.graph(20, GRADIENT_GRAPH) == pytest.approx(gradient, rel=0.25)
    assert network.graph(20, SECOND_GRAPH) == pytest.approx(second, rel=0.25)


def test_memory_of_the_native_engine_is_what_its_buffers_take() -> None:
    network = Network("convnet-d3-w32", (3, 32, 32), 10)
    if network.engine != "native":
        pytest.skip("no native engine here")
    model, images = FlatModel(network.module), torch.randn(20, 3, 32, 32)
    engine_of(model).directional(model.flatten(), model.flatten(), images, torch.eye(10).repeat(2, 1))
    assert 0.6 * network.pass_bytes(20, SECOND_GRAPH) < held_bytes(model) <= network.pass_bytes(20, SECOND_GRAPH)
    assert network.pass_bytes(10**6, SECOND_GRAPH) == network.pass_bytes(10**5, SECOND_GRAPH)


def test_the_engine_decides_what_is_held() -> None:
    with using("eager"):
        network = Network("convnet-d3-w8", (3, 32, 32), 10)
        assert network.engine == "eager"
        assert network.pass_bytes(200, 1.0) == 4 * 200 * network.counts[2] + 8 * network.parameters
    assert Network("convnet-d3-w8", (3, 32, 32), 10, "cuda").engine == "compiled"
    assert Network("resnet18", (3, 32, 32), 10).engine == "eager"


def test_without_a_speed_there_is_no_time() -> None:
    found = unmeasured(PRESETS["cifar100-ipc1"])
    assert all(math.isnan(stage.seconds) for stage in found.stages)
    assert found.together.memory > 60000 * 3072 * 4


def test_every_preset_is_counted() -> None:
    costs = Costs("cpu")
    for preset in PRESETS.values():
        assert counted(preset, dataset_size(preset), costs).together.work > 1e10


class FixedSpeed(Speed):
    """A machine on which every part takes a second."""

    def _measured(self, step: Callable[[], None]) -> float:
        step()
        return 1.0


def test_time_is_work_over_the_measured_speed_and_each_kind_is_measured_once() -> None:
    cell = PRESETS["digits-ipc1"]
    speed = FixedSpeed("cpu")
    costs = Costs("cpu", speed)
    network = costs.network(cell.model, (1, 8, 8), 10)
    train = network.multiply_adds(TRAIN)
    assert costs.training(network, MTT.recipe, 1000, 10) == Cost(1000 * train, 100.0)
    assert costs.training(network, FTD.recipe, 1000, 10).seconds == 200.0  # twice the work at the same speed
    assert len(speed.rates) == 1
    assert costs.unroll(network, MTT, "", StepWork(training_steps=5, batch=10)).seconds == 1.0
    assert costs.features(network, 50, StepWork(), derivative=True).seconds == 1.0
    assert costs.features(network, 50, StepWork(groups=5), derivative=True).seconds == 5.0, "five passes of ten images"
    assert costs.augmentation(network, "crop", 512) == Cost(0.0, 2.0)
    assert costs.augmentation(network, "", 512) == Cost()


@pytest.mark.parametrize(
    "method",
    [
        "ast", "mtt", "ftd", "tesla", "datm", "att", "dm", "ast-as-released", "tgdd", "ncfm", "rat-bptt", "at-bptt",
        "dc", "dsa", "idc",
    ],
)  # fmt: skip
def test_each_method_is_measured(method: str) -> None:
    cell = with_method(PRESETS["digits-ipc1"], method).replace(model="convnet-d2-w8")
    found = counted(cell, dataset_size(cell), Costs("cpu", FixedSpeed("cpu")))
    assert all(stage.seconds > 0 for stage in found.stages)


@pytest.mark.parametrize(
    ("method", "images", "counted_as"),
    [("dm", 1437, 143), ("tgdd", 50, 5), ("ncfm", 1437, 143), ("dsa", 1437, 143), ("idc", 100, 10), ("dc", 5, 1),
     ("rat-bptt", 1437, 1437), ("at-bptt", 100, 100)],
)  # fmt: skip
def test_no_more_real_images_are_counted_than_there_are(method: str, images: int, counted_as: int) -> None:
    """Of each of ten classes, or of all together where a step draws from all."""
    step = with_method(PRESETS["digits-ipc1"], method).method.step
    assert vars(step.within(images, 10))["batch_real"] == min(vars(step)["batch_real"], counted_as)
    assert step.within(10**9, 10) == step


def test_steps_before_a_window_are_counted_at_their_own_batch() -> None:
    """RaT-BPTT trains on the set for a while, and differentiates through the last steps."""
    cell = with_method(PRESETS["digits-ipc1"], "rat-bptt")
    step = cell.method.step.within(dataset_size(cell).train, 10)
    work = step.work(cell.distill, 10, 10)
    assert (work.batch, work.trained) == (10, vars(step)["batch_real"])
    costs = Costs("cpu", FixedSpeed("cpu"))
    found = counted(cell, dataset_size(cell), costs).stages[0].work / cell.distill.iterations
    network = Network(cell.model, (1, 8, 8), 10)
    train, walk = network.multiply_adds(TRAIN), network.multiply_adds(TRAIN.plus(WALK))
    assert found == pytest.approx(10 * (work.before * train + work.training_steps * walk) + work.trained * train)


def test_the_loss_of_each_class_is_timed_where_it_takes_longer_than_the_network() -> None:
    """NCFM's, with its derivative: here a second for 128 real images and one synthetic of a class."""
    cell = with_method(PRESETS["digits-ipc1"], "ncfm")
    work = cell.method.step.within(1430, 10).work(cell.distill, 10, 10)
    costs = Costs("cpu", FixedSpeed("cpu"))
    network = costs.network(cell.model, (1, 8, 8), 10)
    assert costs.class_losses(network, work, 10).seconds == pytest.approx(10 * (143 + 1) / (128 + 1))
    assert costs.class_losses(network, StepWork(forward=1430), 10) == Cost()


@pytest.mark.parametrize(
    ("threads", "others", "cores", "share"),
    [(2, 0, 2, 2), (2, 1, 2, 4 / 3), (2, 4, 2, 2 / 3), (1, 1, 2, 1), (4, 0, 2, 2)],
)
def test_the_fair_share_of_the_cores(threads: int, others: float, cores: int, share: float) -> None:
    assert fair_share(threads, others, cores) == pytest.approx(share)


@pytest.mark.parametrize(
    ("busy", "own", "workers", "longer"),
    [
        (0.0, 1.0, 2, 1.0),
        (1.0, 1.0, 2, 1.5),  # alone a core of its own, side by side two thirds of two
        (1.3, 2 / 3, 2, 4 / 3),  # two others: two thirds of a core alone, half of one side by side
        (1.6, 2 / 5, 2, 6 / 5),
        (1.0, 1.0, 1, 1.0),
    ],
)
def test_workers_share_the_cores_with_each_other_and_with_others(
    busy: float, own: float, workers: int, longer: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("astdistill.experiment.work.cores", lambda: 2)
    monkeypatch.setattr(Started, "neighbours", SimpleNamespace(room=Room(2, busy)))
    assert Speed("cpu", wall_s=1.0, cpu_s=own).crowding(workers, 1) == pytest.approx(longer)


def test_jobs_end_in_rounds_of_workers_or_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astdistill.experiment.work.cores", lambda: 2)
    monkeypatch.setattr(Started, "neighbours", None)
    jobs = estimate._Jobs(5, WorkerPlan(2, 1))
    assert jobs.together(Cost(1.0, 100.0), 100.0, Speed("cpu")).seconds == pytest.approx(3 * 20 + START_S)
    assert jobs.together(Cost(1.0, 100.0), 1.0, Speed("cpu")) == Cost(1.0, 100.0), "so few that none are started"
    assert estimate._Jobs(5, WorkerPlan(1, 2)).together(Cost(1.0, 9.0), 100.0, Speed("cpu")) == Cost(1.0, 9.0)


def test_workers_that_share_a_step_take_a_part_of_its_time_and_memory_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("astdistill.experiment.work.cores", lambda: 4)
    monkeypatch.setattr(Started, "neighbours", None)
    cell = PRESETS["digits-ipc1"].replace(model="convnet-d2-w8")
    cell = cell.replace(method=cell.method.replace(step=cell.method.step.replace(trajectories=4)))
    stages, known = {}, dataset_size(cell)
    for workers in (1, 2, 3, 4):
        found = counted(cell.replace(workers=workers), known, Costs("cpu", FixedSpeed("cpu")))
        stages[workers] = found.stages[-2]
    saved = {workers: stages[1].seconds - stage.seconds + START_S for workers, stage in stages.items()}
    assert saved[3] == pytest.approx(saved[2]), "four trajectories are two rounds of three workers, as of two"
    assert saved[4] == pytest.approx(1.5 * saved[2]), "three quarters, and a half"
    assert len({stage.work for stage in stages.values()}) == 1
    each = stages[4].memory - stages[3].memory
    data = known.memory_bytes(cell.data, "cpu")
    assert stages[2].memory - stages[1].memory == each + data + estimate.IDLE_WORKER


def test_a_part_of_a_large_step_is_measured() -> None:
    costs = Costs("cpu", FixedSpeed("cpu"))
    network = costs.network("convnet-d3-w32", (3, 32, 32), 10)
    parts = costs._sample(network, 10**6)
    assert costs.training(network, MTT.recipe, 10 * parts, 10**6).seconds == pytest.approx(10.0)


def measured(monkeypatch: pytest.MonkeyPatch, share: float) -> tuple[float, Speed]:
    """Seconds of a step of 0.2 s, of which this thread computes for a share, and the speed that says so."""
    clock = {"now": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(time, "thread_time", lambda: share * clock["now"])
    speed = Speed("cpu", load=0.3)
    return speed._measured(lambda: clock.update(now=clock["now"] + 0.2)), speed


def test_what_is_measured_on_a_quiet_machine_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, speed = measured(monkeypatch, 0.95)
    assert (seconds, speed.disturbed()) == (pytest.approx(0.2), "")


def test_what_is_measured_beside_other_work_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, speed = measured(monkeypatch, 0.25)
    assert seconds == pytest.approx(0.2), "what a run takes beside it, too"
    assert "load average 0.3" in speed.disturbed()
    assert "this process got 25% of its time" in speed.disturbed()
    assert "Other programs are running" in Speed("cpu", load=1000.0).disturbed()


def test_what_does_not_fit_into_memory_is_named_with_what_to_do() -> None:
    stages = (Stage("2 experts", 1.0, 1.0, 3 * 10**9, 0), Stage("10 outer steps", 1.0, 1.0, 5 * 10**9, 0))
    found = Estimate(stages)
    assert shortage(found, 6 * 10**9) == shortage(found, None) == ""
    said = shortage(found, 4 * 10**9)
    assert said.startswith("The stage '10 outer steps' will need about 5.0 GB of memory, and 4.0 GB are free: ")
    assert "--workers" in said
    assert shortage(found, 4 * 10**9, allocated=10**9) == "", "what is taken already is not taken again"
    assert "2 experts" in shortage(found, 10**9, allocated=10**9)


def test_memory_of_experts_grows_by_the_workers_that_train_them() -> None:
    cell = PRESETS["cifar100-ten-ipc10"].replace(model="convnet-d3-w8")
    alone, two = (unmeasured(cell.replace(workers=workers)).stages[0].memory for workers in (1, 2))
    data = dataset_size(cell).memory_bytes(cell.data, "cpu")
    each = alone - data
    assert two == 2 * data + 2 * (each + estimate.IDLE_WORKER)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (42, "42 s"), (600, "10 min"), (7200, "2.0 h"), (400000, "4.6 days")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (65_000_000, "65 MB"), (6.5e9, "6.5 GB"), (2e12, "2.0 TB")])
def test_sizes_read_well(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("count", "text"), [(0, "-"), (12, "12"), (3.14e12, "3.1 T"), (2e16, "20 P"), (2e18, "2.0 E")])
def test_work_reads_well(count: float, text: str) -> None:
    assert operations(count) == text


def test_textures_cost_their_crops_in_work_and_their_canvases_on_disk() -> None:
    cell = PRESETS["cifar100-ten-ipc10"].replace(model="convnet-d3-w8")
    images, textures = (
        unmeasured(cell.replace(distill=cell.distill.replace(**each))).stages[1]
        for each in ({}, {"canvas": 2, "canvas_samples": 6})
    )
    assert textures.disk == 4 * images.disk
    assert textures.work == 6 * images.work


def test_a_whitening_is_a_stage_and_is_not_fitted_to_estimate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "fit_zca", None)
    monkeypatch.setattr(estimate, "Speed", FixedSpeed)
    plain = PRESETS["digits-ipc1"].replace(model="convnet-d2-w8")
    plain = plain.replace(data=plain.data.replace(size=16))
    white = plain.replace(data=plain.data.replace(whiten="zca"))
    names = [[stage.name for stage in estimate.estimate(each).stages] for each in (plain, white)]
    assert names[1] == ["ZCA whitening, once for all runs", *names[0]]
    stage = estimate.estimate(white).stages[0]
    assert stage.disk == 4 * 256**2
    assert stage.memory > 4 * 8 * 256**2
    assert stage.seconds > 0


def test_memory_goes_by_where_the_images_are_kept() -> None:
    known, data = DatasetSize((3, 32, 32), 10, 50000, 10000), PRESETS["cifar10-ipc10"].data.replace(whiten="standard")
    held = {kind: known.memory_bytes(data.replace(memory=kind), "cpu") for kind in ("float32", "uint8", "disk")}
    assert held == {"float32": 60000 * 3072 * 4, "uint8": 60000 * 3072, "disk": 0}
    assert known.memory_bytes(data.replace(memory="disk", whiten="zca"), "cpu") == 2 * 4 * 3072**2


def test_a_sharpness_aware_step_takes_the_time_of_two_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second for whatever step is timed, so that the counts alone decide."""
    monkeypatch.setattr(Speed, "_measured", lambda speed, step: 1.0)
    network = Network("convnet-d2-w4", (1, 8, 8), 10)
    plain, sharp = (
        Costs("cpu", Speed("cpu")).training(network, ExpertRecipe(sam_rho=rho), 640, 64) for rho in (0.0, 0.01)
    )
    assert sharp.work == 2 * plain.work
    assert sharp.seconds == 2 * plain.seconds > 0


def test_the_default_device_is_counted_as_the_one_that_it_stands_for(tmp_path: Path) -> None:
    wanted = small(tmp_path)
    assert wanted.device == "auto"
    named = unmeasured(wanted.replace(device="cpu"))
    assert [stage.memory for stage in unmeasured(wanted).stages] == [stage.memory for stage in named.stages]


def test_the_device_auto_is_counted_and_timed_as_the_one_that_it_stands_for() -> None:
    there = settled_device("auto")
    assert (Costs("auto").device, Speed("auto").device) == (there, there)
    assert Costs("auto").network("convnet-d1-w4", (1, 8, 8), 10).engine
