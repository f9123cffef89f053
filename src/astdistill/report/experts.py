"""The curves of a run's experts beside those of other stores of the same data and network, kept with the run so that
they outlive the stores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..experts.recipe import ExpertCurve, ExpertRecipe
from ..experts.store import TrajectoryStore
from ..runtime.errors import InputError
from ..runtime.files import read_json, write_json
from ..runtime.run_dir import RunDir


@dataclass(frozen=True)
class StoreCurves:
    """The experts of one store, and whether they are the ones that the run followed."""

    name: str
    own: bool
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
    """Write `out`/experts.json: the curves of these experts, and those of every store beside theirs with the same data
    and network."""
    own = experts.identity
    stores = [_entry(experts, True)]
    for place in sorted(experts.folder.parent.glob("*/recipe.json")):
        if place.parent == experts.folder:
            continue
        try:
            store = TrajectoryStore.open(place.parent)
            related = (store.identity.fingerprint, store.identity.model) == (own.fingerprint, own.model)
            if related and len(store):
                stores.append(_entry(store, False))
        except (InputError, ValueError):
            continue  # another version's store, or a broken one, is no reason to stop a run
    write_json(RunDir(out).experts, {"stores": stores})


def read_experts(out: Path) -> list[StoreCurves]:
    """What `record_experts` wrote, the run's own first; empty where it did not. Stores without experts of equal length
    are left out.

    Raises InputError for a file of that name that something else wrote.
    """
    path = RunDir(out).experts
    if not path.exists():
        return []
    try:
        stores = [_store_curves(entry) for entry in read_json(path)["stores"]]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} does not hold the curves of experts ({error}); "
            "delete it, and the run's own command writes it again."
        ) from error
    names = [each.name for each in stores]
    for number, name in enumerate(names):
        if name in names[:number]:
            stores[number] = replace(stores[number], name=f"{name} ({names[: number + 1].count(name)})")
    return [each for each in stores if len({len(curve.step_squared) for curve in each.curves}) == 1]


def _store_curves(entry: dict[str, Any]) -> StoreCurves:
    name = "imported"
    if not entry["imported"]:
        name = described(ExpertRecipe.model_validate(entry["recipe"]))
    return StoreCurves(name, entry["own"], [ExpertCurve(**curve) for curve in entry["curves"]])


def _entry(store: TrajectoryStore, own: bool) -> dict[str, Any]:
    identity = store.identity
    about = {"own": own, "imported": bool(identity.imported), "recipe": identity.recipe.to_json()}
    return about | {"curves": [vars(curve) for curve in store.curves()]}
