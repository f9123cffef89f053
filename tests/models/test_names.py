from __future__ import annotations

import pytest

from astdistill.models.registry import parse
from astdistill.runtime.errors import InputError

SIZE = (32, 32)


def test_a_name_says_its_options_and_the_family_has_the_rest() -> None:
    found = parse("convnet-w16-batchnorm")
    assert found.stated == {"width": 16, "norm": "batch"}
    assert found.options((64, 64)) == {"depth": 4, "width": 16, "norm": "batch", "activation": "relu", "pooling": "avg"}
    assert parse("resnet18-batchnorm-ap").options(SIZE) == {
        "width": 64,
        "norm": "batch",
        "activation": "relu",
        "shrinking": "avg",
    }


@pytest.mark.parametrize(
    ("name", "option", "value", "wanted"),
    [
        ("convnet-d3", "width", 32, "convnet-d3-w32"),
        ("convnet-d3", "width", 128, "convnet-d3"),
        ("convnet-d3-w128", "width", 128, "convnet-d3-w128"),
        ("convnet-w16-d3-nopool", "depth", 2, "convnet-w16-d2-nopool"),
        ("convnet", "depth", 3, "convnet"),
        ("convnet-batchnorm", "norm", "none", "convnet-nonorm"),
        ("convnet", "pooling", "none", "convnet-nopool"),
        ("convnet", "activation", "sigmoid", "convnet-sigmoid"),
        ("resnet18-ap", "norm", "batch", "resnet18-ap-batchnorm"),
        ("mlp", "depth", 3, "mlp-d3"),
    ],
)
def test_one_option_is_respelled_and_the_rest_stays(name: str, option: str, value: object, wanted: str) -> None:
    assert parse(name).having(option, value, SIZE) == wanted
    assert parse(wanted).options(SIZE) == parse(name).options(SIZE) | {option: value}


def test_an_option_that_a_family_has_not_is_refused() -> None:
    with pytest.raises(InputError, match="'lenet' has no width to vary; its options are activation, pooling"):
        parse("lenet").having("width", 32, SIZE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg", "Did you mean 'vgg11'"),
        ("resnet18-app", r"no word 'app' for model 'resnet18-app'. Did you mean 'ap'"),
        ("resnet18-maxpool", r"no word 'maxpool' for model 'resnet18-maxpool'"),
        ("vgg11-d3", r"no word 'd3' for model 'vgg11-d3'"),
        ("convnet-ap", r"no word 'ap' for model 'convnet-ap'"),
        ("vit-batchnorm", r"no word 'batchnorm' for model 'vit-batchnorm'. Known: d6, w128"),
    ],
)
def test_words_that_a_family_has_not(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(name)
