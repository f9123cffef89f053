"""`astdistill evaluate`: scores of a distilled set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from ..autodiff.dispatch import EngineName, on_cluster, using
from ..data.dataset import Dataset
from ..data.description import Description
from ..data.loading import load_dataset
from ..data.synthetic import SyntheticSet, load
from ..evaluation.across import across_protocols
from ..evaluation.continual import check_steps, continual, continual_table
from ..evaluation.dd_ranking import RandomLabels, check_gamma, rank, ranking_table
from ..evaluation.per_class import by_class, check_confusion, confusions
from ..evaluation.protocol import ALL, EvalRecipe, architectures, protocol
from ..evaluation.rate_search import rates_table, search_rates
from ..evaluation.rows import TAUGHT, check_count, check_taught, recipe_for
from ..evaluation.runner import evaluate_all
from ..evaluation.scores import Scores, SearchedRate, table, taught_table
from ..evaluation.teacher import Teacher
from ..experiment.config import Experiment
from ..experiment.pipeline import obtain_teacher
from ..experiment.work import describe_device
from ..methods.distribution_matching import DM
from ..methods.trajectory_matching import MTT
from ..report.page.page import renew_page
from ..runtime import progress
from ..runtime.cluster import used
from ..runtime.config import Record
from ..runtime.devices import check_device, settled_device
from ..runtime.errors import InputError, refused
from ..runtime.files import check_folder, read_json, reading
from ..runtime.machine import MOST_SIDE_BY_SIDE
from ..runtime.parallel import limited, own_threads
from ..runtime.run_dir import RunDir
from ..runtime.tables import Tabulation, terminal
from ..runtime.terminal import Terminal
from .checks import check_once
from .commands import command
from .data import print_data_briefly
from .flags import Word
from .table_folder import TableFolder, TableRequest, check_out, check_single, choose_folder, table_text


class Evaluate(Record):
    """Train new networks on a distilled set alone, and test them."""

    common: ClassVar[tuple[str, ...]] = (
        "protocol", "epochs", "lr", "networks", "architectures", "baselines", "data", "device", "threads", "seed",
        "out", "ranking",
    )  # fmt: skip

    path: Annotated[Path, Word(positional=True)]
    """A run folder, or a synthetic.safetensors file; nothing else of the run is needed."""
    protocol: Literal["mtt", "ast-released", "datm-released", "dc", "tgdd", "ncfm", "rat", "rded", "all"] = "mtt"
    """Evaluation protocol. all: one table of mtt, ast-released, rat, tgdd, ncfm and rded."""
    epochs: int | None = Field(default=None, ge=1)
    """Training epochs (default: those of the protocol)."""
    full_epochs: int | None = Field(default=None, ge=1)
    """Training epochs of the full-data baseline (default: those of an expert of the run's method)."""
    lr: Annotated[float | Literal["learned", "search"], Word(metavar="NUMBER|learned|search")] = "learned"
    """Learning rate. learned: that of the set (0.01 for real images), unless the protocol has one (tgdd, ncfm, rat,
    rded); search: the best multiple of it on held-out training images; or a number for all rows."""
    networks: int | None = None
    """Newly initialised networks per row (default: 8 for rat, 10 for ncfm, 5 for the other protocols)."""
    architectures: tuple[str, ...] = ()
    """Networks to train, by name or pool (S, M, W, D, A, P, N; default: the one that the set was distilled with)."""
    baselines: tuple[Literal["random", "kmeans", "herding", "kcenter", "teacher", "full"], ...] = ("random", "kmeans")
    """Baselines of real images: random, kmeans, herding, kcenter, teacher (random images with soft labels of an expert,
    in a table of their own), or full (all training images; takes longest)."""
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Softmax temperature of the teacher's labels: above 1 they are softer."""
    data: Annotated[str | None, Word(metavar="PATH")] = None
    """Path of the data, if they were moved since the set was made."""
    device: str = "auto"
    """auto (the GPU if there is a usable one), cpu, cuda or cuda:N."""
    workers: int | None = Field(default=None, ge=1, le=MOST_SIDE_BY_SIDE)
    """Networks trained at the same time on a CPU (default: one per core)."""
    threads: int | None = Field(default=None, ge=1, le=MOST_SIDE_BY_SIDE)
    """CPU threads (default: one per core)."""
    engine: EngineName = "auto"
    """How derivatives are computed; auto takes the fastest that supports the network."""
    cluster: Annotated[str | None, Word(metavar="auto|HOST:PORT")] = None
    """Train the networks on the nodes of this Ray cluster, each with --threads (1). auto is the cluster that this
    machine belongs to."""
    allow_mixed: bool = False
    """Also use nodes whose engine, instruction set or versions differ; the last bits of results may then differ."""
    seed: int = 0
    """Random seed."""
    out: Path | None = None
    """Folder of scores.json (default: beside the set, named after file, protocol, epochs, seed and architectures). A
    folder that holds a run, or a table of other networks, is refused."""
    per_class: bool = False
    """Also show the accuracy of each class."""
    confusion: bool = False
    """Also show the confusion matrix."""
    ranking: bool = False
    """Also compute the scores of DD-Ranking, label-robust and augmentation-robust, which trains further networks."""
    gamma: float = 0.5
    """Weight γ of training with augmentation in the augmentation-robust score, from 0 to 1."""
    random_labels: RandomLabels = "same"
    """Labels of the random images that --ranking compares a soft-labelled set with. same: the same soft labels, as on
    the leaderboard; own: their hard labels."""
    continual: int | None = None
    """Also evaluate class-incremental learning with the classes in N steps (5 or 10 in the literature)."""


@command("evaluate")
def evaluate(options: Evaluate) -> None:
    """Evaluate a set, print the scores, and update the page of its run."""
    with (
        using(options.engine),
        limited(options.threads or own_threads()),
        on_cluster(options.cluster, options.threads, options.allow_mixed),
        ExitStack() as stack,
    ):
        if (cluster := used()) is not None:
            cluster.connect(gpu=settled_device(options.device) != "cpu")
        run = RunDir(_evaluate(options, stack)).home()
    if run and _can_show(run) and (page := renew_page(run.folder)):
        Terminal().print(f"Look at:   {page}", highlight=False)


def _can_show(run: RunDir) -> bool:
    """Whether the set can be shown on a page. A compact set lacks the whitening matrix that must be inverted."""
    return load(run.synthetic).preprocessing.is_complete


def _evaluate(options: Evaluate, stack: ExitStack) -> Path:
    """Evaluate the set, and return the folder of the scores; of several folders, the last. They are locked for this
    process until `stack` is closed."""
    check_device(options.device)
    check_gamma(options.gamma)
    check_once("--architectures", options.architectures)
    check_once("--baselines", options.baselines)
    check_single(options.path, "evaluate")
    if options.temperature != 1 and TAUGHT not in options.baselines:
        raise InputError(
            f"--temperature {options.temperature:g} was given, but no row has a teacher's labels; add teacher to "
            "--baselines, or leave --temperature out."
        )
    if options.full_epochs is not None and "full" not in options.baselines and not options.ranking:
        raise InputError(
            f"--full-epochs {options.full_epochs} was given, but nothing is trained on full data; add full to "
            "--baselines, or leave --full-epochs out."
        )
    requested = [(each, recipe, _network_count(each, recipe)) for each, recipe in _by_protocol(options)]
    for each, _, _ in requested:
        if each.out is not None:
            check_folder(each.out, "--out")
            check_out(each.out, options.path)
    synthetic, dataset = _load_data(options)
    finders = [partial(_find_place, *each, synthetic) for each in requested]
    for place in [each() for each in finders]:  # errors of any protocol are raised before a folder is made
        check_folder(place.folder, "--out")
    places = [_lock_place(each, stack) for each in finders]  # before a teacher is trained: a second process fails early
    teacher = None
    if TAUGHT in options.baselines or any(recipe.temperature for _, recipe, _ in requested):
        teacher = _teacher(options, dataset, synthetic.model)
    evaluated = []
    for (each, recipe, networks), place in zip(requested, places, strict=True):
        common: dict[str, Any] = {"model": options.architectures or None, "seeds": networks, "out": place.folder}
        common |= {"seed": options.seed, "workers": options.workers}
        evaluated.append(_evaluate_protocol(each, recipe, synthetic, dataset, teacher, common, place.scores))
    if options.protocol == "all":
        for tabulation in across_protocols(evaluated):
            _show(tabulation)
    return places[-1].folder


def _by_protocol(options: Evaluate) -> list[tuple[Evaluate, EvalRecipe]]:
    """The options and the recipe of each protocol to evaluate. Raises InputError for options that --protocol all does
    not allow."""
    if options.protocol != "all":
        _check_no_teacher(options, recipe := _recipe(options))
        check_taught(recipe, options.baselines)
        return [(options, recipe)]
    single_protocol = {
        "--lr search": options.lr == "search",
        "--ranking": options.ranking,
        "--continual": options.continual is not None,
    }
    for flag in [flag for flag, is_set in single_protocol.items() if is_set]:
        raise InputError(f"{flag} was given with --protocol all; name one protocol for it, for example --protocol mtt.")
    evaluated = []
    for name in ALL:
        changes: dict[str, Any] = {"protocol": name, "out": options.out and options.out / name}
        if protocol(name).temperature:  # all rows have a teacher's labels
            changes["baselines"] = tuple(each for each in options.baselines if each != TAUGHT)
        if protocol(name).steps:  # it counts steps and has no epochs to change
            changes |= {"epochs": None, "full_epochs": None}
        each = options.replace(**changes)
        evaluated.append((each, _recipe(each)))
    return evaluated


def _evaluate_protocol(
    options: Evaluate,
    recipe: EvalRecipe,
    synthetic: SyntheticSet,
    dataset: Dataset,
    teacher: Teacher | None,
    common: dict[str, Any],
    existing: Scores | None,
) -> Scores:
    """Evaluate under one protocol, print each table when it is known, and return the scores. `existing` scores, which
    have all requested rows, are taken as they are."""
    rates: dict[str, SearchedRate] = {}
    if existing is not None:
        rates = existing.rates
    elif options.lr == "search":
        rates = search_rates(synthetic, dataset, recipe, **common)
    if rates:
        _show(rates_table(rates, recipe.augmented(synthetic.augmentation)))
    common["rates"] = rates
    scores = existing or evaluate_all(
        synthetic, dataset, recipe, baselines=options.baselines, teacher=teacher, **common
    )
    parts = [(table, True), (by_class, options.per_class), (confusions, options.confusion), (taught_table, True)]
    for tabulation in [part(scores) for part, requested in parts if requested]:
        _show(tabulation)
    _measure_extras(options, synthetic, dataset, recipe, common)
    Terminal().print(f"Numbers:   {RunDir(common['out']).scores}", highlight=False)
    return scores


def _load_data(options: Evaluate) -> tuple[SyntheticSet, Dataset]:
    """The set and its data. Raises InputError if they do not allow what was requested."""
    synthetic = load(options.path)
    source = options.data
    if source is None:
        source = synthetic.data.source
    dataset = load_dataset(synthetic.data.replace(source=source), device=options.device)
    _print_device(options, dataset, synthetic.model)
    print_data_briefly(Description.of(dataset, synthetic.ipc))
    if not synthetic.preprocessing.is_complete:
        synthetic = synthetic.completed(dataset.preprocessing)
    if options.confusion:
        check_confusion(dataset.classes)
    if options.continual is not None:
        check_steps(options.continual, dataset)
    return synthetic, dataset


def _measure_extras(
    options: Evaluate, synthetic: SyntheticSet, dataset: Dataset, recipe: EvalRecipe, common: Mapping[str, Any]
) -> None:
    """Compute and print the requested scores other than accuracies."""
    if options.ranking:
        ranking = rank(synthetic, dataset, recipe, gamma=options.gamma, random_labels=options.random_labels, **common)
        _show(ranking_table(ranking))
    if options.continual is not None:
        measured = continual(synthetic, dataset, options.continual, recipe, baselines=options.baselines, **common)
        _show(continual_table(measured))


def _show(tabulation: Tabulation | None) -> None:
    if tabulation is None:
        return
    console = Terminal()
    console.print(terminal(tabulation))
    console.print()


def _teacher(options: Evaluate, dataset: Dataset, student: str) -> Teacher:
    """A teacher from an expert of the run that contains the set. If no run has settings, it is an expert of MTT,
    trained in experts/."""
    config = RunDir.around(options.path).config
    experiment = Experiment(name="", model=student, method=DM)
    if config.exists():
        with reading(config, "the settings of a run", "restore it, or leave out --baselines teacher"):
            experiment = Experiment.model_validate(read_json(config))
    return obtain_teacher(experiment.replace(engine=options.engine), dataset, options.temperature)


def _check_no_teacher(options: Evaluate, recipe: EvalRecipe) -> None:
    """Raise InputError for options that train further networks, if the protocol has a teacher: it does not define
    how."""
    for flag, requested in {"--ranking": options.ranking, "--continual": options.continual is not None}.items():
        if recipe.temperature and requested:
            raise InputError(
                f"{flag} was given, which --protocol {options.protocol} does not have; add --protocol mtt."
            )


def _network_count(options: Evaluate, recipe: EvalRecipe) -> int:
    """The number of networks per row. Raises InputError for less than one."""
    networks = recipe.networks
    if options.networks is not None:
        networks = options.networks
    check_count(networks)
    return networks


def _print_device(options: Evaluate, dataset: Dataset, student: str) -> None:
    """Print the device and the engine of the first network; nothing for a set without a student network."""
    if first := architectures(options.architectures, student, dataset.shape)[0]:
        progress.tell(describe_device(options.device, dataset.shape, len(dataset.classes), first))


def _find_place(options: Evaluate, recipe: EvalRecipe, networks: int, synthetic: SyntheticSet) -> TableFolder:
    """The folder of the scores, and its table if that has everything requested already."""
    models = architectures(options.architectures, synthetic.model, synthetic.shape)
    request = TableRequest(
        networks=networks,
        models=tuple(models),
        baselines=options.baselines,
        seed=options.seed,
        full_epochs=recipe.epochs_on_full_data,
        temperature=options.temperature,
        recipe=recipe_for(synthetic, recipe),
        searched=options.lr == "search",
    )
    sets = [options.path]
    if options.path.is_dir():
        sets = [RunDir(options.path).synthetic]
    return choose_folder(options.out or _default_folder(options, recipe), options.out is not None, request, sets)


def _lock_place(find_place: Callable[[], TableFolder], stack: ExitStack) -> TableFolder:
    """The result of `find_place` when its folder is locked for this process. It is called again after locking, because
    another process may have written a table before."""
    locked: set[Path] = set()
    while (place := find_place()).folder not in locked:
        check_folder(place.folder, "--out")
        stack.enter_context(RunDir(place.folder).writing())
        locked.add(place.folder)
    if place.scores is not None:
        progress.tell(f"{place.folder} has a table of {table_text(place.scores)} already; it is shown, and kept.")
    return place


def _default_folder(options: Evaluate, recipe: EvalRecipe) -> Path:
    """The folder next to the set that is named after what is evaluated, and how."""
    path, run = options.path, RunDir.around(options.path)
    parts = [options.protocol, f"{recipe.epochs}-epochs"][: 2 - bool(recipe.steps)]
    if path.is_file() and path != run.synthetic:  # last.safetensors is not a run's result
        parts.insert(0, path.stem)
    if options.lr != "learned":
        parts.append(f"lr-{options.lr}")
    if options.seed:  # the default seed is not part of the name
        parts.append(f"seed-{options.seed}")
    return run.evaluation(*parts, *options.architectures).folder


def _recipe(options: Evaluate) -> EvalRecipe:
    """The protocol with the typed values. Raises InputError for values out of range."""
    typed: dict[str, Any] = {"epochs": options.epochs, "full_epochs": options.full_epochs}
    if options.full_epochs is None and "full" in options.baselines:
        typed["full_epochs"] = _expert_epochs(options.path)
    if isinstance(options.lr, float):
        typed["lr"] = options.lr
    for flag, epochs in (("--epochs", options.epochs), ("--full-epochs", options.full_epochs)):
        if epochs is not None:
            protocol(options.protocol).check_epochs(f"{flag} {epochs}", f"the protocol {options.protocol}")
    try:
        return protocol(options.protocol).changed(**{name: value for name, value in typed.items() if value is not None})
    except ValidationError as error:
        raise refused(error, prog="astdistill evaluate") from error


def _expert_epochs(path: Path) -> int:
    """The epochs of an expert of the run that contains the set; those of MTT if the run has no settings."""
    config = RunDir.around(path).config
    if not config.exists():
        return MTT.recipe.epochs
    with reading(config, "the settings of a run", "restore it, or say --full-epochs"):
        expert = (read_json(config).get("method") or {}).get("expert") or {}
        return int(expert.get("epochs", MTT.recipe.epochs))
