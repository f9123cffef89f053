"""Checks of settings before data are read: errors for contradictions, and warnings for settings without an effect.

Only typed values are checked, never those of a preset.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data import medmnist
from ..data.dataset import DataConfig
from ..data.selection import NUMBER, ClassChoice, chosen_labels
from ..data.synthetic import load
from ..experiment.config import Experiment
from ..experiment.cost import NAMED, DatasetSize
from ..experiment.plan import Row, setting_path
from ..experiment.presets import preset
from ..methods.initialisation import FileInit
from ..methods.method import Method
from ..runtime.config import Record, renamed_fields
from ..runtime.errors import InputError, flag_name
from ..runtime.files import warn
from .flags import Flag, Positional

TEACHER_SETTINGS = ("experts.seed", "experts.store")
"""Settings that find a teacher. They always have an effect, because the evaluation of any method may use its labels."""
TypedValues = Sequence[tuple[Flag | Positional, Any]]
"""Typed flags and positional arguments with their values."""


def accepts_folder(check: Callable[[], object], typed: bool) -> bool:
    """Whether `check` accepts the folder of a dry run. An estimate needs none: where the user typed no folder, an
    InputError is a warning, and is raised otherwise."""
    try:
        check()
    except InputError as error:
        if typed:
            raise
        warn(str(error))
        return False
    return True


def without_part(method: Method, part: str) -> Method:
    """The method without one of AST's parts. Raises InputError if it has no such part to leave out."""
    reduced = method.without(part)
    if reduced == method:
        raise InputError(
            f"--without {part} was given, but the method {method.name} has no such part, or it was left out already; "
            f"leave out --without {part}."
        )
    return reduced


def check_once(flag: str, names: Sequence[str]) -> None:
    """Raise InputError if a flag has the same name twice."""
    duplicate = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if duplicate is not None:
        raise InputError(f"{flag} names '{duplicate}' twice; name it once.")


@dataclass(frozen=True)
class Reads:
    """The settings that a command reads and does not read, by their dotted names, where that differs from a run."""

    always: tuple[str, ...] = ()
    """Settings that it reads whatever the others are."""
    never: tuple[str, ...] = ()
    """Settings, and records of them, that it does not read."""

    def ignores(self, name: str) -> bool:
        """Whether the command does not read the setting of that dotted name."""
        return any(name == each or name.startswith(f"{each}.") for each in self.never)


AS_A_RUN = Reads()


def typed_names(
    typed: TypedValues, parts: Sequence[str] = (), protocol: str | None = None
) -> dict[str, tuple[str, Any]]:
    """The dotted names of typed settings, each with its flag and value.

    Args:
        typed: Flags with their values.
        parts: Components that `--part` has put into the method: FIELD=NAME.
        protocol: The evaluation protocol that `--protocol` names.
    """
    by_name = {".".join(param.place[1:]): (param.flag, value) for param, value in typed if isinstance(param, Flag)}
    new_names = renamed_fields(Method)
    by_name |= {f"method.{new_names.get(field := part.partition('=')[0], field)}": ("--part", part) for part in parts}
    if protocol is not None:
        by_name["evaluation.recipe"] = ("--protocol", protocol)
    return by_name


def check_typed(
    experiment: Experiment, by_name: Mapping[str, tuple[str, Any]], base: Experiment, verb: str, reads: Reads
) -> None:
    """Raise InputError for typed values that contradict other settings. Warn of typed values without an effect, and of
    missing settings that are usual with the typed ones.

    Args:
        experiment: The experiment with all typed values.
        by_name: What `typed_names` returns.
        base: The preset, or the proposal in place of one.
        verb: The command.
        reads: What it reads.
    """
    check_once("--evaluation.architectures", experiment.evaluation.architectures)
    check_once("--evaluation.baselines", experiment.evaluation.baselines)
    interval, iterations = experiment.distill.validate_every, experiment.distill.iterations
    if "distill.validate_every" in by_name and interval > iterations:
        raise InputError(
            f"--distill.validate-every {interval} was given, but the run has {iterations} outer steps, so that no set "
            f"would be validated; choose 1 to {iterations}, or 0 for no validation."
        )
    if unused := [_as_typed(*value) for name, value in by_name.items() if reads.ignores(name)]:
        warn(f"astdistill {verb} does not use {', '.join(unused)}; give {_it(unused)} to: astdistill run")
    others = {name: value for name, value in by_name.items() if name not in reads.always and not reads.ignores(name)}
    for note in typed_notes(experiment, others, base):
        warn(note)


