"""From the words on a command line to an experiment: a preset, changes by name, and one flag for every field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from ..evaluation.protocol import protocol
from ..experiment.config import Experiment, Published
from ..experiment.presets import PRESETS, preset, with_method
from ..methods.initialisation import FileInit, Init, NoiseInit, RealInit, RepresentativeInit
from ..methods.method import Method
from ..runtime.config import Part, built_in_parts, find_part
from ..runtime.errors import InputError, unknown
from ..runtime.tracking import check_loggers
from .flags import Parser, read


class Options(Experiment):
    """Every field of the experiment, and how to run it."""

    name: Annotated[str, tyro.conf.Suppress]
    published: Annotated[Published, tyro.conf.Suppress] = Published()
    out: Path | None = Field(default=None)
    """Run folder; none means runs/<preset>. The same command again resumes it."""
    dry_run: bool = False
    """Print the resolved configuration and an estimate of memory, disk and time, and stop."""
    quiet: bool = False
    """No progress."""

    def experiment(self) -> Experiment:
        """The experiment alone."""
        return Experiment.model_validate({name: getattr(self, name) for name in Experiment.model_fields})


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    experiment: Experiment
    out: Path
    dry_run: bool
    quiet: bool
    log: tuple[str, ...] = ()
    """Loggers by name."""


SHORTCUTS = """These change the preset before the other flags are read:
  --data PATH        the same on data of your own: a folder of parquet files or
                     images, an .npz file, or a hub name
  --method NAME      another method: ast, ast-as-released, att, datm, dm, ftd,
                     mtt, tesla, or package.module:NAME of yours
  --init START       start from real, representative or noise images, or from
                     an earlier run folder or file
  --part FIELD=PART  put another part into the method: estimator=Truncated,
                     rate=RawRate, or FIELD=package.module:Class
  --without PART     switch off clipping, penalty, representative, balanced,
                     intermediate or perturbation; may be repeated
  --log NAME         log to tensorboard or wandb as well; may be repeated
  --protocol NAME    another evaluation protocol: mtt, ast-released,
                     datm-released"""
FIRST = "The first word is a preset; they are listed by: astdistill presets"


WHOLE = (tyro.conf.AvoidSubcommands,)
"""A record that may be absent has its flags where the preset has the record, and is no command of its own."""


def parse(verb: str, words: Sequence[str], default: str | None = None, first: str = FIRST, prog: str = "") -> Request:
    """The request in the words that follow `verb`; `default` is the preset where the verb implies one. `first` begins
    the help, and `prog` is what calls it, where that is more than the verb and its preset.

    Raises InputError for presets, methods, parts, protocols and flags that do not exist, and for values that cannot be.
    """
    words = list(words)
    name = default or (words.pop(0) if words and not words[0].startswith("-") else None)
    if name is None and not {"-h", "--help"} & set(words):
        raise InputError(f"Name a preset: astdistill {verb} PRESET. They are listed by: astdistill presets")
    prog = prog or (f"astdistill {verb}" if default else f"astdistill {verb} {name or 'PRESET'}")
    shown = name or next(iter(PRESETS))
    about = [
        first,
        f"The defaults shown are those of {shown}{'' if name else '; PRESET --help shows its own'}.",
        SHORTCUTS,
    ]
    log, words = _loggers(words, prog)
    experiment, rest = _shortcuts(preset(shown), words, prog)
    fields = {field: getattr(experiment, field) for field in Experiment.model_fields}
    found = read(
        Options, rest, prog, description="\n\n".join(about), default=Options.model_validate(fields), config=WHOLE
    )
    return Request(
        _published(found.experiment(), experiment.name),
        found.out or Path("runs") / (verb if default else experiment.name),
        found.dry_run,
        found.quiet,
        log,
    )


def _published(experiment: Experiment, name: str) -> Experiment:
    """The experiment with a published figure only where it is still the cell that was published, its kind of labels
    included."""
    cell = preset(name)
    method, published = experiment.method, cell.method
    kept = (experiment.model, experiment.ipc, method.name) == (cell.model, cell.ipc, published.name)
    labels = (method.labels, method.learn) == (published.labels, published.learn)
    data = experiment.data.replace(source=cell.data.source, memory=cell.data.memory) == cell.data
    return experiment if kept and labels and data else experiment.replace(published=Published())


def _loggers(words: list[str], prog: str) -> tuple[tuple[str, ...], list[str]]:
    """The loggers that are named, which all can be used, and the other words."""
    parser = Parser(prog, add_help=False)
    parser.add_argument("--log", action="extend", nargs="+", default=[])
    found, rest = parser.parse_known_args(words)
    check_loggers(found.log)
    return tuple(dict.fromkeys(found.log)), rest


def _shortcuts(experiment: Experiment, words: list[str], prog: str) -> tuple[Experiment, list[str]]:
    parser = Parser(prog, add_help=False)
    for flag in ("--data", "--init", "--method", "--protocol"):
        parser.add_argument(flag)
    for flag in ("--without", "--part"):
        parser.add_argument(flag, action="append", default=[])
    found, rest = parser.parse_known_args(words)
    if found.method is not None:
        experiment = with_method(experiment, found.method)
    for assignment in found.part:
        experiment = experiment.replace(method=_with_part(experiment.method, assignment))
    for part in found.without:
        experiment = experiment.replace(method=experiment.method.without(part))
    if found.init is not None:
        experiment = experiment.replace(method=experiment.method.replace(init=_init(found.init)))
    if found.protocol is not None:
        cell = experiment.evaluation.recipe
        recipe = protocol(found.protocol).replace(epochs=cell.epochs, full_epochs=cell.full_epochs)
        experiment = experiment.replace(evaluation=experiment.evaluation.replace(recipe=recipe))
    if found.data == "":
        raise InputError("--data names nothing; give a folder, a file or a name, for example --data digits")
    if found.data is not None:
        experiment = experiment.replace(data=experiment.data.replace(source=found.data))
    return experiment, rest


def _init(start: str) -> Init:
    """The initialisation by its name, or from the file or folder of that path."""
    named: dict[str, Init] = {"real": RealInit(), "representative": RepresentativeInit(), "noise": NoiseInit()}
    if start not in named and not Path(start).exists():
        raise unknown("initialisation or file", start, named)
    return named.get(start) or FileInit(path=Path(start))


def _with_part(method: Method, assignment: str) -> Method:
    """The method with one field filled by a part of its kind, named by class or import path, at its defaults."""
    field, _, name = assignment.partition("=")
    fields = {known: type(value) for known, value in method if isinstance(value, Part)}
    if field not in fields:
        raise unknown("field", field, fields, where="of a method that holds a part")
    kinds = built_in_parts(_kind(field))
    if ":" not in name and name not in kinds:
        raise unknown("part", name, kinds, where=f"for '{field}'")
    kind = find_part(name)
    if not (isinstance(kind, type) and issubclass(kind, _kind(field))):
        raise InputError(
            f"'{name}' is no part for '{field}'; name a subclass of {_kind(field).__name__} as package.module:Class."
        )
    return method.replace(**{field: kind()})


def _kind(field: str) -> type[Part]:
    """The base class that a field of a method is annotated with."""
    kind = Method.model_fields[field].annotation
    assert isinstance(kind, type)
    return kind
