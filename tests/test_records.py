"""Records and parts: what they refuse, and that their JSON brings them back."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import pkgutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field, ValidationError

import astdistill
from astdistill.experiment.presets import PRESETS
from astdistill.experts.recipe import ExpertRecipe
from astdistill.methods.initialisation import FileInit, ImageInit
from astdistill.methods.matching import FinalMatchingLoss, IntermediateMatchingLoss, MatchingLoss
from astdistill.methods.method import Method
from astdistill.methods.registry import methods
from astdistill.methods.segments import BalancedWeight, UniformSampler, WeightPerturbation
from astdistill.methods.trajectory_matching import AST, MTT
from astdistill.runtime.config import (
    Component,
    Record,
    as_first_written,
    built_in_components,
    by_todays_names,
    digest,
    find_component,
    import_name,
    moved,
)
from astdistill.runtime.errors import InputError
from astdistill.runtime.trust import trusting


class Numbers(Record):
    whole: int = Field(default=1, ge=0)
    words: tuple[str, ...] = ("a", "b")
    share: float = 0.5


class First(Record):
    """A record of an earlier version."""

    whole: int = 1
    share: float = 0.5


class Third(Record):
    """The same one today, after its second field has had three names."""

    renamed: ClassVar = {"share": "portion", "fraction": "portion"}
    whole: int = 1
    portion: float = 0.5


class Around(Record):
    """A record of others."""

    one: First | Third
    many: tuple[First | Third, ...] = ()


class Nearest(MatchingLoss):
    """A part of a user's own, with a field."""

    reach: int = 3


class RealInit(ImageInit):
    """A user's, with the name of a built-in part."""


def subclasses(kind: type[Component]) -> list[type[Component]]:
    return [kind, *(deep for child in kind.__subclasses__() for deep in subclasses(child))]


def every_part() -> list[type[Component]]:
    for module in pkgutil.walk_packages(astdistill.__path__, "astdistill."):
        if module.name.startswith("astdistill.methods"):
            importlib.import_module(module.name)
    return [kind for kind in subclasses(Component) if kind is not Component]


PARTS = every_part()
BUILT_IN = built_in_components(Component)
FIRST_PATHS: list[str] = json.loads((Path(__file__).parent / "data/frozen/part-paths.json").read_text(encoding="utf-8"))
"""What files of commit 53597ca call the parts that there were then."""


def test_replace_changes_what_it_is_told_and_validates_it() -> None:
    record = Numbers(whole=2)
    assert record.replace(share=0.25) == Numbers(whole=2, share=0.25)
    assert record.whole == 2
    assert record.replace() == record
    with pytest.raises(InputError, match=r"^Numbers\.whole cannot be -1; choose 0 or more\.$"):
        record.replace(whole=-1)


@pytest.mark.parametrize("name", ["share", "fraction", "portion"])
def test_a_field_is_read_by_each_of_its_names(name: str) -> None:
    assert Third.model_validate({name: 0.25}) == Third(portion=0.25) == Third().replace(**{name: 0.25})
    assert Third(portion=0.25).to_json() == {"whole": 1, "portion": 0.25}


def test_a_renamed_field_leaves_every_digest_as_it_was() -> None:
    before, now = First(share=0.25), Third(portion=0.25)
    assert now.first_written() == before.to_json()
    assert now.digest() == before.digest() != Third().digest()
    assert Around(one=now, many=(now, Third())).digest() == Around(one=before, many=(before, First())).digest()


def test_a_field_given_by_two_names_is_refused() -> None:
    with pytest.raises(ValidationError, match="'share' is now called 'portion', and both are given; leave out 'share'"):
        Third.model_validate({"share": 0.25, "portion": 0.5})


