"""From the arguments of a command line to an experiment: a preset, named changes to it, and one flag for every
field."""

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
from .checks import AS_A_RUN, Reads, check_typed, typed_names, without_part
from .commands import Command, typed
from .flags import Flag, Positional, UnknownFlagError, Word, params_of
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
    to_arguments,
)

INITS: dict[str, ImageInit] = {"real": RealInit(), "representative": RepresentativeInit(), "noise": NoiseInit()}
FIELDS = "experiment"
"""The place, among the flags of a command, of those for the experiment's own fields."""


class Changes(Record):
    """Flags that change a preset before the flags of its fields are read, and flags that control the run."""

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
    """`Changes`, and the preset."""

    preset: Annotated[str, Word(positional=True, names=lambda: PRESETS)] = ""


class ClusterChanges(PresetChanges):
    """`PresetChanges`, and where experts, evaluated networks and the trajectories of a step are computed."""

    cluster: Annotated[str | None, Word(metavar="auto|HOST:PORT")] = None
    """Train experts and evaluated networks on the nodes of this Ray cluster, each job with --threads (1); several
    trajectories of an outer step are jobs, too. auto is the cluster that this machine belongs to."""
    allow_mixed: bool = False
    """Also use nodes whose engine, instruction set or versions differ; the last bits of results may then differ."""


class ExpertChanges(ClusterChanges):
    """`ClusterChanges`, and the share of the experts that this process trains."""

    common: ClassVar[tuple[str, ...]] = (*Changes.common, "shard")

    shard: Annotated[str | None, Word(metavar="I/N")] = None
    """Train only every N-th expert, beginning with the I-th. For N processes on file systems without locks, or on nodes
    that do not share them."""


class RunChanges(ClusterChanges):
    """`ClusterChanges`, and the number of whole runs. In place of a preset, `ablation` is allowed."""

    preset: Annotated[str, Word(positional=True, names=lambda: ("ablation", *PRESETS))] = ""

    seeds: int | None = Field(default=None, ge=1, le=10_000)
    """Repeat the whole run with N seeds: mean ± standard deviation. Each has its own experts and a folder seed-N."""
    mirror: Annotated[PathOrUrl | None, Word(metavar="ADDRESS")] = None
    """Copy the run folder to this address (s3://BUCKET/FOLDER) at each save, and at the end."""


@dataclass(frozen=True)
class Request:
    """A parsed command line."""

    experiment: Experiment
    out: Path
    changes: Changes
    proposal: Proposal | None = None
    """The settings chosen for data without a preset."""
    base: Experiment | None = None
    """The preset, if one was named."""
    typed: tuple[tuple[Flag | Positional, Any], ...] = field(default=(), compare=False)
    """The typed flags with their values, including those of a `--config` file."""

    reads: Reads = AS_A_RUN
    """The settings that the subcommand reads, where that differs from a run."""

    @property
    def skipped_stages(self) -> int:
        """Number of last stages of a run that the subcommand does not take."""
        return sum(self.reads.ignores(name) for name in ("distill", "evaluation"))

    @property
    def place(self) -> Path:
        """Where the results go: the run folder or, of experts alone, the folder of their stores."""
        return self.experiment.experts.store if isinstance(self.changes, ExpertChanges) else self.out

    @property
    def dry_run(self) -> bool:
        return self.changes.dry_run

    @property
    def output_text(self) -> str:
        """The output folder, with a note that the dry run has written nothing to it."""
        exception = ""
        if self.changes.save_config is not None:
            exception = f" but {self.changes.save_config}"
        return f"{self.place} (nothing was written{exception}: --dry-run)"

    def command_for(self, verb: str) -> str:
        """The beginning of another subcommand's command line for the same preset or data."""
        if self.base is not None:
            return f"astdistill {verb} {self.base.name}"
        return shlex.join(["astdistill", verb, "--data", str(self.changes.data)])

    @property
    def log(self) -> tuple[str, ...]:
        """Loggers by name."""
        return tuple(dict.fromkeys(self.changes.log))


