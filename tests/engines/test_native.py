"""The hand-written derivatives of the ConvNet against torch's own in float64."""

from __future__ import annotations

import copy
import ctypes
import io
import platform
from collections.abc import Callable, Iterator
from types import MethodType
from typing import NamedTuple

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from astdistill.autodiff import dispatch as choice
from astdistill.autodiff.dispatch import engine_of, held_bytes
from astdistill.autodiff.engine import EagerEngine
from astdistill.autodiff.native import build as library
from astdistill.autodiff.native import engine as native
from astdistill.autodiff.native import layout as blocks
from astdistill.autodiff.native import variants
from astdistill.autodiff.native.engine import NativeEngine
from astdistill.autodiff.native.layout import Workspace, blocks_of
from astdistill.autodiff.training import Trainee
from astdistill.experts.store import Segment
from astdistill.methods.estimators import Backprop, Recompute
from astdistill.methods.matching import IntermediateMatchingLoss, Matching
from astdistill.methods.unroll import InnerLoop, MetaGradient, Variables, draw_plan
from astdistill.models.convnets import ConvNet
from astdistill.models.flat import FlatModel
from astdistill.models.layers import GroupNorm
from astdistill.models.registry import build_model
from astdistill.runtime import progress
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import rng

needs_compiler = pytest.mark.skipif(library.library() is None, reason="no C compiler on this machine")

NETWORKS = {
    "convnet-d3-w32": ((3, 32, 32), 10, 5),
    "convnet-d2-w32": ((1, 8, 8), 10, 10),
    "convnet-d1-w16": ((2, 12, 20), 3, 4),  # one block: first and last; sides of whole tiles and not square
    "convnet-d3-w16": ((3, 8, 8), 3, 4),  # tiles that hang over the edge: 4, then 2 pixels a side
    "convnet-d2-w48": ((3, 20, 12), 5, 3),  # 10 × 6 pixels: tiles cut off at both edges
}


class Case(NamedTuple):
    model: FlatModel
    theta: Tensor
    direction: Tensor
    images: Tensor
    targets: Tensor

    def double(self) -> Case:
        return Case(self.model, *(part.double() for part in self[1:]))


def case(name: str) -> Case:
    """Parameters away from the initialisation, so that no scale is one and no offset zero; distributions as targets."""
    shape, classes, count = NETWORKS[name]
    model, generator = FlatModel(build_model(name, shape, classes)), rng(1, name)
    theta = model.flatten() + 0.05 * torch.randn(model.size, generator=generator)
    images = torch.randn(count, *shape, generator=generator)
    return Case(
        model,
        theta,
        0.1 * torch.randn(model.size, generator=generator),
        images,
        torch.randn(count, classes, generator=generator).softmax(1),
    )


def engine(given: Case, kernels: ctypes.CDLL | None = None) -> NativeEngine:
    parts, kernels = blocks_of(given.model.module, tuple(given.images.shape[1:])), kernels or library.library()  # type: ignore[arg-type]
    assert parts is not None
    assert kernels is not None
    return NativeEngine(given.model, parts, kernels, Workspace())


def of_the_batch(fast: NativeEngine) -> int:
    """Bytes of what is not the network's parameters."""
    return sum(buffer.nbytes for name, buffer in fast.space.buffers.items() if "kernel" not in name)