class Whole(Record):
    """A record with another one, and with a field that has no default."""

    name: str
    numbers: Numbers = Numbers()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Numbers(whole=-1), "Numbers.whole cannot be -1; choose 0 or more."),
        (lambda: Numbers(whole="x" * 200), f"Numbers.whole cannot be '{'x' * 78}…; give a whole number."),
        (lambda: Numbers(whole=-1, share="x"), "Numbers.whole cannot be -1; choose 0 or more."),
        (lambda: Whole(), "Whole.name has no value, and no default; give one."),
        (lambda: Whole(name="x", numbers={"whole": -1}), "Whole.numbers.whole cannot be -1; choose 0 or more."),
        (
            lambda: Whole(name="x", numbers={"shares": 1}),
            "Whole.numbers.shares cannot be 1; there is no setting of that",
        ),
        (lambda: Whole(name="x", numbers=3), "Whole.numbers cannot be 3; give a value of Numbers."),
    ],
)
def test_a_record_made_in_python_is_refused_in_one_sentence(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert error.value.__suppress_context__, "pydantic's own lines are not shown above it"


def test_records_are_pickled() -> None:
    whole = Whole(name="x", numbers=Numbers(whole=3))
    assert pickle.loads(pickle.dumps(whole)) == copy.deepcopy(whole) == whole


def test_values_move_to_another_place() -> None:
    tree = {"a": {"b": 1, "c": 2}, "d": {"e": None}}
    assert moved(tree, {"a.b": "d.f.g", "a.x": "d.y", "z.z": "d.z"}) == {"a": {"c": 2}, "d": {"e": None, "f": {"g": 1}}}
    assert tree == {"a": {"b": 1, "c": 2}, "d": {"e": None}}
    assert moved({"a": 2, "d": First()}, {"a": "d.whole"}) == {"d": {"whole": 2, "share": 0.5}}
    both = moved({"a": 2, "b": 0.25, "d": First()}, {"a": "d.whole", "b": "d.share"})
    assert both == {"d": {"whole": 2, "share": 0.25}}
    with pytest.raises(InputError, match=r"'a\.b' is now called 'd\.e', and both are given"):
        moved(tree, {"a.b": "d.e"})


def test_unknown_fields_are_refused_by_name() -> None:
    with pytest.raises(
        InputError, match=r"Numbers has no field 'shares'\. Did you mean 'share'\? Its fields: whole, words, share"
    ):
        Numbers().replace(shares=1)
    with pytest.raises(ValidationError, match="shares"):
        Numbers.model_validate({"shares": 1})
    with pytest.raises(InputError, match="Numbers has no field 'shares'"):
        Numbers(**{"shares": 1})
    with pytest.raises(InputError, match=r"^Numbers\.whole cannot be 3; make a changed copy with replace\.$"):
        Numbers().whole = 3


@pytest.mark.parametrize(
    "changes", [{"whole": 7}, {"words": ("a",)}, {"words": ("b", "a")}, {"share": 0.5000001}], ids=str
)
def test_the_digest_changes_with_any_field(changes: dict[str, Any]) -> None:
    assert Numbers().digest() == Numbers().digest()
    assert Numbers().replace(**changes).digest() != Numbers().digest()
    assert len(Numbers().digest()) == 12
    assert int(Numbers().digest(), 16) >= 0


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


@pytest.mark.parametrize("field", ExpertRecipe.model_fields)
def test_the_digest_covers_nested_records(field: str) -> None:
    """Every field of a recipe changes the digest of the method that holds it."""
    other = {
        "optimiser": "adam",
        "penalty_form": "pixel",
        "augmentation": "",
        "lr_drop": 0.5,
        "loss_warmup_start": 0.25,
        "loss_warmup_epochs": 7,
        "momentum": 0.5,
        "drops_at": (0.5,),
    }
    recipe = AST.recipe.replace(**{field: other[field] if field in other else getattr(AST.expert, field) + 1})
    assert AST.replace(expert=recipe).digest() != AST.digest()


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__qualname__)
def test_every_part_comes_back_from_its_json(kind: type[Component]) -> None:
    part = kind.model_validate({"path": "runs/demo"} if kind is FileInit else {})
    written = json.loads(json.dumps(part.to_json()))
    assert written["part"].rpartition(":")[2] == kind.__qualname__
    assert written["part"].partition(":")[0] == (kind.__qualname__ if kind in BUILT_IN.values() else kind.__module__)
    for reader in [base for base in kind.__mro__ if issubclass(base, Component)]:
        found = reader.model_validate(written)
        assert found == part
        assert type(found) is kind


def test_parts_were_found() -> None:
    assert {"IntermediateMatchingLoss", "Recompute", "LogSyntheticLr", "Nearest", "StepFilter", "HardLabels"} <= {
        kind.__qualname__ for kind in PARTS
    }


def test_every_part_of_the_package_is_built_in() -> None:
    assert set(BUILT_IN.values()) == {kind for kind in PARTS if kind.__module__.startswith("astdistill.")}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_no_serialised_form_of_a_built_in_part_tells_where_its_file_lies(name: str) -> None:
    text = json.dumps(BUILT_IN[name].model_validate({"path": "demo"} if name == "FileInit" else {}).to_json())
    assert "astdistill" not in text
    assert ":" not in json.loads(text)["part"]