def preset_finder(verb: str) -> Callable[[Any, Sequence[str]], str]:
    """A function that returns the preset, given the changes and the remaining arguments; '' if only data are named. It
    raises InputError if neither is named."""

    def find_preset(changes: PresetChanges, remaining: Sequence[str]) -> str:
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

    return find_preset


class PresetCommand(Command):
    """A subcommand that starts from a preset, whose values are the defaults of all flags.

    Args:
        name: The words after `astdistill`.
        function: Called with the `Request`.
        about: The first text of help.
        kind: The class of changes that the subcommand accepts.
        preset: Returns the preset, given its changes and the remaining arguments. Raises InputError if none is named.
        folder: The default run folder in `runs/`; {} stands for the preset.
        prog: The beginning of the command as it is typed; {} stands for the preset.
        reads: The settings that the subcommand reads, where that differs from a run.
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
        reads: Reads = AS_A_RUN,
    ) -> None:
        super().__init__(name, function, kind)
        self._reads = reads
        self._about, self._find_preset, self._folder = about, preset or preset_finder(name), folder
        self._prog = prog.replace("{verb}", name)
        self.preset = self.experiment = next(iter(PRESETS.values()))
        self.proposal: Proposal | None = None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments twice: first for the preset and its changes, ignoring the others, then for all flags.

        Raises InputError for presets, methods, parts, protocols and flags that do not exist, and for invalid values.
        For shell completion, the flags are then those of some preset instead.
        """
        self._set_params(self.experiment)
        try:
            return self._parse(ctx, args)
        except InputError:
            if not ctx.resilient_parsing:
                raise
        return super().parse_args(ctx, args)

    def _parse(self, ctx: click.Context, args: list[str]) -> list[str]:
        path = config_path(args)
        entries: Entries = {}
        if path is not None:
            entries = read_config(path)
            check_groups(entries, self.params, path)
            args = self._with_entries(entries, args)
        preset_ctx = click.Context(self, resilient_parsing=True)
        super().parse_args(preset_ctx, list(args))
        changes = self.record(preset_ctx, self.kind)
        help_only = ctx.resilient_parsing or {"-h", "--help", "--help-all"} & set(args)
        try:
            _check_data(changes, args, self.name)
            name = self._find_preset(changes, preset_ctx.args)
        except InputError:
            if not help_only:
                raise
            name = ""
        self.prog, self.proposal = self._prog.format(name or "PRESET"), None
        if name in PRESETS or (name and not ctx.resilient_parsing):
            self.preset = preset(name)
        elif changes.data and not name and not help_only:
            self.prog = self._prog.format(shlex.join(["--data", changes.data]))
            self.proposal = self._propose(preset_ctx, changes.data)
            self.preset = self.proposal.experiment
        check_loggers(changes.log)
        self.experiment = with_changes(self.preset, changes)
        self._set_params(self.experiment)
        if path is not None:
            check_names(entries, self.params, path)
        try:
            return super().parse_args(ctx, args)
        except UnknownFlagError as error:
            raise self._other_methods_flag(error) from error

    def _other_methods_flag(self, error: UnknownFlagError) -> InputError:
        """The error for a flag that the method does not have, with a method that has it; `error` if none has."""
        for name in dict.fromkeys([self.preset.method.name, *methods()]):
            experiment = with_method(self.experiment, name)
            if error.flag in [param.flag for param in params_of(experiment, (FIELDS,), config.MOVED)]:
                return InputError(
                    f"The method {self.experiment.method.name} has no setting {error.flag}; leave it out, or choose a "
                    f"method that has it: --method {name}"
                )
        return error

    def _with_entries(self, entries: Entries, args: list[str]) -> list[str]:
        """The arguments of a file followed by the typed ones, which take precedence; so does a typed preset."""
        typed_ctx = click.Context(self, resilient_parsing=True)
        super().parse_args(typed_ctx, list(args))
        repeated = [name_of(param) for param in self.params if isinstance(param, Flag) and param.repeated]
        valued = [name_of(param) for param in self.params if isinstance(param, Flag) and not param.is_flag]
        arguments = to_arguments(overridden(entries, args, repeated), valued)
        name = entries.get(PRESET, "")
        if not getattr(self.record(typed_ctx, self.kind), PRESET, "") and isinstance(name, str) and name:
            arguments.insert(0, name)
        return [*arguments, *args]

    def _typed_values(self, ctx: click.Context) -> list[tuple[Flag | Positional, Any]]:
        """The typed values by flag. For an old name, the flag is the one with the current name."""
        flags = [param for param in self.params if isinstance(param, Flag | Positional)]
        current = {param.place: param for param in reversed(flags) if not getattr(param, "hidden", False)}
        values = [(current[param.place], typed(ctx.params.get(str(param.name)), param, self.prog)) for param in flags]
        return [(param, each.value) for param, each in values if each is not None]

    def _propose(self, ctx: click.Context, source: str) -> Proposal:
        """Settings for data without a preset, from the typed settings of the data and images per class."""
        base = self.experiment.replace(data=DataConfig(source=source))
        experiment = self.record(ctx, base.replace(ipc=1), FIELDS)
        return propose(experiment.data, experiment.ipc)

    def _set_params(self, experiment: Experiment) -> None:
        field_params = params_of(experiment, (FIELDS,), getattr(config, "MOVED", {}))
        field_params = [param for param in field_params if param.place[1] not in ("name", "published")]
        self.params = [*params_of(self.kind), *field_params, *self.common]

    def call(self, ctx: click.Context) -> Any:
        """Call the function with the request, and return its result."""
        return self.function(self.request(ctx))

    def request(self, ctx: click.Context) -> Request:
        """The parsed request. Raises InputError for invalid values."""
        changes = self.record(ctx, self.kind)
        experiment = _keep_published(self.record(ctx, self.experiment, FIELDS), self.preset)
        folder = self._folder
        if isinstance(changes, RunChanges) and changes.seeds:
            folder += "-seeds"  # next to a single run of the preset, not inside it
        out, base = changes.out or Path("runs", folder.format(self.preset.name)), self.preset
        if self.proposal is not None:
            base = None
        values = self._typed_values(ctx)
        for param, value in values:
            if ".".join(param.place[1:]) in COUNTED:
                experiment.evaluation.recipe.check_epochs(f"{param.flag} {value}")
        field_values = [(param, value) for param, value in values if param.place[0] == FIELDS]
        names = typed_names(field_values, changes.part, changes.protocol)
        check_typed(experiment, names, self.preset, str(self.name), self._reads)
        if changes.save_config is not None:
            check_save(changes.save_config, self.params)
            save_config(changes.save_config, values, getattr(changes, PRESET, ""))
            progress.tell(f"Settings: {changes.save_config}")
        return Request(experiment, out, changes, self.proposal, base, tuple(values), self._reads)

    def get_usage(self, ctx: click.Context) -> str:
        return f"usage: {self.prog} [FLAGS]"

    def about(self) -> str:
        return f"{self._about} Defaults shown are those of {self.preset.name}."