def sweep_notes(rows: Sequence[Row], settings: Iterable[str]) -> tuple[str, ...]:
    """The notes on the settings of a sweep, each once, for the methods of all rows.

    Args:
        rows: The rows of the sweep.
        settings: The names of the settings, as typed.
    """
    names = list(settings)
    notes = (
        note
        for row in rows
        for note in typed_notes(
            row.experiment,
            {setting_path(name, row.experiment): (f"--set {name}", "") for name in names},
            preset(row.preset),
        )
    )
    return tuple(dict.fromkeys(notes))


def typed_notes(experiment: Experiment, by_name: Mapping[str, tuple[str, Any]], base: Experiment) -> Iterator[str]:
    """Notes on typed values without an effect, and on missing settings that are usual with the typed ones.

    Args:
        experiment: The experiment with all typed values.
        by_name: Dotted names of the typed settings, each with its flag and value.
        base: The preset, or the proposal in place of one.
    """
    unused = [_as_typed(*value) for name, value in by_name.items() if _has_no_effect(name, experiment)]
    if unused:
        verb = ("has", "have")[len(unused) > 1]
        yield (
            f"{', '.join(unused)} {verb} no effect with the method {experiment.method.name} and the other settings; "
            f"leave {_it(unused)} out, or see --help-all for what is needed."
        )
    if usual := dict(_missing_usual(experiment, base, by_name)):
        pairs = [
            f"{flag_name(f'distill.{name}')} {_format_value(value)} (this run: "
            f"{_format_value(getattr(experiment.distill, name))})"
            for name, value in usual.items()
        ]
        yield f"Usual for {experiment.method.name} with the given settings: {', '.join(pairs)}."


def _as_typed(flag: str, value: Any) -> str:
    return f"{flag} {_format_value(value)}".strip()


def _it(names: Sequence[str]) -> str:
    return ("it", "them")[len(names) > 1]


def _missing_usual(experiment: Experiment, base: Experiment, typed: Container[str]) -> Iterator[tuple[str, Any]]:
    """Yield each field of `DistillSettings`, with its usual value, that is usual for the current outer step, was not
    usual for that of `base`, and has another value in the experiment."""
    before = base.method.step.usual_settings(base.ipc)
    for name, value in experiment.method.step.usual_settings(experiment.ipc).items():
        if f"distill.{name}" not in typed and value not in (before.get(name), getattr(experiment.distill, name)):
            yield name, value


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _has_no_effect(name: str, experiment: Experiment) -> bool:
    """Whether no code reads the setting of that dotted name."""
    return name not in TEACHER_SETTINGS and any(
        name == each or name.startswith(f"{each}.") for each in _unread_names(experiment)
    )


def _unread_names(record: Record, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of settings without an effect, or of records that contain such settings."""
    yield from (prefix + name for name in record.unread())
    for name, value in record:
        if isinstance(value, Record):
            yield from _unread_names(value, f"{prefix}{name}.")


def check_size(experiment: Experiment, data_size: DatasetSize) -> None:
    """Raise InputError for settings that data of this size do not allow, as the run does after it has read the data."""
    if experiment.distill.validate_every and not data_size.validation:
        raise InputError(
            "Evaluation during the distillation needs images held out of the training data; hold some out with "
            "--data.validation 0.1, or set --distill.validate-every 0. Test images are never used to choose."
        )
    init = experiment.method.init
    if not isinstance(init, FileInit):
        return
    initial_set = load(init.path)
    cells = experiment.distill.texture.cells
    actual = len(initial_set.classes), initial_set.ipc * initial_set.texture.cells, initial_set.shape
    init.check_alike(actual, (data_size.classes, experiment.ipc * cells, data_size.shape))


def check_classes(data: DataConfig) -> None:
    """Raise InputError for a choice of classes that a data set known by name does not have, as far as its class names
    are known."""
    if data.source not in NAMED or (data.classes is None and data.first_classes is None):
        return
    chosen_labels(_class_names(data), ClassChoice(data.classes, data.first_classes))


def _class_names(data: DataConfig) -> Sequence[str]:
    """The names of the classes. If they are known only after reading the data: class numbers, or the requested
    names."""
    numbers = [str(number) for number in range(NAMED[data.source].classes)]
    medmnist_set = medmnist.SETS.get(data.source.removesuffix("_64"))
    if medmnist_set is not None:
        return tuple(medmnist_set.classes)
    requested: Iterable[str] = data.classes or ()
    if data.source == "digits" or all(NUMBER.fullmatch(each) for each in requested):
        return numbers
    return list(dict.fromkeys([*requested, *numbers]))[: max(len(set(requested)), len(numbers))]
