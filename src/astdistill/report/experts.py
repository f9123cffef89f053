"""The experts of a run: how far they are, and their curves, kept with the run so that they outlive the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..experts.recipe import ExpertCurve, ExpertRecipe
from ..experts.store import TrajectoryStore
from ..runtime.errors import InputError
from ..runtime.files import read_json, read_lines, write_json
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
