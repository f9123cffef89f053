"""The curves of a run's experts, saved with the run so that they do not depend on the store."""

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
    """The curves of the experts that a run used, with a name that describes their training."""

    name: str
    curves: list[ExpertCurve]


def described(recipe: ExpertRecipe) -> str:
    """A description of the recipe, for example `momentum 0.9, clipping, penalty 2`; `plain SGD` for MTT's."""
    features = {
        "Adam": recipe.optimiser == "adam",
        f"momentum {recipe.momentum:g}": recipe.momentum,
        "clipping": recipe.clipped_epochs,
        f"penalty {recipe.penalty:g}{' per pixel' * (recipe.penalty_form == 'pixel')}": recipe.penalty,
        f"{'adaptive ' * recipe.adaptive_sam}sharpness {recipe.sam_rho:g}": recipe.sam_rho,
    }
    return ", ".join(name for name, used in features.items() if used) or "plain SGD"


def record_experts(experts: TrajectoryStore, out: Path) -> None:
    """Write `out`/experts.json: the curves of the experts that a run used."""
    identity = experts.identity
    about = {"own": True, "imported": bool(identity.imported), "recipe": identity.recipe.to_json()}
    write_json(RunDir(out).experts, {"stores": [about | {"curves": [vars(curve) for curve in experts.curves()]}]})


def read_experts(out: Path) -> StoreCurves | None:
    """Read the curves of the run's own experts that `record_experts` wrote; None if there are none, or if their lengths
    differ.

    Earlier versions also wrote the other stores of the same data and network, which are ignored. Raises InputError if
    the file has another format.
    """
    path = RunDir(out).experts
    if not path.exists():
        return None
    try:
        stores = [_store_curves(entry) for entry in read_json(path)["stores"] if entry["own"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} does not hold the curves of experts ({error}); "
            "delete it, and the run's own command writes it again."
        ) from error
    lengths = {len(curve.step_squared) for each in stores for curve in each.curves}
    if len(stores) != 1 or len(lengths) != 1:
        return None
    return stores[0]


def _store_curves(entry: dict[str, Any]) -> StoreCurves:
    name = "imported"
    if not entry["imported"]:
        name = described(ExpertRecipe.model_validate(entry["recipe"]))
    curves = [{each: [float(value) for value in values] for each, values in curve.items()} for curve in entry["curves"]]
    return StoreCurves(name, [ExpertCurve(**curve) for curve in curves])
