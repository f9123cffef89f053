"""`astdistill evaluate`: from a distilled file to its scores."""

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
from ..evaluation.rows import TAUGHT, check_count, check_taught
from ..evaluation.runner import evaluate_all
from ..evaluation.scores import Scores, SearchedRate, table, taught_table
from ..evaluation.teacher import Teacher
from ..experiment.config import Experiment
from ..experiment.pipeline import obtain_teacher
from ..experiment.work import where_text
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
from .data import tell_briefly
from .flags import Word
from .kept import Asked, Place, check_place, check_single, placed, table_text


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
def evaluate(given: Evaluate) -> None:
    """Show scores; the page of the set's run shows them too."""
    with (
        using(given.engine),
        limited(given.threads or own_threads()),
        on_cluster(given.cluster, given.threads, given.allow_mixed),
        ExitStack() as stack,
    ):
        if (there := used()) is not None:
            there.connect(gpu=settled_device(given.device) != "cpu")
        run = RunDir(_evaluate(given, stack)).home()
    if run and _shown(run) and (page := renew_page(run.folder)):
        Terminal().print(f"Look at:   {page}", highlight=False)


def _shown(run: RunDir) -> bool:
    """Whether the set can be shown on a page: a compact one has no whitening to undo."""
    return load(run.synthetic).preprocessing.whole


def _evaluate(given: Evaluate, stack: ExitStack) -> Path:
    """The folder that the scores lie in, which is this process's alone until `stack` is closed; of several, the
    last."""
    check_device(given.device)
    check_gamma(given.gamma)
    check_once("--architectures", given.architectures)
    check_once("--baselines", given.baselines)
    check_single(given.path, "evaluate")
    if given.temperature != 1 and TAUGHT not in given.baselines:
        raise InputError(
            f"--temperature {given.temperature:g} was given, but no row has a teacher's labels; add teacher to "
            "--baselines, or leave --temperature out."
        )
    if given.full_epochs is not None and "full" not in given.baselines and not given.ranking:
        raise InputError(
            f"--full-epochs {given.full_epochs} was given, but nothing is trained on full data; add full to "
            "--baselines, or leave --full-epochs out."
        )
    wanted = [(each, recipe, _networks(each, recipe)) for each, recipe in _by_protocol(given)]
    for each, _, _ in wanted:
        if each.out is not None:
            check_folder(each.out, "--out")
            check_place(each.out, given.path)
    synthetic, dataset = _loaded(given)
    decide = [partial(_place, *each, synthetic) for each in wanted]
    for place in [each() for each in decide]:  # what one protocol refuses is said before a folder of another is there
        check_folder(place.folder, "--out")
    places = [_taken(each, stack) for each in decide]  # before a teacher is trained: a second process is told
    teacher = None
    if TAUGHT in given.baselines or any(recipe.temperature for _, recipe, _ in wanted):
        teacher = _teacher(given, dataset, synthetic.model)
    evaluated = []
    for (each, recipe, networks), place in zip(wanted, places, strict=True):
        common: dict[str, Any] = {"model": given.architectures or None, "seeds": networks, "out": place.folder}
        common |= {"seed": given.seed, "workers": given.workers}
        evaluated.append(_under(each, recipe, synthetic, dataset, teacher, common, place.scores))
    if given.protocol == "all":
        for shown in across_protocols(evaluated):
            _show(shown)
    return places[-1].folder