def _check_data(changes: Changes, arguments: Sequence[str], verb: str | None) -> None:
    """Raise InputError for --data without a value, which would otherwise be reported as a missing preset."""
    unnamed = isinstance(changes, PresetChanges) and not changes.preset and not changes.data
    if unnamed and "--data" in arguments:
        raise InputError(
            f"--data needs a value, for example --data photos for a folder of photos; see: astdistill {verb} --help"
        )


def parse(verb: str, words: Sequence[str]) -> Request:
    """The request of the arguments that follow `verb`, the first of which is a preset. Raises InputError like
    `PresetCommand`."""
    command = PresetCommand(verb, lambda request: request, "")
    with trust.typed(words), command.make_context(verb, list(words)) as ctx:
        return command.request(ctx)


def with_changes(experiment: Experiment, changes: Changes) -> Experiment:
    """The experiment with the changes applied. Raises InputError for invalid ones."""
    if changes.method is not None:
        experiment = with_method(experiment, changes.method)
    for assignment in changes.part:
        experiment = experiment.replace(method=_with_part(experiment.method, assignment))
    for part in changes.without:
        experiment = experiment.replace(method=without_part(experiment.method, part))
    if changes.init is not None:
        experiment = experiment.replace(method=experiment.method.replace(init=_find_init(changes.init)))
    if changes.protocol is not None:
        experiment = experiment.replace(evaluation=_with_protocol(experiment.evaluation, protocol(changes.protocol)))
    if changes.data == "":
        raise InputError("--data names nothing; give a folder, a file or a name, for example --data digits")
    if changes.data is not None:
        experiment = experiment.replace(data=_with_source(experiment.data, changes.data))
    return experiment


