"""From the words on a command line to an experiment: a preset, changes by name, and one flag for every field."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar

import click
from pydantic import Field

from ..data.dataset import DataConfig
from ..data.image_folders import IMAGENET_SIZE, is_imagenet, subset_classes
from ..data.sources import published_name
from ..evaluation.protocol import PROTOCOLS, EvalRecipe, protocol
from ..experiment import config
from ..experiment.config import EvaluationSettings, Experiment, Published
from ..experiment.plan import COUNTED
from ..experiment.presets import PRESETS, preset, with_method
from ..experiment.proposal import Proposal, propose
from ..methods.initialisation import FileInit, ImageInit, NoiseInit, RealInit, RepresentativeInit
from ..methods.method import PARTS, Method
from ..methods.outer_step import OuterStep
from ..methods.registry import methods
from ..runtime import progress, trust
from ..runtime.config import Component, PathOrUrl, Record, built_in_components, find_component, renamed_fields
from ..runtime.errors import InputError, unknown
from ..runtime.machine import MOST_SIDE_BY_SIDE
from ..runtime.tracking import LOGGERS, check_loggers
from .checks import check_typed, without_part
from .commands import Command, typed
from .flags import Flag, Positional, Word, params_of
from .saved import (
    PRESET,
    Entries,
    check_groups,
    check_names,
    check_save,
    config_path,
    name_of,
    overridden,
    read_config,
    save_config,
    words_of,
)

INITS: dict[str, ImageInit] = {"real": RealInit(), "representative": RepresentativeInit(), "noise": NoiseInit()}
FIELDS = "experiment"
"""Where the flags of the experiment's own fields lie among those of a command."""


class Changes(Record):
    """The flags that change a preset before those of its fields are read, and those that say how it is run."""

    common: ClassVar[tuple[str, ...]] = (
        "base", "seeds", "data", "method", "init", "ipc", "model", "device", "threads", "seed", "out", "log", "dry_run",
        "config", "save_config",
    )  # fmt: skip

    data: Annotated[str | None, Word(metavar="PATH")] = None
    """Data to use in place of those of the preset. A name, a folder of parquet files or images, an .npz file, or a name
    of the Hugging Face hub. All other settings stay those of the preset, except its choice of classes; without a
    preset, settings are chosen for the data."""
    method: Annotated[str | None, Word(names=methods)] = None
    """Method: {names}, or package.module:NAME for one of yours."""
    init: Annotated[str | None, Word(metavar="START", names=lambda: INITS)] = None
    """First images: real, representative, noise, or the path of an earlier run."""
    part: Annotated[tuple[str, ...], Word(metavar="FIELD=PART", repeated=True)] = ()
    """Replace a component of the method: estimator=Truncated, synthetic_lr=RawSyntheticLr, or
    FIELD=package.module:Class."""
    without: Annotated[tuple[str, ...], Word(metavar="PART", repeated=True, names=lambda: PARTS)] = ()
    """Remove a part of AST: clipping, penalty, representative, balanced, intermediate or perturbation. May be
    repeated."""
    log: Annotated[tuple[str, ...], Word(repeated=True, names=lambda: LOGGERS)] = ()
    """Also log to tensorboard or wandb. May be repeated."""
    protocol: Annotated[str | None, Word(names=lambda: PROTOCOLS)] = None
    """Evaluation protocol: {names}."""
    out: Path | None = None
    """Run folder; the same command resumes it (default: runs/ and the name of preset or data)."""
    dry_run: bool = False
    """Only show settings and estimated time, memory and disk."""
    config: Annotated[Path | None, Word(metavar="FILE")] = None
    """Read flags from a YAML file. Flags on the command line take precedence."""
    save_config: Annotated[Path | None, Word(metavar="FILE")] = None
    """Write the flags to a YAML file, and run. Flags read by --config are included."""
    as_json: Annotated[bool, Word(flag="json")] = False
    """With --dry-run: print all settings and costs as JSON, in seconds and bytes."""
    threads: int | None = Field(default=None, ge=1, le=MOST_SIDE_BY_SIDE)
    """CPU threads (default: one per free core). A resumed run keeps the number that it began with. Results
    differ by rounding only."""


class PresetChanges(Changes):
    """The same, and the preset."""

    preset: Annotated[str, Word(positional=True, names=lambda: PRESETS)] = ""