def error(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    assert not found.requires_grad
    return float((found.double() - wanted).norm() / wanted.norm())


def biases(model: FlatModel) -> Tensor:
    """Which parameters are biases of convolutions."""
    names = [name for name, _ in model.module.named_parameters()]
    found = torch.zeros(model.size, dtype=torch.bool)
    for name, place in zip(names, model.layers, strict=True):
        if (
            name.startswith("features")
            and name.endswith("bias")
            and isinstance(model.module.get_submodule(name[:-5]), nn.Conv2d)
        ):
            found[place] = True
    return found


@needs_compiler
@pytest.mark.parametrize("name", NETWORKS)
def test_every_derivative_is_torchs_own(name: str) -> None:
    given = case(name)
    check_derivatives(given, engine(given))


@needs_compiler
@pytest.mark.parametrize(("name", "lanes"), [("avx512", 16), ("avx2", 8), ("sse", 4), ("neon", 4)])
def test_every_instruction_set_computes_the_same(name: str, lanes: int) -> None:
    """As far as this processor can; the layouts of all tensors follow."""
    own = library.for_this_processor()
    able = variants.variants(platform.machine())
    variant = next((each for each in able[able.index(own) :] if each.name == name), None)
    if variant is None:
        pytest.skip(f"not on {own.instructions}")
    kernels = library.make(variant)
    assert library.lanes(kernels) == lanes
    assert library.described(kernels).startswith(f"{variant.instructions} kernels ")
    for name in ("convnet-d3-w32", "convnet-d2-w48"):
        given = case(name)
        check_derivatives(given, engine(given, kernels))


@needs_compiler
@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (8, 3), (64, 2)])
def test_groups_of_images_do_not_show(monkeypatch: pytest.MonkeyPatch, rows: int, threads: int) -> None:
    """However many tiles are multiplied at once, by however many threads: also where groups differ, or threads
    have none."""
    given, before = case("convnet-d3-w32"), torch.get_num_threads()
    monkeypatch.setattr(blocks, "ROWS", rows)
    torch.set_num_threads(threads)
    try:
        check_derivatives(given, engine(given))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("tiles", "images", "threads", "count"),
    [
        (4, 25, 1, 7),  # three or four images
        (4, 25, 2, 8),  # four groups for either thread
        (16, 10, 2, 10),
        (4, 10, 2, 4),
        (100, 7, 2, 7),  # one image is more than enough
        (4, 1, 8, 1),
    ],
)
def test_groups_are_few_and_as_many_for_every_thread(tiles: int, images: int, threads: int, count: int) -> None:
    assert blocks.group_count(tiles, images, threads) == count


def check_derivatives(given: Case, fast: NativeEngine) -> None:
    """Every answer against torch's own in float64."""
    slow, exact = EagerEngine(given.model), given.double()
    assert error(fast.logits(given.theta, given.images), slow.logits(exact.theta, exact.images)) < 1e-5
    pairs = {
        "gradient": (
            fast.gradient(given.theta, given.images, given.targets),
            slow.gradient(exact.theta, exact.images, exact.targets),
        ),
        "directional": (fast.directional(*given[1:]), slow.directional(*exact[1:])),
        "penalised": (
            fast.penalised(given.theta, given.images, given.targets, 2.0, 0.7),
            slow.penalised(exact.theta, exact.images, exact.targets, 2.0, 0.7),
        ),
        "pixel": (
            fast.penalised(given.theta, given.images, None, 2.0, form="pixel"),
            slow.penalised(exact.theta, exact.images, None, 2.0, form="pixel"),
        ),
    }
    for what, (found, wanted) in pairs.items():
        for field, ours, true in zip(found._fields, found, wanted, strict=True):
            assert error(ours, true) < 1e-4, f"{what}.{field}"


@needs_compiler
@needs_compiler
@pytest.mark.parametrize("name", NETWORKS)
def test_features_and_the_way_back_through_them_are_torchs_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = case(name)
    exact, wanted = given.double(), given.images.double().requires_grad_()
    slopes = torch.randn(given.model.features(given.theta, given.images).shape, generator=rng(2, name))
    features = exact.model.features(exact.theta, wanted)
    features.backward(slopes.double())
    channels = int(name.partition("-w")[2])
    one = channels * given.images[0, 0].numel()
    for values in (native.VALUES, one):
        monkeypatch.setattr(native, "VALUES", values)  # the whole batch at once, and image by image
        images = given.images.clone().requires_grad_()
        found = engine_of(given.model).features(given.theta, images)
        assert type(found.grad_fn).__name__ == "_FeaturesBackward"
        found.backward(slopes)
        assert images.grad is not None
        assert wanted.grad is not None
        assert error(found.detach(), features.detach()) < 1e-4
        assert error(images.grad, wanted.grad) < 1e-4


def test_features_of_other_networks_are_torchs() -> None:
    given = case("convnet-d2-w32").double()
    found = engine_of(given.model).features(given.theta, given.images)
    assert torch.equal(found, given.model.features(given.theta, given.images))


