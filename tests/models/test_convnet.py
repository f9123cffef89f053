from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from astdistill.models.convnets import ConvNet, deepest
from astdistill.models.layers import GroupNorm
from astdistill.runtime import seeds
from astdistill.runtime.errors import InputError

FORMATS = [torch.contiguous_format, torch.channels_last]


def _randn(*shape: int, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    return torch.randn(*shape, generator=seeds.rng(0, *shape), dtype=torch.float64).contiguous(
        memory_format=memory_format
    )


def _size(network: nn.Module) -> int:
    return sum(part.numel() for part in network.parameters())


def test_the_papers_network_has_320010_parameters() -> None:
    assert _size(ConvNet(3, 10, (32, 32))) == 320_010


@pytest.mark.parametrize(
    ("channels", "classes", "size", "depth", "width", "norm", "pooling"),
    [
        (3, 100, (32, 32), 3, 128, "instance", "avg"),
        (3, 200, (64, 64), 4, 128, "group", "max"),
        (1, 10, (8, 8), 3, 32, "layer", "avg"),
        (3, 10, (20, 13), 2, 16, "none", "avg"),
        (2, 3, (8, 6), 8, 4, "batch", "none"),
        (1, 2, (9, 9), 1, 1, "instance", "max"),
    ],
)
def test_parameter_count(
    channels: int, classes: int, size: tuple[int, int], depth: int, width: int, norm: str, pooling: str
) -> None:
    network = ConvNet(channels, classes, size, depth=depth, width=width, norm=norm, pooling=pooling)
    shrink = 1 if pooling == "none" else 2**depth
    first, later = (9 * channels + 1) * width, (9 * width + 1) * width
    scales = 0 if norm == "none" else 2 * width * depth
    linear = (width * (size[0] // shrink) * (size[1] // shrink) + 1) * classes
    assert _size(network) == first + (depth - 1) * later + scales + linear
    assert network(torch.randn(5, channels, *size, generator=seeds.rng(0))).shape == (5, classes)


@pytest.mark.parametrize("norm", ["batch", "layer", "instance", "group", "none"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "leakyrelu"])
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_every_variant_learns_from_every_parameter(norm: str, activation: str, pooling: str) -> None:
    with seeds.seeded(0, "variants"):
        network = ConvNet(3, 4, (8, 8), depth=2, width=8, norm=norm, activation=activation, pooling=pooling)
    logits = network(torch.randn(6, 3, 8, 8, generator=seeds.rng(1)))
    gradients = torch.autograd.grad(logits.square().sum(), list(network.parameters()))
    # A convolution's bias is undone by a norm that subtracts each channel's mean, so its gradient is rounding there.
    useless = norm in ("instance", "batch")
    for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
        is_conv_bias = (
            name.startswith("features")
            and isinstance(network.get_submodule(name.rpartition(".")[0]), nn.Conv2d)
            and "bias" in name
        )
        assert torch.isfinite(gradient).all()
        assert (float(gradient.abs().max()) > 1e-6) or (useless and is_conv_bias), name


def test_names_and_order_are_those_of_mtt_distillation() -> None:
    names = [name for name, _ in ConvNet(3, 10, (32, 32), depth=2).named_parameters()]
    assert names == [
        *("features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias"),
        *("features.4.weight", "features.4.bias", "features.5.weight", "features.5.bias"),
        *("classifier.weight", "classifier.bias"),
    ]


def test_forward_is_the_formula() -> None:
    network = ConvNet(2, 3, (8, 8), depth=1, width=4).double()
    convolution, norm, linear = network.features[0], network.features[1], network.classifier
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, GroupNorm)
    with torch.no_grad():
        norm.weight.copy_(_randn(4))
        norm.bias.copy_(_randn(4))
    images = _randn(3, 2, 8, 8)
    maps = nn.functional.conv2d(images, convolution.weight, convolution.bias, padding=1)
    mean, variance = maps.mean((2, 3), keepdim=True), maps.var((2, 3), correction=0, keepdim=True)
    maps = (maps - mean) / (variance + 1e-5).sqrt() * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    maps = maps.clamp(min=0).view(3, 4, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(network(images), maps.flatten(1) @ linear.weight.T + linear.bias)


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_our_group_norm_is_torchs(groups: int, memory_format: torch.memory_format) -> None:
    ours, theirs = GroupNorm(groups, 6).double(), nn.GroupNorm(groups, 6).double()
    with torch.no_grad():
        for part in ("weight", "bias"):
            values = _randn(6) + (part == "bias")
            getattr(ours, part).copy_(values)
            getattr(theirs, part).copy_(values)
    images = (10 * _randn(4, 6, 6, 7) + 100).contiguous(memory_format=memory_format).requires_grad_()
    weights = _randn(4, 6, 6, 7)
    results = [norm(images) for norm in (ours, theirs)]
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)
    assert results[0].is_contiguous(memory_format=memory_format)
    gradients = [
        torch.autograd.grad((norm(images) * weights).sum(), (images, *norm.parameters())) for norm in (ours, theirs)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_group_norm_has_every_derivative(groups: int, memory_format: torch.memory_format) -> None:
    norm = GroupNorm(groups, 2).double()
    images = _randn(2, 2, 3, 2, memory_format=memory_format).requires_grad_()

    def call(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (images,))

    inputs = (images, _randn(2).requires_grad_(), _randn(2).requires_grad_())
    assert gradcheck(call, inputs, check_forward_ad=True)
    assert gradgradcheck(call, inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("images_format", FORMATS)
@pytest.mark.parametrize("tangent_format", FORMATS)
@pytest.mark.parametrize("norm", ["instance", "layer", "group", "none"])
def test_jvp_of_grad_in_any_memory_format(
    images_format: torch.memory_format, tangent_format: torch.memory_format, norm: str
) -> None:
    network = ConvNet(3, 4, (8, 8), depth=2, width=4, norm=norm).double()
    images = _randn(3, 3, 8, 8, memory_format=images_format)
    tangent = _randn(3, 3, 8, 8, memory_format=tangent_format)
    gradient = torch.func.grad(lambda x: network(x).square().sum())
    fast = torch.func.jvp(gradient, (images,), (tangent,))[1]
    leaf = images.clone().requires_grad_()
    (first,) = torch.autograd.grad(network(leaf).square().sum(), leaf, create_graph=True)
    (slow,) = torch.autograd.grad(first, leaf, tangent)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_vmap_over_norms(memory_format: torch.memory_format) -> None:
    norm = GroupNorm(3, 3).double()
    images, weights, biases = _randn(2, 3, 4, 4, memory_format=memory_format), _randn(5, 3), _randn(3, 5).T
    batched = torch.func.vmap(
        lambda w, b, x: torch.func.functional_call(norm, {"weight": w, "bias": b}, (x,)), in_dims=(0, 0, None)
    )
    one_by_one = [nn.functional.group_norm(images, 3, w, b) for w, b in zip(weights, biases, strict=True)]
    torch.testing.assert_close(batched(weights, biases, images), torch.stack(one_by_one))


@pytest.mark.parametrize(("size", "most"), [((8, 8), 3), ((32, 32), 5), ((31, 64), 4), ((1, 9), 0), ((1024, 1024), 8)])
def test_deepest(size: tuple[int, int], most: int) -> None:
    assert deepest(size) == most
    assert deepest(size, "none") == 8
    if most:
        assert ConvNet(1, 2, size, depth=most, width=1, norm="none")(torch.zeros(1, 1, *size)).shape == (1, 2)


def test_digits_at_depth_3_end_in_one_pixel() -> None:
    assert ConvNet(1, 10, (8, 8), width=32).classifier.in_features == 32
    with pytest.raises(
        InputError, match=r"8×8 pixels are too small for depth 4.*largest depth for them is 3.*'convnet-d4-nopool'"
    ):
        ConvNet(1, 10, (8, 8), depth=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "instanse"}, "no norm 'instanse'. Did you mean 'instance'"),
        ({"activation": "rely"}, "no activation 'rely'. Did you mean 'relu'"),
        ({"pooling": "mean"}, "no pooling 'mean'"),
        ({"depth": 0}, "depth 1 to 8, not 0"),
        ({"depth": 9, "pooling": "none"}, "depth 1 to 8, not 9"),
        ({"width": 0}, "width=0 is empty"),
        ({"classes": 0}, "classes=0 is empty"),
        ({"channels": 0}, "channels=0 is empty"),
        ({"width": 30, "norm": "group"}, "width 30 is not a multiple of 4; try width 32"),
        ({"size": (1, 5)}, "too small to pool even once; use pooling='none'"),
        ({"size": (0, 5)}, "have no pixels"),
        ({"size": (1, 1), "pooling": "none"}, "single pixel erases it"),
    ],
)
def test_refusals(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        ConvNet(**({"channels": 3, "classes": 10, "size": (32, 32)} | changes))