class ClusterChanges(PresetChanges):
    """The same, and where experts, evaluated networks and the trajectories of a step are computed."""

    cluster: Annotated[str | None, Word(metavar="auto|HOST:PORT")] = None
    """Train experts and evaluated networks on the nodes of this Ray cluster, each job with --threads (1); several
    trajectories of an outer step are jobs, too. auto is the cluster that this machine belongs to."""
    allow_mixed: bool = False
    """Also use nodes whose engine, instruction set or versions differ; the last bits of results may then differ."""


class ExpertChanges(ClusterChanges):
    """The same, and the share of the experts that this process trains."""

    common: ClassVar[tuple[str, ...]] = (*Changes.common, "shard")

    shard: Annotated[str | None, Word(metavar="I/N")] = None
    """Train only every N-th expert, beginning with the I-th. For N processes on file systems without locks, or on nodes
    that do not share them."""


class RunChanges(ClusterChanges):
    """The same, the number of whole runs, and the ablation, which is a form of run."""

    preset: Annotated[str, Word(positional=True, names=lambda: ("ablation", *PRESETS))] = ""

    seeds: int | None = Field(default=None, ge=1, le=10_000)
    """Repeat the whole run with N seeds: mean ± standard deviation. Each has its own experts and a folder seed-N."""
    mirror: Annotated[PathOrUrl | None, Word(metavar="ADDRESS")] = None
    """Copy the run folder to this address (s3://BUCKET/FOLDER) at each save, and at the end."""


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    experiment: Experiment
    out: Path
    changes: Changes
    proposal: Proposal | None = None
    """What was chosen for data without a preset."""
    base: Experiment | None = None
    """The preset, where one was named."""
    typed: tuple[tuple[Flag | Positional, Any], ...] = field(default=(), compare=False)
    """The flags that were typed, those of a `--config` included, and their values."""

    @property
    def dry_run(self) -> bool:
        return self.changes.dry_run

    @property
    def place(self) -> str:
        """Where it would go, and that a dry run has not written it."""
        beside = ""
        if self.changes.save_config is not None:
            beside = f" but {self.changes.save_config}"
        return f"{self.out} (nothing was written{beside}: --dry-run)"

    def words(self, verb: str) -> str:
        """What the command line of another verb for the same begins with."""
        if self.base is not None:
            return f"astdistill {verb} {self.base.name}"
        return shlex.join(["astdistill", verb, "--data", str(self.changes.data)])

    @property
    def log(self) -> tuple[str, ...]:
        """Loggers by name."""
        return tuple(dict.fromkeys(self.changes.log))


def named(verb: str) -> Callable[[Any, Sequence[str]], str]:
    """A function from changes and words left over to the preset, which the first word is; '' where there is none, but
    data of the user's own. Raises InputError where there is neither."""

    def of(changes: PresetChanges, rest: Sequence[str]) -> str:
        if not changes.preset and not changes.data:
            raise InputError(
                f"Name a preset: astdistill {verb} PRESET (list: astdistill presets), or a folder of your own images: "
                f"astdistill {verb} --data FOLDER"
            )
        if changes.preset and changes.preset not in PRESETS and Path(changes.preset).exists():
            raise InputError(
                f"There is no preset '{changes.preset}', but there is a folder or file of that name. To use its "
                f"images: astdistill {verb} --data {shlex.quote(changes.preset)}"
            )
        return changes.preset

    return of


