from __future__ import annotations

import json
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


def test_a_run_keeps_the_curves_of_its_own_experts_alone(tmp_path: Path) -> None:
    data = blobs()
    own = tiny_experts(tmp_path / "experts", data, count=2)
    plain = tiny_experts(tmp_path / "experts", data, count=1, recipe=TINY_RECIPE.replace(momentum=0.0))
    record_experts(own.first(1), tmp_path / "run")
    found = read_experts(tmp_path / "run")
    assert found is not None
    assert found.curves == own.curves()[:1]
    assert found.name == "momentum 0.9"
    assert read_experts(tmp_path) is None
    # Earlier versions wrote the stores beside it too.
    path, other = tmp_path / "run" / "experts.json", tmp_path / "other"
    record_experts(plain, other)
    (beside,) = json.loads((other / "experts.json").read_text())["stores"]
    stores = json.loads(path.read_text())["stores"]
    path.write_text(json.dumps({"stores": [*stores, {**beside, "own": False}]}))
    assert read_experts(tmp_path / "run") == found


@pytest.mark.parametrize("text", ["[]", "{}", '{"stores": [{"own": true}]}', '{"stores": 3}', '{"stores": [3]}'])
def test_another_file_of_that_name_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "experts.json").write_text(text)
    with pytest.raises(InputError, match=r"experts\.json"):
        read_experts(tmp_path)
