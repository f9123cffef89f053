"""Every family at every size: the published networks where they were published, and a network everywhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from astdistill.models.flat import FlatModel
from astdistill.models.layers import POOL, trunk
from astdistill.models.registry import build_model
from astdistill.models.vit import Attention
from astdistill.runtime import seeds
from astdistill.runtime.errors import InputError

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 33, 33), (3, 64, 64), (3, 128, 128), (2, 5, 9)]
STUDENTS = [
    "mlp-w8",
    "lenet",
    "alexnet-w4",
    "alexnet-w4-layernorm-sigmoid-avgpool",
    "vgg11-w4",
    "vgg11-w4-instancenorm",
    "vgg11-w4-groupnorm-leakyrelu-nopool",
    "resnet18-w4",
    "resnet18-w4-ap",
    "resnet18-w4-nonorm",
    "vit-d2-w8",
]
WITH_STATISTICS = ["alexnet-w4-batchnorm", "vgg11-w4-batchnorm", "resnet18-w4-batchnorm", "resnet18-w4-batchnorm-ap"]


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeds.rng(0, *shape), dtype=torch.float64)


def _size(network: nn.Module) -> int:
    return sum(part.numel() for part in network.parameters())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [*STUDENTS, *WITH_STATISTICS])
def test_every_network_takes_every_image_size(name: str, shape: tuple[int, int, int]) -> None:
    """The published codes crash at 64 px."""
    network = build_model(name, shape, 3)
    for trained in (True, False):
        assert network.train(trained)(torch.ones(2, *shape)).shape == (2, 3)
    with torch.no_grad():
        first, second = network(_randn(2, *shape).float())
    assert not torch.equal(first, second)


def _alexnet(channels: int, classes: int) -> int:
    convolutions = 25 * (channels * 128 + 128 * 192) + 9 * (192 * 256 + 256 * 192 + 192 * 192)
    return convolutions + 128 + 192 + 256 + 192 + 192 + (192 * 16 + 1) * classes


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("mlp", (3, 32, 32), 3073 * 128 + 129 * 128 + 129 * 10),
        ("lenet", (1, 28, 28), 61_706),
        ("lenet", (3, 32, 32), 62_006),
        ("alexnet", (3, 32, 32), _alexnet(3, 10)),
        ("vgg11-batchnorm", (3, 32, 32), 9_231_114),
        ("resnet18", (3, 32, 32), 11_173_962),
        ("resnet18-ap", (3, 64, 64), 11_173_962),
    ],
)
def test_published_networks_have_their_number_of_parameters(
    name: str, shape: tuple[int, int, int], parameters: int
) -> None:
    assert _size(build_model(name, shape, 10)) == parameters


@pytest.mark.parametrize(("name", "pools"), [("lenet", 2), ("alexnet-w4", 3), ("vgg11-w4", 5)])
def test_at_32_px_no_pooling_is_left_out_and_the_average_at_the_end_does_nothing(name: str, pools: int) -> None:
    network = build_model(name, (3, 32, 32), 3)
    assert sum(isinstance(part, nn.MaxPool2d) for part in network.modules()) == pools
    seen: list[tuple[torch.Size, torch.Size]] = []
    for part in network.modules():
        if isinstance(part, nn.AdaptiveAvgPool2d):
            part.register_forward_hook(lambda _, given, out: seen.append((given[0].shape, out.shape)))
    network(torch.ones(1, 3, 32, 32))
    assert len(seen) == 1
    assert seen[0][0] == seen[0][1]


def test_a_pooling_that_would_leave_one_pixel_to_a_convolution_is_left_out() -> None:
    plan = [(4, 3), POOL, (4, 3), POOL, (4, 3), POOL]
    for shortest, wanted in ((8, 3), (4, 2), (3, 1), (2, 1), (1, 0)):
        layers, _ = trunk(1, (shortest, 9), plan, "none", "relu", "max")
        assert sum(isinstance(part, nn.MaxPool2d) for part in layers) == wanted
        assert layers(torch.ones(1, 1, shortest, 9)).numel()


def test_ap_averages_where_the_other_takes_strides() -> None:
    strided, averaged = (build_model(name, (3, 32, 32), 3) for name in ("resnet18-w4", "resnet18-w4-ap"))
    strides = [
        [part.stride for part in each.modules() if isinstance(part, nn.Conv2d)].count((2, 2))
        for each in (strided, averaged)
    ]
    assert strides == [6, 0]  # the first convolution and the shortcut of three stages
    poolings = [part for part in averaged.modules() if isinstance(part, nn.AvgPool2d)]
    assert len(poolings) == 3  # one for each stage, after the first convolution and in the shortcut
    images = torch.ones(1, 3, 32, 32)
    maps = [each.get_submodule("stages")(each.get_submodule("stem")(images)).shape for each in (strided, averaged)]
    assert maps == [(1, 32, 4, 4)] * 2


def test_attention_is_torchs_fused_one_written_out() -> None:
    attention, tokens = Attention(8, 2).double(), _randn(3, 5, 8)
    query, key, value = attention.inputs(tokens).view(3, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    fused = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(3, 5, 8)
    torch.testing.assert_close(attention(tokens), attention.output(fused))


def test_the_transformer_sees_every_pixel_of_a_padded_image_and_where_it_stands() -> None:
    network = build_model("vit-d1-w8", (1, 9, 11), 2).double()
    images = _randn(1, 1, 9, 11).requires_grad_()
    (gradient,) = torch.autograd.grad(network(images)[0, 0], images)
    assert (gradient != 0).all()
    assert not torch.allclose(network(images), network(images.flip(2)))


@pytest.mark.parametrize("name", STUDENTS)
def test_every_network_without_buffers_is_a_student(name: str) -> None:
    """f(θ, x) with gradients for every parameter, and the Hessian-vector product in both forms that the engines use."""
    shape = (2, 17, 16)
    network = build_model(name, shape, 3).double()
    flat = FlatModel(network)
    theta, images = flat.flatten(), _randn(2, *shape)
    torch.testing.assert_close(flat(theta, images), network(images))
    direction = torch.randn(flat.size, generator=seeds.rng(1), dtype=torch.float64)

    def loss(theta: Tensor, images: Tensor) -> Tensor:
        return nn.functional.cross_entropy(flat(theta, images), torch.tensor([0, 2]))

    gradient = torch.func.grad(loss, argnums=(0, 1))
    assert all((part != 0).any() for part in flat.unflatten(gradient(theta, images)[0]).values())
    fast = torch.func.jvp(lambda theta: gradient(theta, images), (theta,), (direction,))[1]
    leaves = (theta.clone().requires_grad_(), images.clone().requires_grad_())
    (first,) = torch.autograd.grad(loss(*leaves), leaves[:1], create_graph=True)
    slow = torch.autograd.grad(first, leaves, direction)
    torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-10)
    together = torch.func.vmap(flat, in_dims=(0, None))(torch.stack([theta, theta + direction]), images)
    torch.testing.assert_close(together[1], flat(theta + direction, images))


@pytest.mark.parametrize("name", [*WITH_STATISTICS, "convnet-d2-w4-batchnorm"])
def test_a_student_with_statistics_is_refused_and_its_twin_is_offered_and_works(name: str) -> None:
    with pytest.raises(InputError, match=r"BatchNorm2d.*for example '(.*)'") as refused:
        FlatModel(build_model(name, (3, 16, 16), 3))
    twin = str(refused.value).split("'")[-2]
    assert twin == name.replace("batchnorm", "instancenorm")
    assert FlatModel(build_model(twin, (3, 16, 16), 3)).size == _size(build_model(name, (3, 16, 16), 3))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("mlp-d0", (3, 8, 8), "MLP with depth=0 is empty"),
        ("vgg11-w0", (3, 8, 8), "VGG11 with width=0"),
        ("alexnet-w6-groupnorm", (3, 8, 8), "width 6 is not a multiple of 4"),
        ("alexnet-w4-groupnorm", (3, 8, 8), "width 6 is not a multiple of 4"),
        ("resnet18", (3, 1, 1), "single pixel"),
        ("vit-w48", (3, 8, 8), "multiple; try 64"),
        ("lenet", (3, 0, 8), "no pixels"),
    ],
)
def test_what_makes_no_network_is_one_sentence(name: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(name, shape, 3)
