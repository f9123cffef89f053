"""The experts of a run: how far they are, and their curves beside those of other stores of the same data and network,
kept with the run so that they outlive the stores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..experts.recipe import ExpertCurve, ExpertRecipe
from ..experts.store import TrajectoryStore
from ..runtime.errors import InputError
from ..runtime.files import read_json, read_lines, write_json
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
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
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
    curves = [{each: [float(value) for value in values] for each, values in curve.items()} for curve in entry["curves"]]
    return StoreCurves(name, bool(entry["own"]), [ExpertCurve(**curve) for curve in curves])


def _entry(store: TrajectoryStore, own: bool) -> dict[str, Any]:
    identity = store.identity
    about = {"own": own, "imported": bool(identity.imported), "recipe": identity.recipe.to_json()}
    return about | {"curves": [vars(curve) for curve in store.curves()]}


@dataclass(frozen=True)
class ExpertProgress:
    """Finished experts, epochs of all of them, and each one's last test accuracy in percent."""

    finished: int
    count: int
    epochs: int
    of: int
    accuracies: tuple[float, ...]


def _sound_epoch(line: dict[str, Any]) -> bool:
    """Whether a line of a store's log says which expert was tested after which epoch."""
    return int(line["expert"]) >= 0 <= int(line["epoch"]) and 0 <= float(line["test_accuracy"]) <= 100


def expert_progress(folder: Path, config: dict[str, Any], data: str | None) -> ExpertProgress | None:
    """How far the experts are that the run in `folder`, of these settings and on the data of that fingerprint, takes;
    None where their store is not begun, or is not seen from here."""
    store = _store_of(folder, config, data)
    if store is None:
        return None
    count, each = int(config["experts"]["count"]), _epochs(config)
    last = {line["expert"]: line for line in read_lines(store / "log.jsonl", _sound_epoch) if line["expert"] < count}
    numbers = [int(path.stem) for path in store.glob("*.safetensors") if path.stem.isdigit()]
    # One that stopped early has its file, and is on its way to a later epoch where its rows are being written again.
    under_way = {int(path.parent.name.partition(".")[0]) for path in store.glob("*.partial/rows.bin")}
    finished = {number for number in numbers if number < count} - under_way
    epochs = len(finished) * each + sum(
        int(line["epoch"]) + 1 for expert, line in last.items() if expert not in finished
    )
    accuracies = tuple(float(last[expert]["test_accuracy"]) for expert in sorted(last))
    return ExpertProgress(len(finished), count, min(epochs, count * each), count * each, accuracies)


def _epochs(config: dict[str, Any]) -> int:
    """How many epochs each expert is trained for, which a run notes as a number."""
    stop, whole = config["experts"].get("stop_after"), int(config["method"]["expert"]["epochs"])
    if isinstance(stop, int):
        return stop
    return whole


def _store_of(folder: Path, config: dict[str, Any], data: str | None) -> Path | None:
    """The folder whose experts are of the recipe, network, data, seed and type that the run names."""
    wanted = {
        "recipe": config["method"]["expert"],
        "model": config["model"],
        "fingerprint": data,
        "seed": config["experts"]["seed"],
        "dtype": config["experts"]["dtype"],
    }
    # A relative store is meant from where the run was started, which is often a folder above the run's.
    for root in (Path(), *folder.resolve().parents):
        for recipe in sorted((root / config["experts"]["store"]).glob("*/recipe.json")):
            if recipe.parent.name == config["experts"].get("imported") or wanted.items() <= _identity(recipe).items():
                return recipe.parent
    return None


def _identity(recipe: Path) -> dict[str, Any]:
    """Whose experts a store says that it holds; empty where it cannot be read."""
    try:
        identity = read_json(recipe).get("identity", {})
    except InputError:
        return {}
    if isinstance(identity, dict):
        return identity
    return {}