def _with_protocol(evaluation: EvaluationSettings, recipe: EvalRecipe) -> EvaluationSettings:
    """The evaluation under another protocol, with that protocol's epochs. Its number of networks is used too, unless
    the preset has another number than the preset's own protocol. Epochs on full data are kept."""
    old_recipe, networks = evaluation.recipe, evaluation.networks
    if networks == old_recipe.networks:
        networks = recipe.networks
    return evaluation.replace(recipe=recipe.replace(full_epochs=old_recipe.full_epochs), networks=networks)


def _with_source(data: DataConfig, source: str) -> DataConfig:
    """The configuration with another source. The choice of classes and the image size are kept if this is another
    location of the preset's own data, and dropped for other data. A subset of ImageNet is also found in a folder of all
    of ImageNet."""
    if data.source in (source, published_name(PurePath(source).name)):
        return data.replace(source=source)
    if (subset := subset_classes(data.source)) is not None and is_imagenet(Path(source)):
        return data.replace(source=source, classes=subset, size=data.size or IMAGENET_SIZE)
    return data.replace(source=source, classes=None, first_classes=None, size=None)


def _keep_published(experiment: Experiment, base: Experiment) -> Experiment:
    """The experiment. Its published figure is dropped if the settings, including the kind of labels, are not the
    published ones."""
    method, base_method = experiment.method, base.method
    same_names = (experiment.model, experiment.ipc, method.name) == (base.model, base.ipc, base_method.name)
    same_labels = (method.labels, method.learn) == (base_method.labels, base_method.learn)
    same_data = experiment.data.replace(source=base.data.source, memory=base.data.memory) == base.data
    if same_names and same_labels and same_data:
        return experiment
    return experiment.replace(published=Published())


def _find_init(start: str) -> ImageInit:
    """The initialisation of that name, or from the file or folder at that path."""
    if start not in INITS and not Path(start).exists():
        raise unknown("initialisation or file", start, INITS)
    return INITS.get(start) or FileInit(path=Path(start))


def _with_part(method: Method, assignment: str) -> Method:
    """The method with one field replaced by a component, which is named by class or import path and has its
    defaults."""
    field, equals, name = assignment.partition("=")
    if not equals:
        raise InputError(f"--part {assignment} names no part; write --part {assignment or 'loss'}=NAME")
    field = renamed_fields(Method).get(field, field)
    fields = {each: type(value) for each, value in method if isinstance(value, Component)}
    if field not in fields:
        raise unknown("field", field, fields, context="of a method that holds a part")
    kinds = built_in_components(_type_of(field))
    if ":" not in name and name not in kinds:
        raise unknown("part", name, kinds, context=f"for '{field}'")
    kind = find_component(name)
    if not (isinstance(kind, type) and issubclass(kind, _type_of(field))):
        raise InputError(
            f"'{name}' is no part for '{field}'; name a subclass of {_type_of(field).__name__} as package.module:Class."
        )
    component = kind()
    if isinstance(component, OuterStep):
        component = component.with_numbers_of(method.step)
    return method.replace(**{field: component})


def _type_of(field: str) -> type[Component]:
    """The base class that annotates a field of a method."""
    kind = Method.model_fields[field].annotation
    assert isinstance(kind, type)
    return kind