class PresetCommand(Command):
    """A verb that starts from a preset, whose values are the defaults of all flags.

    Args:
        name: The words after `astdistill`.
        function: Called with the `Request`.
        about: What help says first.
        kind: The class of changes that the verb knows.
        preset: The preset by its changes and the words left over. Raises InputError where none is named.
        folder: The run folder in `runs/`, where none is named; {} stands for the preset.
        prog: What the words of a user begin with; {} stands for the preset.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Request], Any],
        about: str,
        kind: type[Changes] = PresetChanges,
        preset: Callable[[Any, Sequence[str]], str] | None = None,
        folder: str = "{}",
        prog: str = "astdistill {verb} {}",
    ) -> None:
        super().__init__(name, function, kind)
        self._about, self._named, self._folder = about, preset or named(name), folder
        self._prog = prog.replace("{verb}", name)
        self.cell = self.experiment = next(iter(PRESETS.values()))
        self.proposal: Proposal | None = None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words twice: for the preset and its changes, whatever the others are; then all of them.

        Raises InputError for presets, methods, parts, protocols and flags that do not exist, and for values that cannot
        be; where a shell completes them, the flags are then those of some preset.
        """
        self._offer(self.experiment)
        try:
            return self._parsed(ctx, args)
        except InputError:
            if not ctx.resilient_parsing:
                raise
        return super().parse_args(ctx, args)

    def _parsed(self, ctx: click.Context, args: list[str]) -> list[str]:
        path = config_path(args)
        entries: Entries = {}
        if path is not None:
            entries = read_config(path)
            check_groups(entries, self.params, path)
            args = self._with_entries(entries, args)
        first = click.Context(self, resilient_parsing=True)
        super().parse_args(first, list(args))
        changes = self.record(first, self.kind)
        asked = ctx.resilient_parsing or {"-h", "--help", "--help-all"} & set(args)
        try:
            _check_data(changes, args, self.name)
            name = self._named(changes, first.args)
        except InputError:
            if not asked:
                raise
            name = ""
        self.prog, self.proposal = self._prog.format(name or "PRESET"), None
        if name in PRESETS or (name and not ctx.resilient_parsing):
            self.cell = preset(name)
        elif changes.data and not name and not asked:
            self.prog = self._prog.format(shlex.join(["--data", changes.data]))
            self.proposal = self._proposal(first, changes.data)
            self.cell = self.proposal.experiment
        check_loggers(changes.log)
        self.experiment = changed(self.cell, changes)
        self._offer(self.experiment)
        if path is not None:
            check_names(entries, self.params, path)
        return super().parse_args(ctx, args)

    def _with_entries(self, entries: Entries, args: list[str]) -> list[str]:
        """The words of a file before those that were typed, which go before it; a preset that was typed, too."""
        alone = click.Context(self, resilient_parsing=True)
        super().parse_args(alone, list(args))
        repeated = [name_of(param) for param in self.params if isinstance(param, Flag) and param.repeated]
        valued = [name_of(param) for param in self.params if isinstance(param, Flag) and not param.is_flag]
        words = words_of(overridden(entries, args, repeated), valued)
        first = entries.get(PRESET, "")
        if not getattr(self.record(alone, self.kind), PRESET, "") and isinstance(first, str) and first:
            words.insert(0, first)
        return [*words, *args]

    def _typed(self, ctx: click.Context) -> list[tuple[Flag | Positional, Any]]:
        """What was typed, by flags; what was typed by an old name, by the name of today."""
        flags = [param for param in self.params if isinstance(param, Flag | Positional)]
        today = {param.place: param for param in reversed(flags) if not getattr(param, "hidden", False)}
        values = [(today[param.place], typed(ctx.params.get(str(param.name)), param, self.prog)) for param in flags]
        return [(param, each.value) for param, each in values if each is not None]

    def _proposal(self, typed: click.Context, source: str) -> Proposal:
        """Settings for data without a preset, with what was typed of the data and of the images per class."""
        base = self.experiment.replace(data=DataConfig(source=source))
        given = self.record(typed, base.replace(ipc=1), FIELDS)
        return propose(given.data, given.ipc)

    def _offer(self, experiment: Experiment) -> None:
        own = params_of(experiment, (FIELDS,), getattr(config, "MOVED", {}))
        own = [param for param in own if param.place[1] not in ("name", "published")]
        self.params = [*params_of(self.kind), *own, *self.common]

    def call(self, ctx: click.Context) -> Any:
        """The function's answer to the request."""
        return self.function(self.request(ctx))

    def request(self, ctx: click.Context) -> Request:
        """What was asked for. Raises InputError for values that cannot be."""
        changes = self.record(ctx, self.kind)
        experiment = _published(self.record(ctx, self.experiment, FIELDS), self.cell)
        folder = self._folder
        if isinstance(changes, RunChanges) and changes.seeds:
            folder += "-seeds"  # beside a single run of the preset, not in it
        out, base = changes.out or Path("runs", folder.format(self.cell.name)), self.cell
        if self.proposal is not None:
            base = None
        words = self._typed(ctx)
        for param, value in words:
            if ".".join(param.place[1:]) in COUNTED:
                experiment.evaluation.recipe.check_epochs(f"{param.flag} {value}")
        own = [(param, value) for param, value in words if param.place[0] == FIELDS]
        check_typed(experiment, own, changes.part, self.cell)
        if changes.save_config is not None:
            check_save(changes.save_config, self.params)
            save_config(changes.save_config, words, getattr(changes, PRESET, ""))
            progress.tell(f"Settings: {changes.save_config}")
        return Request(experiment, out, changes, self.proposal, base, tuple(words))

    def get_usage(self, ctx: click.Context) -> str:
        return f"usage: {self.prog} [FLAGS]"

    def about(self) -> str:
        return f"{self._about} Defaults shown are those of {self.cell.name}."