def test_no_serialised_form_of_an_experiment_tells_where_a_file_of_the_package_lies() -> None:
    for method in methods().values():
        assert "astdistill" not in json.dumps(method.to_json())
    for preset in PRESETS.values():
        assert "astdistill" not in json.dumps(preset.to_json())


@pytest.mark.parametrize("path", FIRST_PATHS)
def test_a_part_is_read_by_its_path_in_earlier_versions(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No module is imported on the way: the old ones need not be there."""
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    kind = find_component(path)
    fields = {"path": "demo"} if kind.__qualname__ == "FileInit" else {}
    found = Component.model_validate({"part": path} | fields)
    assert type(found) is kind
    assert kind in BUILT_IN.values()
    assert as_first_written(found.to_json())["part"] == path
    assert as_first_written({"part": path.rpartition(":")[2]}) == {"part": path}
    assert by_todays_names({"goals": [{"part": path}]}) == {"goals": [{"part": found.to_json()["part"]}]}


def test_no_name_of_a_part_is_used_again_for_another() -> None:
    """A file from before a renaming would be read as the new part of that name."""
    assert len({path.rpartition(":")[2] for path in FIRST_PATHS}) == len(FIRST_PATHS)
    assert len({find_component(path) for path in FIRST_PATHS}) == len(FIRST_PATHS)
    for name in BUILT_IN:
        assert find_component(name) is BUILT_IN[name]


def test_a_digest_outlives_the_renaming_of_a_built_in_part() -> None:
    """So that runs and stores of earlier versions are known again; the numbers are those of commit 53597ca."""
    first = "ast", "ast-as-released", "mtt", "att", "ftd", "datm", "tesla"
    found = {name: methods()[name] for name in first}
    for name in ("ftd", "datm"):  # whose experts have climbed adaptively since
        found[name] = found[name].replace(expert=found[name].recipe.replace(adaptive_sam=False))
    later = {"sample": UniformSampler(), "batches": "equal"}  # whose experts have come in cycles since
    found["ast-as-released"] = found["ast-as-released"].replace(**later)
    assert {name: method.digest() for name, method in found.items()} == {
        "ast": "3fd10ec29288",
        "ast-as-released": "08a0ac6cf10b",
        "mtt": "6a1a78a08446",
        "att": "8e8309c1065a",
        "ftd": "6914699958c3",
        "datm": "b9911c7846e0",
        "tesla": "a390d4d87e34",
    }


def test_a_method_of_an_earlier_version_has_todays_words_for_its_paper() -> None:
    written = methods()["datm"].to_json()
    written["paper"] = written["paper"].replace("section 3", "§3")
    assert Method.model_validate(written) == methods()["datm"]
    assert Method.model_validate(written).first_written()["paper"] == written["paper"]


def test_a_users_part_of_a_built_in_name_is_never_taken_for_ours() -> None:
    mine = RealInit()
    assert type(mine) is not BUILT_IN["RealInit"]
    assert mine.to_json() == {"part": f"{__name__}:RealInit"}
    assert type(ImageInit.model_validate(mine.to_json())) is RealInit
    assert as_first_written(mine.to_json()) == by_todays_names(mine.to_json()) == mine.to_json()
    assert MTT.replace(init=mine).digest() != MTT.digest()


def test_two_parts_of_the_package_cannot_share_a_name() -> None:
    with pytest.raises(TypeError, match=r"astdistill.elsewhere and astdistill\.\S+ both have a part 'RealInit'"):
        type("RealInit", (ImageInit,), {"__module__": "astdistill.elsewhere", "__qualname__": "RealInit"})
    assert BUILT_IN["RealInit"] is find_component("RealInit")


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"There is no part 'FinalMatchingLos' in this package; .* Did you mean 'FinalMatchingLoss'"
    ):
        MatchingLoss.model_validate({"part": "FinalMatchingLos"})


def test_a_method_keeps_the_fields_of_its_parts() -> None:
    method = MTT.replace(
        loss=IntermediateMatchingLoss(beta="adaptive"),
        weight=BalancedWeight(base=9.0),
        perturb=WeightPerturbation(alpha=0.5),
    )
    found = Method.model_validate(json.loads(json.dumps(method.to_json())))
    assert found == method
    assert isinstance(found.loss, IntermediateMatchingLoss)
    assert found.loss.beta == "adaptive"
    assert found.digest() == method.digest()
    assert method.replace(loss=IntermediateMatchingLoss()).digest() != method.digest()
    assert MTT.replace(loss=Nearest()).digest() != MTT.digest()


def test_a_part_of_a_test_module_comes_back_inside_a_method() -> None:
    method = MTT.replace(loss=Nearest(reach=5))
    assert Method.model_validate(json.loads(json.dumps(method.to_json()))) == method


def test_a_part_of_a_users_own_package_is_found_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_paper"
    package.mkdir()
    (package / "__init__.py").write_text("")
    classes = [
        "class Mine(FinalMatchingLoss):",
        "    reach: int = 2",
        "class Box:",
        "    class Inner(FinalMatchingLoss): ...",
    ]
    (package / "goals.py").write_text("\n".join(["from astdistill.methods import FinalMatchingLoss", *classes]))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValidationError, match=r"'my_paper.goals:Mine' is named by a file .* --trust my_paper.goals "):
        MatchingLoss.model_validate({"part": "my_paper.goals:Mine", "reach": 4})
    assert "my_paper" not in sys.modules
    with trusting("my_paper"):
        found = MatchingLoss.model_validate({"part": "my_paper.goals:Mine", "reach": 4})
    assert isinstance(found, FinalMatchingLoss)
    assert found.to_json() == {"part": "my_paper.goals:Mine", "origin": "expert", "reach": 4}
    inner = MatchingLoss.model_validate({"part": "my_paper.goals:Box.Inner"})  # a part that is here needs no import
    assert inner.to_json()["part"] == "my_paper.goals:Box.Inner"
    assert Method.model_validate(MTT.to_json() | {"loss": {"part": "my_paper.goals:Mine"}}).loss == type(found)()
    with pytest.raises(ValidationError, match="greed"):
        MatchingLoss.model_validate({"part": "my_paper.goals:Mine", "greed": 4})
    for name in ("my_paper.goals", "my_paper"):
        del sys.modules[name]  # monkeypatch would put it back


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (
            "no_such_package:Goal",
            r"Cannot import 'no_such_package:Goal' \(No module named 'no_such_package'\); write 'package.module:name'",
        ),
        ("astdistill.methods:NoGoal", r"Cannot import 'astdistill.methods:NoGoal' \(.*has no attribute 'NoGoal'"),
        ("astdistill.nothing", "Cannot import 'astdistill.nothing'"),
        ("", "Cannot import ''"),
        (".parts:Goal", "Cannot import '.parts:Goal'"),
    ],
)
def test_wrong_import_paths_are_answered_with_a_sentence(path: str, sentence: str) -> None:
    module = path.partition(":")[0]
    with trusting(module), pytest.raises(InputError, match=sentence):
        import_name(path)
    with trusting(module), pytest.raises(ValueError, match=sentence):
        MatchingLoss.model_validate({"part": path})


@pytest.mark.parametrize(
    "path", ["pathlib:Path", "json:dumps", "astdistill.methods:LogSyntheticLr", "astdistill.methods:MTT"]
)
def test_an_import_path_must_name_a_part_of_the_right_kind(path: str) -> None:
    named = trusting(path)
    with (
        named,
        pytest.raises(ValueError, match=rf"'{path}' is not a MatchingLoss; name a subclass as 'package.module:Class'"),
    ):
        MatchingLoss.model_validate({"part": path})


def test_an_instance_of_another_kind_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^Method\.loss cannot be WeightPerturbation\(.*\); give a value of MatchingLoss\.$"
    ):
        MTT.replace(loss=WeightPerturbation())


@pytest.mark.parametrize("path", FIRST_PATHS)
@pytest.mark.parametrize("package", ["astdistill.methods", "astdistill.methods.parts"])
def test_a_part_is_importable_by_its_name_in_earlier_versions(package: str, path: str) -> None:
    """With a warning that says the new one where there is one."""
    name, kind = path.rpartition(":")[2], find_component(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = importlib.import_module(package)
        caught.clear()
        assert getattr(module, name) is kind
    expected = (
        []
        if kind.__qualname__ == name
        else [f"{name} is now {kind.__qualname__}; the old name goes with the next release."]
    )
    assert [str(each.message) for each in caught] == expected
