"""The plan of several whole runs: preset × method × settings × seed, the seeds of one run, or an ablation."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from ..methods.method import PARTS
from ..methods.registry import methods as all_methods
from ..report.sweep import SweepRow
from ..runtime.config import Record, renamed_fields
from ..runtime.errors import InputError, refused, unknown
from .config import MOVED, Experiment, ExpertSettings, expert_epochs, value_of, with_value
from .presets import with_method

NONE = "none of the six"
COUNTED = "evaluation.recipe.epochs", "evaluation.recipe.full_epochs"
"""Settings for a number of epochs, which a protocol that counts steps does not read."""
Settings = Mapping[str, Sequence[Any]]
"""Dotted names of settings with the values that each takes."""


@dataclass(frozen=True)
class Row:
    """One whole run of the plan: its folder inside that of the sweep, its line in the table, and its settings."""

    folder: str
    preset: str
    method: str
    settings: str
    experiment: Experiment

    def waiting(self) -> SweepRow:
        """The row in the state 'waiting', before it is run."""
        return SweepRow(
            folder=self.folder,
            preset=self.preset,
            method=self.method,
            settings=self.settings,
            seed=self.experiment.seed,
            decisive=decisive(self.experiment),
        )


def decisive(experiment: Experiment) -> str:
    """Digest of the settings that affect the result, which excludes the machine and the location of the experts."""
    experts = experiment.experts.replace(store=ExpertSettings().store)
    return experiment.replace(device="auto", workers=None, engine="auto", experts=experts).digest()


def seeded(experiment: Experiment, number: int) -> Experiment:
    """The experiment with `number` added to its seeds: other experts, random draws and evaluated networks."""
    experts = experiment.experts.replace(seed=experiment.experts.seed + number)
    return experiment.replace(seed=experiment.seed + number, experts=experts)


def without_baselines(experiment: Experiment) -> Experiment:
    """The experiment without baselines of real images, which another run evaluates."""
    return experiment.replace(evaluation=experiment.evaluation.replace(baselines=()))


def over_seeds(experiment: Experiment, seeds: int) -> tuple[Row, ...]:
    """The rows of `run --seeds`."""
    runs = [seeded(experiment, number) for number in range(seeds)]
    return tuple(Row(f"seed-{each.seed}", each.name, each.method.name, "", each) for each in runs)


def variants(experiment: Experiment) -> dict[str, Experiment]:
    """The experiment with all parts of its method, without each of them, and without all of them. Raises InputError if
    the method has no parts."""
    method = experiment.method
    reduced = {part: without for part in PARTS if (without := method.without(part)) != method}
    if not reduced:
        raise InputError(
            f"'{method.name}' has none of AST's six parts ({', '.join(PARTS)}); name a --base whose method is ast."
        )
    bare = method
    for part in reduced:
        bare = bare.without(part)
    methods = {method.name: method} | {f"without {part}": without for part, without in reduced.items()}
    if len(reduced) > 1:
        methods[NONE] = bare
    return {name: experiment.replace(method=each) for name, each in methods.items()}


def ablation(experiment: Experiment, seeds: int) -> tuple[Row, ...]:
    """The rows of `run ablation`: every variant with every seed, without baselines. They are ordered by seed, so that a
    stopped ablation has complete rounds."""
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
    """The rows of a sweep: each experiment with each method (its own if `methods` is empty), each combination of
    settings and each seed, ordered by seed.

    Real images are evaluated with the first method only, because they do not depend on it. Raises InputError for
    unknown methods and settings, and for invalid values.
    """
    if seeds < 1:
        raise InputError(f"{seeds} seeds were asked for; choose 1 or more, and 3 for a spread.")
    duplicate = next((name for number, name in enumerate(methods) if name in methods[:number]), None)
    if duplicate is not None:
        raise InputError(f"The method {duplicate} was named twice; name each method once.")
    _check_settings(bases, methods, settings or {})
    rows = list[Row]()
    for number, base in itertools.product(range(seeds), bases):
        names = list(methods) or [base.method.name]
        for name, (label, changes) in itertools.product(names, list(_combinations(settings or {}))):
            experiment = seeded(with_settings(with_method(base, name), changes), number)
            if name != names[0]:
                experiment = without_baselines(experiment)
            folder = "-".join(filter(None, [base.name, name, label.replace(", ", "-"), f"seed{experiment.seed}"]))
            rows.append(Row(re.sub(r"[^\w.+=-]+", "_", folder), base.name, name, label, experiment))
    _check_distinct(rows)
    return tuple(rows)


def _check_distinct(rows: Sequence[Row]) -> None:
    folders = [row.folder for row in rows]
    duplicate = next((folder for folder in folders if folders.count(folder) > 1), None)
    if duplicate is not None:
        raise InputError(f"Two rows of the sweep would be {duplicate}; name each preset and each value once.")


def _combinations(settings: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each combination of settings: a label of the values that vary, and one value per setting."""
    for name, values in settings.items():
        if not values:
            raise InputError(f"The setting {name} was given no value; write {name}=VALUE, or {name}=ONE,ANOTHER.")
    for values in itertools.product(*settings.values()):
        chosen = dict(zip(settings, values, strict=True))
        labels = [f"{name.rpartition('.')[2]}={value}" for name, value in chosen.items() if len(settings[name]) > 1]
        yield ", ".join(labels), chosen