def _check_data(changes: Changes, words: Sequence[str], verb: str | None) -> None:
    """Raise InputError for --data without a value, which otherwise looks like a preset that is missing."""
    without = isinstance(changes, PresetChanges) and not changes.preset and not changes.data
    if without and "--data" in words:
        raise InputError(
            f"--data needs a value, for example --data photos for a folder of photos; see: astdistill {verb} --help"
        )


def parse(verb: str, words: Sequence[str]) -> Request:
    """The request in the words that follow `verb`, the first of which is a preset. Raises InputError as
    `PresetCommand`."""
    made = PresetCommand(verb, lambda request: request, "")
    with trust.typed(words), made.make_context(verb, list(words)) as ctx:
        return made.request(ctx)


def changed(experiment: Experiment, changes: Changes) -> Experiment:
    """The experiment with the changes made. Raises InputError for those that cannot be."""
    if changes.method is not None:
        experiment = with_method(experiment, changes.method)
    for assignment in changes.part:
        experiment = experiment.replace(method=_with_part(experiment.method, assignment))
    for part in changes.without:
        experiment = experiment.replace(method=without_part(experiment.method, part))
    if changes.init is not None:
        experiment = experiment.replace(method=experiment.method.replace(init=_init(changes.init)))
    if changes.protocol is not None:
        experiment = experiment.replace(evaluation=_under(experiment.evaluation, protocol(changes.protocol)))
    if changes.data == "":
        raise InputError("--data names nothing; give a folder, a file or a name, for example --data digits")
    if changes.data is not None:
        experiment = experiment.replace(data=_of_source(experiment.data, changes.data))
    return experiment


def _under(evaluation: EvaluationSettings, recipe: EvalRecipe) -> EvaluationSettings:
    """The evaluation under another protocol, with its epochs and its number of networks, unless the preset has another
    number of networks than its own protocol."""
    before, networks = evaluation.recipe, evaluation.networks
    if networks == before.networks:
        networks = recipe.networks
    return evaluation.replace(recipe=recipe.replace(full_epochs=before.full_epochs), networks=networks)


def _of_source(data: DataConfig, source: str) -> DataConfig:
    """The configuration with another source. Which classes are taken, and in which size, was said of the preset's own
    data, and holds for these wherever they lie, but for no others. A subset of ImageNet lies in all of it."""
    if data.source in (source, published_name(PurePath(source).name)):
        return data.replace(source=source)
    if (subset := subset_classes(data.source)) is not None and is_imagenet(Path(source)):
        return data.replace(source=source, classes=subset, size=data.size or IMAGENET_SIZE)
    return data.replace(source=source, classes=None, first_classes=None, size=None)


def _published(experiment: Experiment, cell: Experiment) -> Experiment:
    """The experiment with a published figure only where it is still the setting that was published, its kind of labels
    included."""
    method, published = experiment.method, cell.method
    kept = (experiment.model, experiment.ipc, method.name) == (cell.model, cell.ipc, published.name)
    labels = (method.labels, method.learn) == (published.labels, published.learn)
    data = experiment.data.replace(source=cell.data.source, memory=cell.data.memory) == cell.data
    if kept and labels and data:
        return experiment
    return experiment.replace(published=Published())


def _init(start: str) -> ImageInit:
    """The initialisation by its name, or from the file or folder of that path."""
    if start not in INITS and not Path(start).exists():
        raise unknown("initialisation or file", start, INITS)
    return INITS.get(start) or FileInit(path=Path(start))


def _with_part(method: Method, assignment: str) -> Method:
    """The method with one field filled by a part of its kind, named by class or import path, at its defaults."""
    field, equals, name = assignment.partition("=")
    if not equals:
        raise InputError(f"--part {assignment} names no part; write --part {assignment or 'loss'}=NAME")
    field = renamed_fields(Method).get(field, field)
    fields = {known: type(value) for known, value in method if isinstance(value, Component)}
    if field not in fields:
        raise unknown("field", field, fields, where="of a method that holds a part")
    kinds = built_in_components(_kind(field))
    if ":" not in name and name not in kinds:
        raise unknown("part", name, kinds, where=f"for '{field}'")
    kind = find_component(name)
    if not (isinstance(kind, type) and issubclass(kind, _kind(field))):
        raise InputError(
            f"'{name}' is no part for '{field}'; name a subclass of {_kind(field).__name__} as package.module:Class."
        )
    made = kind()
    if isinstance(made, OuterStep):
        made = made.with_numbers_of(method.step)
    return method.replace(**{field: made})


def _kind(field: str) -> type[Component]:
    """The base class that a field of a method is annotated with."""
    kind = Method.model_fields[field].annotation
    assert isinstance(kind, type)
    return kind
