from __future__ import annotations

import pytest

from astdistill.evaluation.protocol import POOLS, architectures
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError

SHAPE = (3, 32, 32)
STUDENT = "convnet-d3"


@pytest.mark.parametrize(
    ("pool", "names"),
    [
        ("S", ["convnet-d3"]),
        ("M", ["convnet-d3", "mlp", "lenet", "alexnet", "vgg11-instancenorm", "resnet18"]),
        ("W", ["convnet-d3-w32", "convnet-d3-w64", "convnet-d3", "convnet-d3-w256"]),
        ("D", ["convnet-d1", "convnet-d2", "convnet-d3", "convnet-d4"]),
        ("A", ["convnet-d3-sigmoid", "convnet-d3", "convnet-d3-leakyrelu"]),
        ("P", ["convnet-d3-nopool", "convnet-d3-maxpool", "convnet-d3"]),
        (
            "N",
            ["convnet-d3-nonorm", "convnet-d3-batchnorm", "convnet-d3-layernorm", "convnet-d3", "convnet-d3-groupnorm"],
        ),
    ],
)
def test_pools_are_derived_from_the_student(pool: str, names: list[str]) -> None:
    assert architectures(pool, STUDENT, SHAPE) == architectures([pool], STUDENT, SHAPE) == names


@pytest.mark.parametrize("student", ["convnet-d2-w8-batchnorm", "alexnet-w8-sigmoid", "vgg11-w8-batchnorm"])
def test_every_network_of_every_pool_that_the_student_has_builds(student: str) -> None:
    pools = [pool for pool in POOLS if pool not in ("D", "W") or student.startswith("convnet")]
    names = architectures(pools, student, (3, 8, 8))
    assert len(set(names)) == len(names)
    assert names[0] == student
    for name in names:
        assert build_model(name, (3, 8, 8), 2)


def test_depths_stop_where_the_images_do() -> None:
    assert architectures("D", "convnet", (3, 8, 8)) == ["convnet-d1", "convnet-d2", "convnet"]
    assert architectures("D", "convnet-nopool", (3, 4, 4))[-1] == "convnet-nopool-d4"
    assert architectures("D", "mlp", (3, 4, 4)) == ["mlp-d1", "mlp", "mlp-d3", "mlp-d4"]


def test_without_a_wish_the_student_and_every_name_once() -> None:
    assert architectures(None, STUDENT, SHAPE) == architectures((), STUDENT, SHAPE) == [STUDENT]
    assert architectures(["mlp", "S", "M", "timm:x"], STUDENT, SHAPE)[:3] == ["mlp", STUDENT, "lenet"]
    assert architectures("own.module:net", "", SHAPE) == ["own.module:net"]
    assert architectures("M", "own.module:net", SHAPE)[:2] == ["own.module:net", "mlp"]
    assert architectures("M", "resnet18-ap", SHAPE)[-1] == "vgg11-instancenorm"


def test_pools_that_a_student_has_not_are_refused() -> None:
    with pytest.raises(InputError, match="'lenet' has no width to vary"):
        architectures("W", "lenet", SHAPE)
    with pytest.raises(InputError, match="'vgg11' has no depth to vary"):
        architectures("D", "vgg11", SHAPE)
    with pytest.raises(InputError, match=r"'own\.module:net' is not; use pool S or M"):
        architectures("A", "own.module:net", SHAPE)
    with pytest.raises(InputError, match="say which to train"):
        architectures("S", "", SHAPE)
