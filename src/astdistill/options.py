"""From the words on a command line to an experiment: a preset, changes by name, and one flag for every field."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from .errors import InputError, unknown
from .evaluation import protocol
from .experiment import Experiment, Published
from .methods.parts import FileInit, Init, NoiseInit, RealInit, RepresentativeInit
from .presets import PRESETS, preset, with_method


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


SHORTCUTS = """
The first word is a preset (astdistill presets lists them). These change it before the other flags are read:
  --data PATH        the same cell on data of your own: a folder of parquet files or images, an .npz, or a hub name
  --method NAME      another method: ast, ast-as-released, mtt, or package.module:NAME of yours
  --init START       start from real, representative or noise images, or from an earlier run folder or file
  --without PART     switch off clipping, penalty, representative, balanced, intermediate or perturbation; may be repeated
  --protocol NAME    another evaluation protocol: mtt or ast-released
"""


def parse(verb: str, words: Sequence[str], default: str | None = None) -> Request:
    """The request in the words that follow `verb`; `default` is the preset where the verb implies one.

    Raises InputError for unknown presets, methods, parts and protocols; unknown flags end the process with code 2 and the nearest match.
    """
    words = list(words)
    name = default or (words.pop(0) if words and not words[0].startswith("-") else None)
    if name is None and not {"-h", "--help"} & set(words):
        raise InputError(f"Name a preset: astdistill {verb} PRESET. Known: {', '.join(PRESETS)}.")
    experiment, rest = _shortcuts(preset(name or next(iter(PRESETS))), words)
    fields = {field: getattr(experiment, field) for field in Experiment.model_fields}
    prog = f"astdistill {verb}" if default else f"astdistill {verb} {name or 'PRESET'}"
    found = tyro.cli(Options, prog=prog, description=SHORTCUTS, args=rest, default=Options.model_validate(fields))
    return Request(found.experiment(), found.out or Path("runs") / (verb if default else experiment.name), found.dry_run, found.quiet)


def _shortcuts(experiment: Experiment, words: list[str]) -> tuple[Experiment, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--data", "--init", "--method", "--protocol"):
        parser.add_argument(flag)
    parser.add_argument("--without", action="append", default=[])
    found, rest = parser.parse_known_args(words)
    if found.method:
        experiment = with_method(experiment, found.method)
    for part in found.without:
        experiment = experiment.replace(method=experiment.method.without(part))
    if found.init:
        experiment = experiment.replace(method=experiment.method.replace(init=_init(found.init)))
    if found.protocol:
        recipe = protocol(found.protocol).replace(augmentation=experiment.evaluation.recipe.augmentation)
        experiment = experiment.replace(evaluation=experiment.evaluation.replace(recipe=recipe))
    if found.data:
        experiment = experiment.replace(data=experiment.data.replace(source=found.data))
    return experiment, rest


def _init(start: str) -> Init:
    """The initialisation by its name, or from the file or folder of that path."""
    named: dict[str, Init] = {"real": RealInit(), "representative": RepresentativeInit(), "noise": NoiseInit()}
    if start not in named and not Path(start).exists():
        raise unknown("initialisation or file", start, named)
    return named.get(start) or FileInit(path=Path(start))