def test_a_norm_leaves_no_gradient_to_the_bias_before_it() -> None:
    """Zero exactly, where torch leaves rounding."""
    given = case("convnet-d3-w32")
    where = biases(given.model)
    assert int(where.sum()) == 3 * 32
    found = engine(given).gradient(given.theta, given.images, given.targets).theta
    wanted = (
        EagerEngine(given.model).gradient(*(part.double() for part in (given.theta, given.images, given.targets))).theta
    )
    assert not found[where].any()
    assert float(wanted[where].abs().max()) < 1e-12 < float(wanted[~where].abs().max())


@needs_compiler
def test_without_curvature_the_mixed_derivatives_are_the_same() -> None:
    given = case("convnet-d2-w32")
    whole, part = (engine(given).directional(*given[1:], curvature=curvature) for curvature in (True, False))
    assert torch.equal(whole.images, part.images)
    assert torch.equal(whole.targets, part.targets)
    assert not part.theta.any()
    assert whole.theta.any()


@needs_compiler
@pytest.mark.parametrize("values", [3 * 32 * 64, 32])
def test_a_batch_in_parts_gives_what_it_gives_whole(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    """Also where one image has more values than are processed at once, which ended the process: images of 384 pixels
    for 32 channels."""
    given = case("convnet-d2-w32")

    def both(fast: NativeEngine) -> tuple[Tensor, ...]:
        return *fast.directional(*given[1:]), *fast.penalised(given.theta, given.images, given.targets, 2.0)

    whole, parts = engine(given), engine(given)
    wanted = both(whole)
    monkeypatch.setattr(native, "VALUES", values)
    for ours, theirs in zip(both(parts), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert of_the_batch(parts) < of_the_batch(whole) / 2


@needs_compiler
def test_what_ran_before_does_not_show() -> None:
    """Buffers are used again, by smaller batches too."""
    given = case("convnet-d3-w16")
    used = engine(given)
    used.directional(*given[1:])
    used.penalised(given.theta, given.images, given.targets, 2.0)
    few = given.images[:2], given.targets[:2]
    assert torch.equal(used.gradient(given.theta, *few).theta, engine(given).gradient(given.theta, *few).theta)
    again, fresh = (one.directional(given.theta, given.direction, *few) for one in (used, engine(given)))
    assert all(torch.equal(ours, wanted) for ours, wanted in zip(again, fresh, strict=True))


@needs_compiler
def test_numbers_that_are_not_finite_stay_so() -> None:
    given = case("convnet-d2-w32")
    given.images[0, 0, 0, 0] = float("nan")
    found = engine(given).gradient(given.theta, given.images, given.targets)
    assert not bool(found.loss.isfinite())
    assert not bool(found.theta.isfinite().all())


@needs_compiler
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_meta_gradient_is_that_of_back_propagation(momentum: float) -> None:
    """One whole outer step, in float32 on the kernels and in float64 through one graph."""
    shape, classes = (3, 16, 16), 5
    model, generator = FlatModel(build_model("convnet-d2-w32", shape, classes)), rng(0, "outer")
    start, images = model.flatten(), torch.randn(8, *shape, generator=generator)
    targets = torch.nn.functional.one_hot(torch.arange(8) % classes, classes).float()
    plan = draw_plan(5, 8, 6, "color_crop_cutout_flip_scale_rotate", shape, generator)
    goal = start + 0.02 * torch.randn(len(start), generator=generator)
    inner, variables = InnerLoop(model, plan, momentum, 1.3), Variables(images, targets, torch.tensor(0.02))
    found = Recompute()(inner, start, variables, Matching((3, 5), torch.stack([goal, goal]), torch.tensor([1.0, 2.0])))
    exact = Variables(images.double(), targets.double(), variables.lr.double())
    goals = torch.stack([goal, goal]).double()
    wanted = Backprop()(inner, start.double(), exact, Matching((3, 5), goals, torch.tensor([1.0, 2.0]).double()))
    assert error(found.images, wanted.images) < 1e-3
    assert error(found.lr, wanted.lr) < 1e-3
    assert (
        float(nn.functional.cosine_similarity(found.images.flatten().double(), wanted.images.flatten(), dim=0))
        > 1 - 1e-6
    )


class Steep:
    """AST's outer step on a young expert, at learning rates that carry the student far: losses far above that of not
    moving, which is 2."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        means, labels = torch.randn(10, 3, 8, 8, generator=generator), torch.arange(512) % 10
        images = nn.functional.interpolate(means[labels], size=(16, 16))
        images = images + torch.randn(512, 3, 16, 16, generator=generator)
        network = build_model("convnet-d2-w32", (3, 16, 16), 10, seed=0).double()
        flat, optimiser = FlatModel(network), torch.optim.SGD(network.parameters(), lr=0.003, momentum=0.9)
        rows = [flat.flatten(network).clone()]
        for epoch in range(3):
            for chosen in torch.randperm(512, generator=torch.Generator().manual_seed(epoch)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(images[chosen].double()), labels[chosen]).backward()
                optimiser.step()
            rows.append(flat.flatten(network).clone())
        self.rows = torch.stack(rows).detach().float()
        self.images, self.targets = images[:10], torch.eye(10)

    def __call__(self, dtype: torch.dtype, lr: float, rows: Tensor | None = None) -> MetaGradient:
        """The meta-gradient by the engine of this process."""
        rows = (self.rows if rows is None else rows).to(dtype)
        segment = Segment(0, 0, rows[0], rows[1:3])
        model = FlatModel(build_model("convnet-d2-w32", (3, 16, 16), 10).to(dtype))
        inner = InnerLoop(model, draw_plan(20, 10, None, "", (3, 16, 16), rng(0, "plan")), momentum=0.9)
        variables = Variables(self.images.to(dtype), self.targets.to(dtype), torch.tensor(lr, dtype=dtype))
        return Recompute()(inner, rows[0], variables, IntermediateMatchingLoss()(segment, rows[0], 20))


@needs_compiler
def test_a_kink_of_relu_is_what_float32_may_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """On steps of large loss both engines' float32 may be far off, and float64 is as far from itself after one rounding
    of the start: at once, not in proportion, because the derivative jumps where a ReLU's input is zero."""
    steep = Steep()
    lr = 0.01
    monkeypatch.setenv("ASTDISTILL_ENGINE", "eager")
    exact, single = steep(torch.float64, lr), steep(torch.float32, lr)
    monkeypatch.setenv("ASTDISTILL_ENGINE", "native")
    for found in (single, steep(torch.float32, lr)):
        assert error(found.images, exact.images) < 1e-3
        assert float(nn.functional.cosine_similarity(found.images.double().flatten(), exact.images.flatten(), 0)) > (
            0.99999
        )
        assert float(found.loss) == pytest.approx(float(exact.loss), rel=1e-5)
    assert float(exact.loss) > 10

    def moved(seed: int, share: float) -> float:
        """How far the image gradient goes when the start is moved by a share of one float32 rounding, in float64."""
        rows = steep.rows.double()
        rounding = 2**-24 * torch.randn(rows.shape, generator=rng(seed, "rounding"), dtype=torch.float64)
        return error(steep(torch.float64, lr, rows * (1 + share * rounding)).images, exact.images)

    whole = moved(1, 1.0)
    assert whole > 20 * moved(0, 1.0)
    half = moved(1, 0.5)
    assert half < 0.1 * whole or half > 0.9 * whole


class NotedRelu(nn.Module):
    """A ReLU that keeps its input; with `opposite`, that entry of it counts as being on the other side of zero."""

    opposite: int | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        self.inputs, passed = inputs.detach().flatten(), (inputs > 0).flatten()
        if self.opposite is not None:
            passed[self.opposite] = ~passed[self.opposite]
        return inputs * passed.view_as(inputs)


@needs_compiler
def test_at_a_kink_every_engine_takes_one_of_the_two_sides() -> None:
    """With one ReLU input moved to within a rounding of zero, an engine's gradient is exactly that of one side or that
    of the other; which one is left to rounding, and nothing else is lost."""
    given = case("convnet-d2-w32")
    network = build_model("convnet-d2-w32", *NETWORKS["convnet-d2-w32"][:2]).double()
    assert isinstance(network, ConvNet)
    assert isinstance(network.features[6], nn.ReLU)
    network.features[6] = NotedRelu()
    model, exact = FlatModel(network), given.double()
    relu = model.module.get_submodule("features.6")
    assert isinstance(relu, NotedRelu)

    def side(theta: Tensor) -> Tensor:
        theta = theta.double().requires_grad_()
        loss = nn.functional.cross_entropy(model(theta, exact.images), exact.targets)
        return torch.autograd.grad(loss, theta)[0]

    side(given.theta)
    nearest = int(relu.inputs.abs().argmin())
    pixels = relu.inputs.numel() // (len(given.images) * 32)
    offsets = model.layers[[name for name, _ in network.named_parameters()].index("features.5.bias")]
    theta = given.theta.clone()
    theta[offsets][nearest // pixels % 32] -= float(relu.inputs[nearest])
    here = side(theta)
    assert float(relu.inputs[nearest].abs()) < 1e-7
    relu.opposite = nearest
    there = side(theta)
    assert error(here, there) > 1e-4
    for fast in (EagerEngine(given.model), engine(given)):
        found = fast.gradient(theta, given.images, given.targets).theta.detach()
        assert min(error(found, here), error(found, there)) < 1e-5


@needs_compiler
def test_the_native_engine_is_chosen_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    given = case("convnet-d2-w32")
    engine_of(given.model).gradient(given.theta, given.images, given.targets)
    assert held_bytes(given.model) > 0
    assert engine_of(given.model) is engine_of(given.model)
    other = case("convnet-d2-w32")
    monkeypatch.setenv("ASTDISTILL_ENGINE", "eager")
    engine_of(other.model).gradient(other.theta, other.images, other.targets)
    assert held_bytes(other.model) == 0
    monkeypatch.setenv("ASTDISTILL_ENGINE", "naive")
    with pytest.raises(InputError, match="Did you mean 'native'"):
        engine_of(other.model).gradient(other.theta, other.images, other.targets)


def test_a_compiled_engine_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    given, asked = case("convnet-d2-w32"), []

    def note(model: object, precision: str = "tf32") -> EagerEngine:
        asked.append(precision)
        return EagerEngine(given.model)

    monkeypatch.setattr(choice, "compiled_engine", note)
    for name in ("compiled", "compiled-bfloat16", "compiled"):
        monkeypatch.setenv("ASTDISTILL_ENGINE", name)
        engine_of(given.model).gradient(given.theta, given.images, given.targets)
    assert asked == ["tf32", "bfloat16"]
    assert held_bytes(given.model) == 0


@pytest.mark.parametrize(
    "module",
    [
        ConvNet(3, 4, (8, 8), depth=1, width=8),
        ConvNet(3, 4, (8, 8), depth=1, width=16, norm="layer"),
        ConvNet(3, 4, (8, 8), depth=1, width=16, norm="none"),
        ConvNet(3, 4, (8, 8), depth=1, width=16, activation="sigmoid"),
        ConvNet(3, 4, (8, 8), depth=1, width=16, pooling="max"),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 4)),
    ],
    ids=["narrow", "layer norm", "no norm", "sigmoid", "max pooling", "no ConvNet"],
)
def test_other_networks_are_left_to_torch(module: nn.Module) -> None:
    assert blocks_of(module, (3, 8, 8)) is None
    model = FlatModel(module)
    images, targets = torch.randn(2, 3, 8, 8), torch.full((2, 4), 0.25)
    found = engine_of(model).gradient(model.flatten(), images, targets)
    assert torch.equal(found.theta, EagerEngine(model).gradient(model.flatten(), images, targets).theta)


class _Doubled(ConvNet):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * ConvNet.forward(self, images)


class _Clipped(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return input.clamp(0, 0.5)


def _replace(index: int, layer: nn.Module) -> Callable[[ConvNet], object]:
    return lambda network: network.features.__setitem__(index, layer)


def _double_output(part: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return 2 * output


def _double_first_input(network: ConvNet) -> None:
    network.features[4].register_forward_pre_hook(lambda part, inputs: (2 * inputs[0],))


def _tie(network: ConvNet) -> None:
    network.features[9].weight = network.features[5].weight  # type: ignore[union-attr]


CHANGES: dict[str, Callable[[ConvNet], object]] = {
    "dilation": _replace(4, nn.Conv2d(16, 16, 3, padding=2, dilation=2)),
    "padding": _replace(4, nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular")),
    "kernel": _replace(4, nn.Conv2d(16, 16, 5, padding=2)),
    "no bias": _replace(4, nn.Conv2d(16, 16, 3, padding=1, bias=False)),
    "groups": _replace(4, nn.Conv2d(16, 16, 3, padding=1, groups=4)),
    "stride": lambda network: vars(network.features[4]).update(stride=(2, 2), padding=(5, 5)),
    "weight norm": lambda network: nn.utils.parametrizations.weight_norm(network.features[4]),
    "norm eps": _replace(5, GroupNorm(16, 16, eps=0.1)),
    "norm groups": _replace(5, GroupNorm(8, 16)),
    "norm affine": _replace(5, GroupNorm(16, 16, affine=False)),
    "activation": _replace(6, _Clipped()),
    "pooling": _replace(7, nn.AvgPool2d(3, 2, 1)),
    "pooling stride": _replace(7, nn.AvgPool2d(1, 2)),
    "pooling divisor": _replace(7, nn.AvgPool2d(2, divisor_override=3)),
    "classifier": lambda network: setattr(network, "classifier", nn.Linear(256, 4, bias=False)),
    "more classifiers": lambda network: setattr(
        network, "classifier", nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 4))
    ),
    "pre-hook": _double_first_input,
    "hook": lambda network: network.register_forward_hook(_double_output),
    "forward": lambda network: setattr(network, "forward", MethodType(_Doubled.forward, network)),
    "forward of a layer": lambda network: setattr(network.features[6], "forward", torch.sigmoid),
    "further parameter": lambda network: network.features[4].register_parameter("more", nn.Parameter(torch.ones(3))),
    "shared parameter": _tie,
    "inner sequence": _replace(6, nn.Sequential(nn.ReLU(), nn.Sigmoid())),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_convnet_is_left_to_torch(change: str) -> None:
    torch.manual_seed(0)
    network = ConvNet(3, 4, (16, 16), depth=3 if change == "shared parameter" else 2, width=16)
    CHANGES[change](network)
    check_left_to_torch(network)


def test_a_class_derived_from_convnet_is_left_to_torch() -> None:
    check_left_to_torch(_Doubled(3, 4, (16, 16), depth=2, width=16))


def check_left_to_torch(network: ConvNet) -> None:
    """The gradients of a `FlatModel` and of a `Trainee`, against autograd in float64."""
    images, targets = torch.randn(5, 3, 16, 16), torch.randn(5, 4).softmax(1)
    exact = copy.deepcopy(network).double()
    nn.functional.cross_entropy(exact(images.double()), targets.double()).backward()
    slopes = [torch.zeros_like(part) if part.grad is None else part.grad for part in exact.parameters()]
    wanted = torch.cat([part.reshape(-1) for part in slopes])
    model = FlatModel(network)
    assert error(engine_of(model).gradient(model.flatten(), images, targets).theta, wanted) < 1e-4
    assert blocks_of(model.module, (3, 16, 16)) is None
    trainee = Trainee(network)
    trainee.gradient(images, targets)
    assert trainee.theta.grad is not None
    assert error(trainee.theta.grad, wanted) < 1e-4


def test_sizes_that_do_not_halve_are_left_to_torch() -> None:
    assert blocks_of(ConvNet(3, 4, (10, 10), depth=2, width=16), (3, 10, 10)) is None
    assert blocks_of(ConvNet(3, 4, (12, 12), depth=2, width=16), (3, 12, 12)) is not None


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    text = io.StringIO()
    monkeypatch.setattr(progress.Output, "console", Console(file=text, width=200))
    library.library.cache_clear()
    yield text
    library.library.cache_clear()


@pytest.mark.parametrize("compiler", ["false", "/nowhere/cc"])
def test_without_a_compiler_torch_computes_and_the_cause_is_named_once(
    compiler: str, monkeypatch: pytest.MonkeyPatch, said: io.StringIO
) -> None:
    monkeypatch.setenv("CC", compiler)
    given = case("convnet-d2-w32")
    found, _ = (engine_of(given.model).gradient(given.theta, given.images, given.targets) for _ in range(2))
    assert said.getvalue().count("torch's own derivatives are used") == 1
    assert said.getvalue().count("install gcc") == 1
    wanted = EagerEngine(given.model).gradient(given.theta, given.images, given.targets)
    assert torch.equal(found.theta, wanted.theta)
