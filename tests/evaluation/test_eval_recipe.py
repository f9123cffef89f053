from __future__ import annotations

import pytest

from astdistill.evaluation.protocol import AST_RELEASED_PROTOCOL, MTT_PROTOCOL, PROTOCOLS, EvalRecipe, protocol
from astdistill.runtime.errors import InputError


def test_mtt_protocol_has_the_published_values() -> None:
    expected = {
        "epochs": 1000,
        "released_count": True,
        "batch": 256,
        "lr": None,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "decay_at": 0.5,
        "decay_factor": 0.1,
        "momentum_after": None,
        "augmentation": None,
        "check_every": 0,
        "reported": "final",
    }
    assert {name: getattr(MTT_PROTOCOL, name) for name in expected} == expected


def test_ast_as_released_differs_from_mtt_only_where_the_script_does() -> None:
    changed = {
        name for name in EvalRecipe.model_fields if getattr(MTT_PROTOCOL, name) != getattr(AST_RELEASED_PROTOCOL, name)
    }
    assert changed == {"name", "weight_decay", "decay_factor", "momentum_after", "check_every", "reported"}
    assert AST_RELEASED_PROTOCOL.weight_decay == 1e-3
    assert (AST_RELEASED_PROTOCOL.decay_factor, AST_RELEASED_PROTOCOL.momentum_after) == (0.5, 0.8)
    assert (AST_RELEASED_PROTOCOL.check_every, AST_RELEASED_PROTOCOL.reported) == (20, "best")


def test_protocols_are_found_by_name_and_a_typo_names_the_nearest() -> None:
    names = {"MTT", "AST as released", "DATM as released", "DC", "TGDD", "NCFM", "RaT-BPTT", "RDED"}
    assert {protocol(name).name for name in PROTOCOLS} == names
    with pytest.raises(InputError, match="Did you mean 'ast-released'"):
        protocol("ast-relaesed")


def test_datm_as_released_is_mtts_with_smaller_batches() -> None:
    assert protocol("datm-released") == MTT_PROTOCOL.replace(name="DATM as released", batch=128)


@pytest.mark.parametrize(("epochs", "share", "first"), [(1000, 0.5, 501), (300, 0.5, 151), (5, 0.5, 3), (10, 1.0, 11)])
def test_the_rate_drops_after_epochs_half_plus_one(epochs: int, share: float, first: int) -> None:
    own = EvalRecipe(name="own", epochs=epochs, decay_at=share)
    assert (own.decays_at, own.passes) == (first, epochs)
    released = MTT_PROTOCOL.replace(epochs=epochs, decay_at=share)
    assert (released.decays_at, released.passes) == (first + 1, epochs + 1)


def test_recipes_of_earlier_versions_count_as_they_did() -> None:
    """So that their scores keep their keys, and nothing of 1000 passes is taken for something of 1001."""
    before = {name: value for name, value in MTT_PROTOCOL.to_json().items() if name != "released_count"}
    read = EvalRecipe.model_validate(before)
    assert read.to_json() == before
    assert read.passes == 1000
    assert read != MTT_PROTOCOL
    assert EvalRecipe.model_validate(MTT_PROTOCOL.to_json()) == MTT_PROTOCOL


def test_full_data_may_run_fewer_epochs() -> None:
    assert MTT_PROTOCOL.replace(full_epochs=30).for_full_data() == MTT_PROTOCOL.replace(epochs=30)
    assert MTT_PROTOCOL.for_full_data() == MTT_PROTOCOL


def test_a_mistyped_augmentation_is_refused_before_any_training() -> None:
    with pytest.raises(ValueError, match="Did you mean 'flip'"):
        EvalRecipe(name="wrong", augmentation="color_flop")


def test_a_best_of_no_checks_is_refused() -> None:
    with pytest.raises(ValueError, match="check_every"):
        EvalRecipe(name="wrong", reported="best")


def test_full_data_take_the_steps_of_a_protocol_that_counts_them() -> None:
    recipe = PROTOCOLS["rat"].replace(full_epochs=50)
    assert recipe.epochs_on_full_data is None
    assert recipe.for_full_data().steps == PROTOCOLS["rat"].steps
    assert MTT_PROTOCOL.replace(full_epochs=30).epochs_on_full_data == 30
