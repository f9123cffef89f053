"""The plan of several whole runs: preset × method × settings × seed, the seeds of one run, or an ablation."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ..methods.method import PARTS
from ..report.sweep import SweepRow
from ..runtime.config import Record, renamed_fields
from ..runtime.errors import InputError, refused, unknown
from ..runtime.run_dir import flat
from .config import MOVED, Experiment, ExpertSettings, expert_epochs
from .presets import with_method

NONE = "none of the six"
COUNTED = "evaluation.recipe.epochs", "evaluation.recipe.full_epochs"
"""Numbers of epochs, which a protocol that counts steps does not read."""
Settings = Mapping[str, Sequence[Any]]
"""Dotted names of settings with the values that each takes."""


@dataclass(frozen=True)
class Row:
    """One whole run of the plan: its folder in that of the sweep, its line in the table, and all that decides it."""

    folder: str
    preset: str
    method: str
    settings: str
    experiment: Experiment

    def waiting(self) -> SweepRow:
        """The row, not run yet."""
        return SweepRow(
            folder=self.folder,
            preset=self.preset,
            method=self.method,
            settings=self.settings,
            seed=self.experiment.seed,
            decisive=decisive(self.experiment),
        )


def decisive(experiment: Experiment) -> str:
    """A digest of what decides the result, which neither the machine nor the place of the experts does."""
    experts = experiment.experts.replace(store=ExpertSettings().store)
    return experiment.replace(device="auto", workers=None, engine="auto", experts=experts).digest()


def seeded(experiment: Experiment, number: int) -> Experiment:
    """The experiment with the `number`-th whole-run seed: its own experts, draws and evaluated networks."""
    experts = experiment.experts.replace(seed=experiment.experts.seed + number)
    return experiment.replace(seed=experiment.seed + number, experts=experts)


def without_baselines(experiment: Experiment) -> Experiment:
    """The same without rows of real images, which another run has."""
    return experiment.replace(evaluation=experiment.evaluation.replace(baselines=()))


def over_seeds(experiment: Experiment, seeds: int) -> tuple[Row, ...]:
    """The rows of `run --seeds`."""
    runs = [seeded(experiment, number) for number in range(seeds)]
    return tuple(Row(f"seed-{each.seed}", each.name, each.method.name, "", each) for each in runs)


def variants(experiment: Experiment) -> dict[str, Experiment]:
    """The experiment whole, without each part that its method has, and without all of them. Raises InputError if it has
    none."""
    method = experiment.method
    on = {part: without for part in PARTS if (without := method.without(part)) != method}
    if not on:
        raise InputError(
            f"'{method.name}' has none of AST's six parts ({', '.join(PARTS)}); name a --base whose method is ast."
        )
    none = method
    for part in on:
        none = none.without(part)
    methods = {method.name: method} | {f"without {part}": without for part, without in on.items()}
    if len(on) > 1:
        methods[NONE] = none
    return {name: experiment.replace(method=each) for name, each in methods.items()}


def ablation(experiment: Experiment, seeds: int) -> tuple[Row, ...]:
    """The rows of `run ablation`: every variant with every seed, without baselines, seed after seed, so that one which
    is stopped has whole rounds."""
    return tuple(
        Row(
            f"{name.replace(' ', '-')}-seed{experiment.seed + number}",
            experiment.name,
            name,
            "",
            without_baselines(seeded(variant, number)),
        )
        for number in range(seeds)
        for name, variant in variants(experiment).items()
    )


def table(
    bases: Sequence[Experiment], methods: Sequence[str] = (), seeds: int = 3, settings: Settings | None = None
) -> tuple[Row, ...]:
    """The rows of a sweep: each experiment by each method (its own, where none is named), with each combination of
    settings and each seed, seed after seed.

    Real images are evaluated with the first method alone, as they do not depend on it. Raises InputError for unknown
    methods and settings, and for values that cannot be.
    """
    if seeds < 1:
        raise InputError(f"{seeds} seeds were asked for; choose 1 or more, and 3 for a spread.")
    twice = next((name for number, name in enumerate(methods) if name in methods[:number]), None)
    if twice is not None:
        raise InputError(f"The method {twice} was named twice; name each method once.")
    rows = list[Row]()
    for number, base in itertools.product(range(seeds), bases):
        names = list(methods) or [base.method.name]
        for name, (words, changes) in itertools.product(names, list(_combinations(settings or {}))):
            each = seeded(with_settings(with_method(base, name), changes), number)
            if name != names[0]:
                each = without_baselines(each)
            folder = "-".join(filter(None, [base.name, name, words.replace(", ", "-"), f"seed{each.seed}"]))
            rows.append(Row(re.sub(r"[^\w.+=-]+", "_", folder), base.name, name, words, each))
    _check_distinct(rows)
    return tuple(rows)


def _check_distinct(rows: Sequence[Row]) -> None:
    folders = [row.folder for row in rows]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise InputError(f"Two rows of the sweep would be {twice}; name each preset and each value once.")


def _combinations(settings: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    """What varies in words, and one value of each setting."""
    for name, values in settings.items():
        if not values:
            raise InputError(f"The setting {name} was given no value; write {name}=VALUE, or {name}=ONE,ANOTHER.")
    for values in itertools.product(*settings.values()):
        chosen = dict(zip(settings, values, strict=True))
        words = [f"{name.rpartition('.')[2]}={value}" for name, value in chosen.items() if len(settings[name]) > 1]
        yield ", ".join(words), chosen


def with_settings(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """The experiment with settings by their dotted names, also those of earlier versions. Raises InputError for names
    that it has not, and for values that cannot be."""
    for name, value in changes.items():
        path = MOVED.get(name.replace("-", "_"), name.replace("-", "_"))
        try:
            experiment = _with_setting(experiment, path.split("."), value, path, experiment)
        except ValidationError as error:
            raise refused(error, path.rpartition(".")[0]) from error
        if path in COUNTED:
            experiment.evaluation.recipe.check_epochs(f"{path}={value}")
    return experiment


def _with_setting(record: Any, path: Sequence[str], value: Any, name: str, whole: Experiment) -> Any:
    own = renamed_fields(type(record)).get(path[0], path[0])
    inner = getattr(record, own, None)
    known = own in type(record).model_fields and isinstance(inner, Record) == (len(path) > 1)
    if not known:
        raise unknown("setting", name, flat(whole.to_json()), "astdistill run PRESET --help-all")
    if len(path) > 1:
        value = _with_setting(inner, path[1:], value, name, whole)
    elif isinstance(inner, tuple) and isinstance(value, str):
        value = tuple(filter(None, value.split("+")))
    return record.replace(**{own: value})


@dataclass(frozen=True)
class Shared:
    """Experts that several rows follow, as the one experiment that trains all of them; or rows without experts."""

    experiment: Experiment
    rows: tuple[Row, ...]

    @property
    def trained(self) -> bool:
        """Whether there are any that are not imported."""
        return self.experiment.method.expert is not None and self.experiment.experts.imported is None


def shared_experts(rows: Sequence[Row]) -> list[Shared]:
    """The rows by the experts that they follow: enough experts, of enough epochs, for all of them."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(_experts_of(row.experiment), []).append(row)
    return [Shared(_widest([row.experiment for row in members]), tuple(members)) for members in groups.values()]