def setting_path(name: str, experiment: Experiment) -> str:
    """The dotted name of a setting today, given its typed name, which may be one of an earlier version."""
    path, names = name.replace("-", "_"), list[str]()
    record: Any = experiment
    for part in MOVED.get(path, path).split("."):
        names.append(renamed_fields(type(record)).get(part, part))
        record = getattr(record, names[-1], None)
    return ".".join(names)


def setting_names(record: Record, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings in a record. A record that is None, as the experts of a method without
    any, has none."""
    for name, info in type(record).model_fields.items():
        value = getattr(record, name)
        if isinstance(value, Record):
            yield from setting_names(value, f"{prefix}{name}.")
        elif not _holds_record(info.annotation):
            yield prefix + name


def _holds_record(annotation: Any) -> bool:
    """Whether a type is a class of records, or may be one, as in `Record | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return True
    return any(map(_holds_record, get_args(annotation)))


def with_settings(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """The experiment with settings changed by their dotted names; names of earlier versions are accepted. Raises
    InputError for unknown names and for invalid values."""
    for name, value in changes.items():
        path = setting_path(name, experiment)
        if path not in setting_names(experiment):
            raise _unknown_setting(name, path, experiment)
        if isinstance(value, str) and isinstance(value_of(experiment, path), tuple):
            value = tuple(filter(None, value.split("+")))
        try:
            experiment = with_value(experiment, path, value)
        except ValidationError as error:
            raise _refused_value(error, path) from error
        if path in COUNTED:
            experiment.evaluation.recipe.check_epochs(f"{path}={value}")
    return experiment


def _refused_value(error: ValidationError, path: str) -> InputError:
    """The error for a value that a setting does not accept. One that a record raised itself names its flags."""
    message = str(refused(error, path.rpartition(".")[0]))
    if message.startswith(path):
        message = f"--set {message}"
    return InputError(message)


def _unknown_setting(name: str, path: str, experiment: Experiment) -> InputError:
    """The error for a name that is no setting of the experiment: of no experiment, or of those by other methods."""
    having = [each for each in all_methods() if path in setting_names(with_method(experiment, each))]
    if having:
        return InputError(
            f"The method {experiment.method.name} has no setting '{path}'; leave out --set {name}, or choose a method "
            f"that has it: --methods {having[0]}"
        )
    names = [each for each in setting_names(experiment) if each != "name" and not each.startswith("published.")]
    return unknown("setting", path, names, "astdistill run PRESET --help-all", context="for --set")


def _check_settings(bases: Sequence[Experiment], names: Sequence[str], settings: Settings) -> None:
    """Raise InputError for a setting that is given under two names, and for one that only some of the methods have."""
    runs = [(base.name, with_method(base, name)) for base in bases for name in names or [base.method.name]]
    if not runs:
        return
    paths = [setting_path(each, runs[0][1]) for each in settings]
    duplicates = [each for each, path in zip(settings, paths, strict=True) if paths.count(path) > 1]
    if duplicates:
        raise InputError(f"{' and '.join(duplicates[:2])} are names of one setting; leave out {duplicates[0]}.")
    for setting, values in settings.items():
        having = [run for run in runs if setting_path(setting, run[1]) in setting_names(run[1])]
        lacking = [run for run in runs if run not in having]
        if having and lacking:
            raise _partial_setting(setting, values, having, lacking, bool(names))


def _partial_setting(
    setting: str,
    values: Sequence[Any],
    having: Sequence[tuple[str, Experiment]],
    lacking: Sequence[tuple[str, Experiment]],
    by_method: bool,
) -> InputError:
    """The error for a setting that only some runs have, with the command of these alone."""
    without, kept = ([each.method.name for _, each in runs] for runs in (lacking, having))
    kept = [name for name in dict.fromkeys(kept) if name not in without]
    command = ["astdistill", "sweep", *dict.fromkeys(name for name, _ in having)]
    if by_method:
        command += ["--methods", ",".join(kept)]
    command += ["--set", f"{setting}={','.join(map(str, values))}"]
    return InputError(
        f"The method {without[0]} has no setting '{setting_path(setting, having[0][1])}'; sweep it with "
        f"{' and '.join(kept)} alone: {shlex.join(command)}"
    )


@dataclass(frozen=True)
class Shared:
    """Rows that use the same experts, with one experiment that trains all of these; or rows without experts."""

    experiment: Experiment
    rows: tuple[Row, ...]

    @property
    def trained(self) -> bool:
        """Whether there are experts that are trained, not imported."""
        return self.experiment.method.expert is not None and self.experiment.experts.imported is None


def shared_experts(rows: Sequence[Row]) -> list[Shared]:
    """Group the rows by their experts. The experiment of each group trains enough experts for enough epochs for all its
    rows."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(_experts_key(row.experiment), []).append(row)
    return [Shared(_widest([row.experiment for row in members]), tuple(members)) for members in groups.values()]


def _experts_key(experiment: Experiment) -> object:
    """A key that is equal for experiments with the same expert store."""
    settings, recipe = experiment.experts, ""
    if experiment.method.expert is not None:
        recipe = experiment.method.recipe.digest()
    store = str(settings.store), settings.imported, settings.seed, settings.dtype
    return experiment.data.digest(), experiment.model, recipe, store


def _widest(experiments: Sequence[Experiment]) -> Experiment:
    first = experiments[0]
    if first.method.expert is None or first.experts.imported is not None:
        return first
    count = max(each.experts.count for each in experiments)
    epochs = max(map(expert_epochs, experiments))
    return first.replace(experts=first.experts.replace(count=count, stop_after=epochs))


def title_of(rows: Sequence[Row]) -> str:
    """Title of a sweep: the numbers of its presets, methods, settings and seeds."""
    counts = {
        "preset": {row.preset for row in rows},
        "method": {row.method for row in rows},
        "setting": {row.settings for row in rows},
        "seed": {row.experiment.seed for row in rows},
    }
    parts = [f"{len(values)} {kind}{'s' * (len(values) > 1)}" for kind, values in counts.items() if len(values) > 1]
    if len(counts["preset"]) == 1:
        parts = [" × ".join(parts) or "1 run", f"on {rows[0].preset}"]
        return " ".join(parts)
    return " × ".join(parts)