def _by_protocol(given: Evaluate) -> list[tuple[Evaluate, EvalRecipe]]:
    """What to evaluate under each protocol, and its recipe. Raises InputError for what all of them together cannot
    have."""
    if given.protocol != "all":
        _without_teacher(given, recipe := _recipe(given))
        check_taught(recipe, given.baselines)
        return [(given, recipe)]
    asked = {
        "--lr search": given.lr == "search",
        "--ranking": given.ranking,
        "--continual": given.continual is not None,
    }
    for flag in [flag for flag, there in asked.items() if there]:
        raise InputError(f"{flag} was given with --protocol all; name one protocol for it, for example --protocol mtt.")
    evaluated = []
    for name in ALL:
        changes: dict[str, Any] = {"protocol": name, "out": given.out and given.out / name}
        if protocol(name).temperature:  # under which all rows have a teacher's labels
            changes["baselines"] = tuple(each for each in given.baselines if each != TAUGHT)
        if protocol(name).steps:  # which has no epochs to change
            changes |= {"epochs": None, "full_epochs": None}
        each = given.replace(**changes)
        evaluated.append((each, _recipe(each)))
    return evaluated


def _under(
    given: Evaluate,
    recipe: EvalRecipe,
    synthetic: SyntheticSet,
    dataset: Dataset,
    teacher: Teacher | None,
    common: dict[str, Any],
    there: Scores | None,
) -> Scores:
    """The scores under one protocol, those that are `there` already if they have all, and what else was asked for,
    shown as it is known."""
    rates: dict[str, SearchedRate] = {}
    if there is not None:
        rates = there.rates
    elif given.lr == "search":
        rates = search_rates(synthetic, dataset, recipe, **common)
    if rates:
        _show(rates_table(rates, recipe.augmented(synthetic.augmentation)))
    common["rates"] = rates
    scores = there or evaluate_all(synthetic, dataset, recipe, baselines=given.baselines, teacher=teacher, **common)
    wanted = [(table, True), (by_class, given.per_class), (confusions, given.confusion), (taught_table, True)]
    for shown in [part(scores) for part, asked in wanted if asked]:
        _show(shown)
    _go_on(given, synthetic, dataset, recipe, common)
    Terminal().print(f"Numbers:   {RunDir(common['out']).scores}", highlight=False)
    return scores


def _loaded(given: Evaluate) -> tuple[SyntheticSet, Dataset]:
    """The set and its data. Raises InputError where they do not allow what was asked for."""
    synthetic = load(given.path)
    source = given.data
    if source is None:
        source = synthetic.data.source
    dataset = load_dataset(synthetic.data.replace(source=source), device=given.device)
    _tell_where(given, dataset, synthetic.model)
    tell_briefly(Description.of(dataset, synthetic.ipc))
    if not synthetic.preprocessing.whole:
        synthetic = synthetic.completed(dataset.preprocessing)
    if given.confusion:
        check_confusion(dataset.classes)
    if given.continual is not None:
        check_steps(given.continual, dataset)
    return synthetic, dataset


def _go_on(
    given: Evaluate, synthetic: SyntheticSet, dataset: Dataset, recipe: EvalRecipe, common: Mapping[str, Any]
) -> None:
    """What was asked for besides accuracies."""
    if given.ranking:
        ranking = rank(synthetic, dataset, recipe, gamma=given.gamma, random_labels=given.random_labels, **common)
        _show(ranking_table(ranking))
    if given.continual is not None:
        measured = continual(synthetic, dataset, given.continual, recipe, baselines=given.baselines, **common)
        _show(continual_table(measured))


def _show(shown: Tabulation | None) -> None:
    if shown is None:
        return
    console = Terminal()
    console.print(terminal(shown))
    console.print()


def _teacher(given: Evaluate, dataset: Dataset, student: str) -> Teacher:
    """An expert of the run that the set lies in; where no run says which, one of MTT's that is trained in experts/."""
    config = RunDir.around(given.path).config
    experiment = Experiment(name="", model=student, method=DM)
    if config.exists():
        with reading(config, "the settings of a run", "restore it, or leave out --baselines teacher"):
            experiment = Experiment.model_validate(read_json(config))
    return obtain_teacher(experiment.replace(engine=given.engine), dataset, given.temperature)


