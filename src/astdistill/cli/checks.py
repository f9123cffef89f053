"""What is refused, or told to have no effect, before data are read: of what was typed, never of what a preset says."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

from ..data import medmnist
from ..data.dataset import DataConfig
from ..data.selection import NUMBER, ClassChoice, kept_labels
from ..data.synthetic import load
from ..experiment.config import Experiment
from ..experiment.cost import NAMED, DatasetSize
from ..methods.initialisation import FileInit
from ..methods.method import Method
from ..runtime.config import Record, renamed_fields
from ..runtime.errors import InputError
from ..runtime.files import warn
from .flags import Flag, Positional

TAUGHT = ("experts.seed", "experts.store")
"""Where a teacher is looked for, whose labels any method's evaluation may ask for."""
Words = Sequence[tuple[Flag | Positional, Any]]
"""What was typed: flags with their values."""


def without_part(method: Method, part: str) -> Method:
    """The method without one of AST's parts. Raises InputError where it has no such part to leave out."""
    left = method.without(part)
    if left == method:
        raise InputError(
            f"--without {part} was given, but the method {method.name} has no such part, or it was left out already; "
            f"leave out --without {part}."
        )
    return left


def check_once(flag: str, names: Sequence[str]) -> None:
    """Raise InputError for a name that a flag has twice."""
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise InputError(f"{flag} names '{twice}' twice; name it once.")


def check_typed(
    experiment: Experiment, typed: Words, parts: Sequence[str] = (), base: Experiment | None = None
) -> None:
    """Raise InputError for values that contradict the rest, and tell of those that nothing reads, and of settings that
    are usual with others.

    Args:
        experiment: What comes of everything that was typed.
        typed: Flags with their values.
        parts: Components that `--part` has put into the method: FIELD=NAME.
        base: The preset, or what was proposed in place of one.
    """
    given = {".".join(param.place[1:]): (param.flag, value) for param, value in typed if isinstance(param, Flag)}
    names = renamed_fields(Method)
    given |= {f"method.{names.get(field := part.partition('=')[0], field)}": ("--part", part) for part in parts}
    check_once("--evaluation.architectures", experiment.evaluation.architectures)
    check_once("--evaluation.baselines", experiment.evaluation.baselines)
    every, iterations = experiment.distill.validate_every, experiment.distill.iterations
    if "distill.validate_every" in given and every > iterations:
        raise InputError(
            f"--distill.validate-every {every} was given, but the run has {iterations} outer steps, so that no set "
            f"would be validated; choose 1 to {iterations}, or 0 for no validation."
        )
    unread = [f"{flag} {_said(value)}".strip() for name, (flag, value) in given.items() if _ignored(name, experiment)]
    if unread:
        verb = ("has", "have")[len(unread) > 1]
        warn(
            f"{', '.join(unread)} {verb} no effect with the method {experiment.method.name} and the other settings; "
            "leave it out, or see --help-all for what they need."
        )
    if usual := dict(_unusual(experiment, base or experiment, given)):
        has = ", ".join(_said(getattr(experiment.distill, name)) for name in usual)
        flags = " ".join(f"--distill.{name.replace('_', '-')} {_said(value)}" for name, value in usual.items())
        warn(
            f"The settings that are usual for {experiment.method.name} with what was given are {flags}; this run has "
            f"{has}."
        )


def _unusual(experiment: Experiment, base: Experiment, given: Container[str]) -> Iterator[tuple[str, Any]]:
    """Fields of `DistillSettings`, and values that are usual for the outer step as it is now and were not before, and
    that the experiment does not have."""
    before = base.method.step.usual_settings(base.ipc)
    for name, value in experiment.method.step.usual_settings(experiment.ipc).items():
        if f"distill.{name}" not in given and value not in (before.get(name), getattr(experiment.distill, name)):
            yield name, value


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _ignored(name: str, experiment: Experiment) -> bool:
    """Whether nothing reads the setting of that dotted name."""
    return name not in TAUGHT and any(name == each or name.startswith(f"{each}.") for each in _unread(experiment))


def _unread(record: Record, place: str = "") -> Iterator[str]:
    """Settings without an effect, or records that hold some, by dotted name."""
    yield from (place + name for name in record.unread())
    for name, value in record:
        if isinstance(value, Record):
            yield from _unread(value, f"{place}{name}.")


def check_size(experiment: Experiment, known: DatasetSize) -> None:
    """Raise InputError for what data of that size do not allow, as the run does once it has read them."""
    if experiment.distill.validate_every and not known.validation:
        raise InputError(
            "Evaluation during the distillation needs images held out of the training data; hold some out with "
            "--data.validation 0.1, or set --distill.validate-every 0. Test images are never used to choose."
        )
    init = experiment.method.init
    if not isinstance(init, FileInit):
        return
    earlier = load(init.path)
    cells = experiment.distill.texture.cells
    given = len(earlier.classes), earlier.ipc * earlier.texture.cells, earlier.shape
    init.check_alike(given, (known.classes, experiment.ipc * cells, known.shape))


def check_classes(data: DataConfig) -> None:
    """Raise InputError for a choice of classes that data known by name do not have, as far as their names are known."""
    if data.source not in NAMED or (data.classes is None and data.first_classes is None):
        return
    kept_labels(_names(data), ClassChoice(data.classes, data.first_classes))


def _names(data: DataConfig) -> Sequence[str]:
    """The names of the classes; of data whose names only reading tells, numbers or those that were asked for."""
    numbers = [str(number) for number in range(NAMED[data.source].classes)]
    held = medmnist.SETS.get(data.source.removesuffix("_64"))
    if held is not None:
        return tuple(held.classes)
    asked: Iterable[str] = data.classes or ()
    if data.source == "digits" or all(NUMBER.fullmatch(each) for each in asked):
        return numbers
    return list(dict.fromkeys([*asked, *numbers]))[: max(len(set(asked)), len(numbers))]