def _experts_of(experiment: Experiment) -> object:
    """What tells the store of one experiment from that of another."""
    wanted, recipe = experiment.experts, ""
    if experiment.method.expert is not None:
        recipe = experiment.method.recipe.digest()
    place = str(wanted.store), wanted.imported, wanted.seed, wanted.dtype
    return experiment.data.digest(), experiment.model, recipe, place


def _widest(experiments: Sequence[Experiment]) -> Experiment:
    first = experiments[0]
    if first.method.expert is None or first.experts.imported is not None:
        return first
    count = max(each.experts.count for each in experiments)
    epochs = max(map(expert_epochs, experiments))
    return first.replace(experts=first.experts.replace(count=count, stop_after=epochs))


def title_of(rows: Sequence[Row]) -> str:
    """How much a sweep is of."""
    counts = {
        "preset": {row.preset for row in rows},
        "method": {row.method for row in rows},
        "setting": {row.settings for row in rows},
        "seed": {row.experiment.seed for row in rows},
    }
    words = [f"{len(values)} {kind}{'s' * (len(values) > 1)}" for kind, values in counts.items() if len(values) > 1]
    if len(counts["preset"]) == 1:
        words = [" × ".join(words) or "1 run", f"on {rows[0].preset}"]
        return " ".join(words)
    return " × ".join(words)