def _without_teacher(given: Evaluate, recipe: EvalRecipe) -> None:
    """Raise InputError where networks are to be trained besides, which a protocol with a teacher has no way for."""
    for flag, asked in {"--ranking": given.ranking, "--continual": given.continual is not None}.items():
        if recipe.temperature and asked:
            raise InputError(f"{flag} was given, which --protocol {given.protocol} does not have; add --protocol mtt.")


def _networks(given: Evaluate, recipe: EvalRecipe) -> int:
    """How many networks each row has. Raises InputError for less than one."""
    networks = recipe.networks
    if given.networks is not None:
        networks = given.networks
    check_count(networks)
    return networks


def _tell_where(given: Evaluate, dataset: Dataset, student: str) -> None:
    """Say on which device and by which engine the first network is trained; nothing for a set of no student's."""
    if first := architectures(given.architectures, student, dataset.shape)[0]:
        progress.tell(where_text(given.device, dataset.shape, len(dataset.classes), first))


def _place(given: Evaluate, recipe: EvalRecipe, networks: int, synthetic: SyntheticSet) -> Place:
    """The folder of the scores, and the table that is there where it has all already."""
    models = architectures(given.architectures, synthetic.model, synthetic.shape)
    asked = Asked(networks, tuple(models), given.baselines, given.seed, recipe.epochs_on_full_data, given.temperature)
    sets = [given.path]
    if given.path.is_dir():
        sets = [RunDir(given.path).synthetic]
    return placed(given.out or _folder(given, recipe), given.out is not None, asked, sets)


def _taken(decide: Callable[[], Place], stack: ExitStack) -> Place:
    """What `decide` says once the folder is this process's alone: until then another one may have put its table
    there."""
    held: set[Path] = set()
    while (place := decide()).folder not in held:
        check_folder(place.folder, "--out")
        stack.enter_context(RunDir(place.folder).writing())
        held.add(place.folder)
    if place.scores is not None:
        progress.tell(f"{place.folder} has a table of {table_text(place.scores)} already; it is shown, and kept.")
    return place


def _folder(given: Evaluate, recipe: EvalRecipe) -> Path:
    """The folder beside the set that is named after what is evaluated, and how."""
    path, run = given.path, RunDir.around(given.path)
    words = [given.protocol, f"{recipe.epochs}-epochs"][: 2 - bool(recipe.steps)]
    if path.is_file() and path != run.synthetic:  # last.safetensors is not a run's result
        words.insert(0, path.stem)
    if given.lr != "learned":
        words.append(f"lr-{given.lr}")
    if given.seed:  # the usual one goes without saying
        words.append(f"seed-{given.seed}")
    return run.evaluation(*words, *given.architectures).folder


def _recipe(given: Evaluate) -> EvalRecipe:
    """The protocol with the values that were typed. Raises InputError for one that is out of range."""
    typed: dict[str, Any] = {"epochs": given.epochs, "full_epochs": given.full_epochs}
    if given.full_epochs is None and "full" in given.baselines:
        typed["full_epochs"] = _expert_epochs(given.path)
    if isinstance(given.lr, float):
        typed["lr"] = given.lr
    for flag, epochs in (("--epochs", given.epochs), ("--full-epochs", given.full_epochs)):
        if epochs is not None:
            protocol(given.protocol).check_epochs(f"{flag} {epochs}", f"the protocol {given.protocol}")
    try:
        return protocol(given.protocol).replace(**{name: value for name, value in typed.items() if value is not None})
    except ValidationError as error:
        raise refused(error, prog="astdistill evaluate") from error


def _expert_epochs(path: Path) -> int:
    """The epochs of an expert of the run that the set lies in; those of MTT's where no run says so."""
    config = RunDir.around(path).config
    if not config.exists():
        return MTT.recipe.epochs
    with reading(config, "the settings of a run", "restore it, or say --full-epochs"):
        expert = (read_json(config).get("method") or {}).get("expert") or {}
        return int(expert.get("epochs", MTT.recipe.epochs))
