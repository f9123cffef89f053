from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from astdistill.models.convnets import ConvNet
from astdistill.models.flat import FlatModel
from astdistill.runtime import seeds
from astdistill.runtime.errors import InputError


def _network(seed: int = 0, **options: str) -> ConvNet:
    with seeds.seeded(seed, "network"):
        return ConvNet(2, 3, (6, 8), depth=2, width=4, **options).double()


def _images() -> Tensor:
    return torch.randn(5, 2, 6, 8, generator=seeds.rng(0, "images"), dtype=torch.float64)


VARIANTS = [
    {},
    {"norm": "layer", "activation": "sigmoid", "pooling": "max"},
    {"norm": "group", "activation": "leakyrelu"},
    {"norm": "none", "pooling": "none"},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_f_is_the_module_at_any_theta(options: dict[str, str]) -> None:
    network, other = _network(0, **options), _network(1, **options)
    flat = FlatModel(network)
    assert flat.size == sum(part.numel() for part in network.parameters())
    assert torch.equal(flat(flat.flatten(), _images()), network(_images()))
    assert torch.equal(flat(flat.flatten(other), _images()), other(_images()))


def test_flatten_and_load_are_inverse_and_in_the_order_of_parameters() -> None:
    network, other = _network(0), _network(1)
    flat = FlatModel(network)
    theta = flat.flatten(other)
    assert torch.equal(theta, nn.utils.parameters_to_vector(other.parameters()))
    assert not theta.requires_grad
    flat.load(network, theta)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    assert all(part.requires_grad and part.is_leaf for part in network.parameters())
    views = flat.unflatten(theta)
    assert list(views) == [name for name, _ in network.named_parameters()]
    assert all(
        view.data_ptr() == theta[where].data_ptr() for view, where in zip(views.values(), flat.layers, strict=True)
    )


@pytest.mark.parametrize("make", [_network, lambda: nn.Linear(48, 3, bias=False)], ids=["convnet", "one tensor"])
def test_flatten_copies(make) -> None:
    """The trap of `p.detach().cpu()`, which on a CPU is no copy: a stored trajectory of one frozen point."""
    network = make()
    flat = FlatModel(network)
    start = flat.flatten(network)
    kept = start.clone()
    with torch.no_grad():
        for part in network.parameters():
            part.add_(1.0)
    assert torch.equal(start, kept)
    assert torch.equal(flat.flatten(), kept)
    assert torch.equal(flat.flatten(network), kept + 1)
    start.zero_()
    assert torch.equal(flat.flatten(), kept)


def test_load_copies_too() -> None:
    network = _network()
    flat = FlatModel(network)
    theta = flat.flatten()
    flat.load(network, theta)
    theta.zero_()
    assert float(flat.flatten(network).abs().sum()) > 0


def test_the_module_handed_in_is_untouched_and_dropout_is_off() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(96, 50), nn.Dropout(0.5), nn.Linear(50, 3)).double().train()
    before = [part.clone() for part in module.parameters()]
    flat = FlatModel(module)
    theta = flat.flatten()
    assert torch.equal(flat(theta, _images()), flat(theta, _images()))
    flat(theta + 1, _images())
    assert all(part.training for part in module.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_layers_tile_theta_and_kernels_are_the_convolution_weights() -> None:
    network = _network()
    flat = FlatModel(network)
    theta = flat.flatten()
    assert torch.equal(torch.cat([theta[where] for where in flat.layers]), theta)
    assert len(flat.layers) == len(list(network.parameters()))
    expected = [part.weight for part in network.modules() if isinstance(part, nn.Conv2d)]
    assert len(flat.kernels) == 2
    assert all(
        torch.equal(theta[where], kernel.flatten()) for where, kernel in zip(flat.kernels, expected, strict=True)
    )
    assert FlatModel(nn.Linear(4, 2)).kernels == ()


@pytest.mark.parametrize("options", VARIANTS)
def test_hessian_vector_product_by_jvp_of_grad_is_double_backward_and_a_difference(options: dict[str, str]) -> None:
    flat = FlatModel(_network(0, **options))
    theta, images = flat.flatten(), _images()
    direction = torch.randn(flat.size, generator=seeds.rng(1), dtype=torch.float64)

    def loss(theta: Tensor, images: Tensor) -> Tensor:
        return flat(theta, images).square().sum()

    gradient = torch.func.grad(loss, argnums=(0, 1))
    fast = torch.func.jvp(lambda theta: gradient(theta, images), (theta,), (direction,))[1]
    leaves = (theta.clone().requires_grad_(), images.clone().requires_grad_())
    (first,) = torch.autograd.grad(loss(*leaves), leaves[:1], create_graph=True)
    slow = torch.autograd.grad(first, leaves, direction)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)
    step = 1e-6 * direction
    ahead, behind = gradient(theta + step, images)[0], gradient(theta - step, images)[0]
    difference = (ahead - behind) / 2e-6
    assert float((difference - fast[0]).norm() / fast[0].norm()) < 1e-5


@pytest.mark.parametrize("options", VARIANTS)
def test_vmap_over_students(options: dict[str, str]) -> None:
    flat = FlatModel(_network(0, **options))
    thetas = torch.stack([flat.flatten(_network(seed, **options)) for seed in range(3)])
    together = torch.func.vmap(flat, in_dims=(0, None))(thetas, _images())
    torch.testing.assert_close(together, torch.stack([flat(theta, _images()) for theta in thetas]))


def test_refuses_batch_norm_statistics_and_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"'features.1' \(BatchNorm2d\).*running_mean.*norm='instance'"):
        FlatModel(_network(norm="batch"))


def test_refuses_nothing_to_train() -> None:
    with pytest.raises(InputError, match="Flatten has no parameters"):
        FlatModel(nn.Flatten())


def test_refuses_another_shape() -> None:
    flat = FlatModel(_network())
    with pytest.raises(InputError, match=r"parameters, and θ has shape \(7,\)"):
        flat(torch.zeros(7), _images())
    with pytest.raises(InputError, match="Linear has other parameters than the ConvNet"):
        flat.flatten(nn.Linear(2, 2))
    with pytest.raises(InputError, match="ConvNet has other parameters"):
        flat.load(ConvNet(2, 4, (6, 8), depth=2, width=4), flat.flatten())


def test_a_frozen_parameter_is_refused_by_name() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    network[1].bias.requires_grad_(False)
    with pytest.raises(InputError, match=r"'1\.bias'.*requires_grad_\(True\)"):
        FlatModel(network)
