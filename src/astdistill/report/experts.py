"""The curves of a run's experts, kept with the run so that they outlive the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..experts.recipe import ExpertCurve, ExpertRecipe
from ..experts.store import TrajectoryStore
from ..runtime.errors import InputError
from ..runtime.files import read_json, write_json
from ..runtime.run_dir import RunDir


@dataclass(frozen=True)
class StoreCurves:
    """The experts that a run followed, under a name that says how they were trained."""

    name: str
    curves: list[ExpertCurve]


def described(recipe: ExpertRecipe) -> str:
    """What sets the recipe apart, for example `momentum 0.9, clipping, penalty 2`; `plain SGD` for MTT's."""
    words = {
        "Adam": recipe.optimiser == "adam",
        f"momentum {recipe.momentum:g}": recipe.momentum,
        "clipping": recipe.clipped_epochs,
        f"penalty {recipe.penalty:g}{' per pixel' * (recipe.penalty_form == 'pixel')}": recipe.penalty,
        f"{'adaptive ' * recipe.adaptive_sam}sharpness {recipe.sam_rho:g}": recipe.sam_rho,
    }
    return ", ".join(word for word, used in words.items() if used) or "plain SGD"


def record_experts(experts: TrajectoryStore, out: Path) -> None:
    """Write `out`/experts.json: the curves of these experts, which a run followed."""
    identity = experts.identity
    about = {"own": True, "imported": bool(identity.imported), "recipe": identity.recipe.to_json()}
    write_json(RunDir(out).experts, {"stores": [about | {"curves": [vars(curve) for curve in experts.curves()]}]})


def read_experts(out: Path) -> StoreCurves | None:
    """What `record_experts` wrote of the run's own experts; None where it did not, or where they are of unequal length.

    Earlier versions wrote the other stores of the same data and network beside them, which are passed over. Raises
    InputError for a file of that name that something else wrote.
    """
    path = RunDir(out).experts
    if not path.exists():
        return None
    try:
        own = [_store_curves(entry) for entry in read_json(path)["stores"] if entry["own"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} does not hold the curves of experts ({error}); "
            "delete it, and the run's own command writes it again."
        ) from error
    lengths = {len(curve.step_squared) for each in own for curve in each.curves}
    if len(own) != 1 or len(lengths) != 1:
        return None
    return own[0]


def _store_curves(entry: dict[str, Any]) -> StoreCurves:
    name = "imported"
    if not entry["imported"]:
        name = described(ExpertRecipe.model_validate(entry["recipe"]))
    curves = [{each: [float(value) for value in values] for each, values in curve.items()} for curve in entry["curves"]]
    return StoreCurves(name, [ExpertCurve(**curve) for curve in curves])
