from __future__ import annotations

from pathlib import Path

import pytest
from problems import TINY_RECIPE, blobs, tiny_experts

from astdistill.experts.recipe import ExpertRecipe
from astdistill.methods.trajectory_matching import AST, FTD, MTT
from astdistill.report.experts import described, read_experts, record_experts
from astdistill.runtime.errors import InputError


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (MTT.expert, "plain SGD"),
        (MTT.recipe.replace(momentum=0.9), "momentum 0.9"),
        (AST.expert, "momentum 0.9, clipping, penalty 2"),
        (AST.recipe.replace(penalty_form="pixel"), "momentum 0.9, clipping, penalty 2 per pixel"),
        (FTD.recipe, "adaptive sharpness 0.01"),
        (FTD.recipe.replace(adaptive_sam=False), "sharpness 0.01"),
        (ExpertRecipe(optimiser="adam"), "Adam"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_recipes_are_called_by_what_sets_them_apart(recipe: ExpertRecipe, words: str) -> None:
    assert described(recipe) == words


def test_relatives_are_stores_of_the_same_data_and_network(tmp_path: Path) -> None:
    data = blobs()
    own = tiny_experts(tmp_path / "experts", data, count=1)
    tiny_experts(tmp_path / "experts", data, count=1, recipe=TINY_RECIPE.replace(momentum=0.0))
    tiny_experts(tmp_path / "experts", data, count=1, recipe=TINY_RECIPE.replace(lr=0.04))
    tiny_experts(tmp_path / "experts", blobs(seed=1), count=1)
    tiny_experts(tmp_path / "experts", data, count=1, model="convnet-d1-w8")
    (tmp_path / "experts" / "broken").mkdir()
    (tmp_path / "experts" / "broken" / "recipe.json").write_text("{")
    record_experts(own, tmp_path / "run")
    found = read_experts(tmp_path / "run")
    assert [each.own for each in found] == [True, False, False]
    assert found[0].curves == own.curves()
    assert found[0].name == "momentum 0.9"
    assert {each.name for each in found[1:]} == {"plain SGD", "momentum 0.9 (2)"}
    assert read_experts(tmp_path) == []


@pytest.mark.parametrize("text", ["[]", "{}", '{"stores": [{"own": true}]}', '{"stores": 3}', '{"stores": [3]}'])
def test_another_file_of_that_name_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "experts.json").write_text(text)
    with pytest.raises(InputError, match=r"experts\.json"):
        read_experts(tmp_path)
