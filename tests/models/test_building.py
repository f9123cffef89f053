from __future__ import annotations

import pytest
import torch
from torch import nn

from astdistill.models import build_model
from astdistill.models.convnets import ConvNet
from astdistill.models.registry import model_names
from astdistill.runtime.errors import InputError


def tiny(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))


def _groups(network: nn.Module) -> list[int]:
    return [part.num_groups for part in network.modules() if isinstance(part, nn.GroupNorm)]


def _kinds(network: nn.Module) -> list[str]:
    assert isinstance(network, ConvNet)
    return [type(part).__name__ for part in network.features]


@pytest.mark.parametrize(
    ("name", "depth", "width", "block"),
    [
        ("convnet", 3, 128, ["Conv2d", "GroupNorm", "ReLU", "AvgPool2d"]),
        ("convnet-d3-w32", 3, 32, ["Conv2d", "GroupNorm", "ReLU", "AvgPool2d"]),
        ("convnet-w16-d1-batchnorm", 1, 16, ["Conv2d", "BatchNorm2d", "ReLU", "AvgPool2d"]),
        ("convnet-d3-nonorm-sigmoid-maxpool", 3, 128, ["Conv2d", "Sigmoid", "MaxPool2d"]),
        ("convnet-d2-w8-groupnorm-leakyrelu-nopool", 2, 8, ["Conv2d", "GroupNorm", "LeakyReLU"]),
        ("convnet-relu-avgpool-instancenorm", 3, 128, ["Conv2d", "GroupNorm", "ReLU", "AvgPool2d"]),
        ("convnet-layernorm-w4", 3, 4, ["Conv2d", "GroupNorm", "ReLU", "AvgPool2d"]),
    ],
)
def test_names(name: str, depth: int, width: int, block: list[str]) -> None:
    network = build_model(name, (3, 32, 32), 10)
    assert _kinds(network) == block * depth
    assert isinstance(network, ConvNet)
    assert all(part.out_channels == width for part in network.features if isinstance(part, nn.Conv2d))


@pytest.mark.parametrize(("norm", "groups"), [("instancenorm", 8), ("layernorm", 1), ("groupnorm", 4)])
def test_groups(norm: str, groups: int) -> None:
    assert _groups(build_model(f"convnet-d2-w8-{norm}", (3, 32, 32), 10)) == [groups, groups]


@pytest.mark.parametrize(
    ("size", "depth"),
    [
        ((32, 32), 3),
        ((28, 28), 3),
        ((64, 64), 4),
        ((33, 33), 4),
        ((128, 128), 5),
        ((8, 8), 3),
        ((4, 4), 2),
        ((64, 8), 3),
        ((2, 64), 1),
    ],
)
def test_depth_suits_the_size(size: tuple[int, int], depth: int) -> None:
    assert _kinds(build_model("convnet-w2", (3, *size), 2)).count("Conv2d") == depth


def test_same_seed_same_network_and_the_global_generator_stays() -> None:
    state = torch.get_rng_state()
    first, again, other = (list(build_model("convnet-w4", (1, 8, 8), 2, seed=seed).parameters()) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    elsewhere = list(build_model("convnet-w4", (1, 8, 8), 2, seed=3).parameters())
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, again, elsewhere, strict=True))
    assert not torch.equal(first[0], other[0])
    torch.set_rng_state(state)


def test_factories_by_function_and_by_import_path(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n\ndef tiny(channels, classes, size):\n    return nn.Conv2d(channels, classes, "
        "size)\n\nanswer = 42\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    by_path = build_model("own_networks:tiny", (3, 5, 6), 7)
    assert isinstance(by_path, nn.Conv2d)
    assert by_path.weight.shape == (7, 3, 5, 6)
    state = torch.get_rng_state()
    networks = [build_model(tiny, (3, 5, 6), 7, seed=1) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*(network(torch.ones(1, 3, 5, 6)) for network in networks))
    with pytest.raises(InputError, match="is no factory"):
        build_model("own_networks:answer", (3, 5, 6), 7)
    with pytest.raises(InputError, match="Cannot import 'own_networks:huge'"):
        build_model("own_networks:huge", (3, 5, 6), 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnot-d3", r"no model 'convnot-d3'. Did you mean 'convnet-d3'"),
        ("convnet-instancnorm", r"no word 'instancnorm' for model 'convnet-instancnorm'. Did you mean 'instancenorm'"),
        ("convnet-d", r"no word 'd' for model 'convnet-d'"),
        ("convnet-d3-d4", r"says its depth twice \(3, 4\)"),
        ("convnet-nonorm-batchnorm", r"says its norm twice"),
        ("convnet-d6", r"largest depth for them is 5"),
        ("", r"no model ''"),
    ],
)
def test_refuses_names(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(name, (3, 32, 32), 10)


def test_refuses_what_is_no_factory() -> None:
    with pytest.raises(InputError, match="is no factory"):
        build_model(nn.Linear(2, 2), (3, 32, 32), 10)
    with pytest.raises(InputError, match="gave a int"):
        build_model(lambda channels, classes, size: 3, (3, 32, 32), 10)  # pyright: ignore[reportArgumentType]


def test_every_example_name_builds() -> None:
    for name in model_names():
        if ":" not in name:
            assert build_model(name, (3, 32, 32), 10)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
