"""Search for learning rates with Optuna: short distillations, most of which end early, judged on held-out training
images."""

from __future__ import annotations

import importlib
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ..autodiff.dispatch import chosen, using
from ..data.dataset import Dataset
from ..data.synthetic import SyntheticSet
from ..distillation.loop import distill, validate
from ..distillation.run import Distillation
from ..distillation.settings import DistillSettings, check_settings
from ..distillation.state import DistillState
from ..experts.store import TrajectoryStore
from ..methods.method import Method
from ..methods.outer_step import TrajectoryMatching
from ..models.flat import FlatModel
from ..models.registry import build_model
from ..report.tuning import FILE, Outcome, TrialRecord, Tuning, flags_of
from ..runtime.cluster import used
from ..runtime.config import Record
from ..runtime.errors import DivergedError, InputError
from ..runtime.files import check_folder, check_regular, replacing
from ..runtime.parallel import plan_workers, pool
from ..runtime.progress import Bar, bar, phase, tell
from ..runtime.run_dir import FREE, RunDir, flat
from ..runtime.seeds import derive
from ..runtime.text import in_one_line
from .config import Experiment, check_experiment, load_data, value_of, with_value
from .pipeline import obtain_experts

HELD_OUT = 0.2
"""Fraction of the training images that is held out if `data.validation` is not set."""
RUNGS = (8, 4, 2, 1)
"""A trial is judged after its outer steps divided by each of these numbers."""
FINALISTS, JUDGES = 3, 5
"""Number of best trials that are judged again, and number of networks that judge each of them."""
MOST_SKIPS = 5
"""Failed outer steps in a row that end a trial."""
LOWEST_LR, HIGHEST_LR = 1e-6, 1.0
"""First search range of η₀."""
SEGMENTS = 4
"""Number of draws of the first outer step whose losses rate an η₀; none of these steps is taken."""
MOVE = 0.03
"""Fraction of the images' root mean square by which the first outer step moves them with the first lr_img that is
tried."""
BOLD = 0.03
"""The first lr_lr, as a multiple of η₀²."""
RATIOS = (1e-4, 1.0)
"""lr_lr / η₀²: below, η hardly changes; above, it collapses (docs/rates.md)."""
RATIO = "lr_lr / lr_init²"
JOURNAL = "trials.journal"
Ranges = dict[str, tuple[float, float]]


class Search(Record):
    """How much is tried."""

    trials: int = Field(default=40, ge=1)
    steps: int = Field(default=100, ge=8)
    also: tuple[Literal["T", "M", "start"], ...] = ()
    parallel: int = Field(default=1, ge=1)
    """Trials of a round, which run side by side."""


def load_optuna() -> Any:
    """Import Optuna and return it. Raises InputError if it cannot be imported."""
    try:
        optuna = importlib.import_module("optuna")  # by name, because type checkers need not have it installed
        importlib.import_module("optuna.storages.journal")
    except ImportError as error:
        raise InputError(f"astdistill tune needs Optuna ({error}); run pip install 'astdistill[tune]'.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def held_out(experiment: Experiment) -> tuple[Experiment, Dataset]:
    """The experiment and its data with images held out of the training data: those of `data.validation`, or a
    fifth."""
    dataset = load_data(experiment)
    if dataset.validation is None:
        experiment = experiment.replace(data=experiment.data.replace(validation=HELD_OUT))
        dataset = load_data(experiment)
    return experiment, dataset


def check_search(experiment: Experiment, search: Search) -> None:
    """Raise InputError if the method does not have the settings that are to be searched."""
    step = experiment.method.step
    if not experiment.method.learn:
        raise InputError(
            f"'{experiment.method.name}' chooses images and learns nothing, so it has no learning rates to search; "
            "name another --method, or type: astdistill run"
        )
    if search.also and not isinstance(step, TrajectoryMatching):
        raise InputError(
            f"--also {' '.join(search.also)} was given, but '{experiment.method.name}' matches no trajectories and has "
            "no T, M or start epochs; leave --also out to search its learning rates alone."
        )
    if "M" in search.also and experiment.experts.imported is not None:
        raise InputError(
            "--also M was given with --experts.imported, whose epochs are fixed; leave --also M out, or the import."
        )


def widest(experiment: Experiment, search: Search) -> Experiment:
    """The experiment with the highest values of the search ranges, whose experts suffice for every trial."""
    return with_values(experiment, {name: high for name, (_, high) in _step_ranges(experiment, search).items()})


def _step_ranges(experiment: Experiment, search: Search) -> Ranges:
    """Search ranges of T, M and the start epochs, for those of them that are searched. Experts have enough epochs for
    every combination of values."""
    step = experiment.method.step
    if not isinstance(step, TrajectoryMatching) or not search.also:
        return {}
    recipe_epochs, most_epochs = experiment.method.recipe.epochs, step.expert_epochs
    ranges: Ranges = {}
    if "M" in search.also:
        longest = min(most_epochs + 2, recipe_epochs + 1 - step.max_start_epoch)
        most_epochs = _first_valid(range(longest, most_epochs, -1), most_epochs, experiment, "expert_epochs")
        ranges["method.step.expert_epochs"] = (1, max(1, most_epochs))
    if "T" in search.also:
        fewest = range(max(1, step.syn_steps // 4), step.syn_steps)
        least_steps = _first_valid(fewest, step.syn_steps, experiment, "syn_steps", expert_epochs=most_epochs)
        ranges["method.step.syn_steps"] = (least_steps, 4 * step.syn_steps)
    if "start" in search.also:
        high = min(2 * step.max_start_epoch, recipe_epochs + 1 - max(1, most_epochs))
        lowest = range(max(1, step.max_start_epoch // 4), step.max_start_epoch)
        ranges["method.step.max_start_epoch"] = (
            _first_valid(lowest, step.max_start_epoch, experiment, "max_start_epoch"),
            max(1, high),
        )
    return ranges


def _first_valid(values: range, default: int, experiment: Experiment, name: str, **numbers: int) -> int:
    """The first of `values` for the outer-step setting `name` that is consistent with all other settings, or `default`
    if there is none."""
    method = experiment.method
    for value in values:
        step = method.step.replace(**{**numbers, name: value})
        if _fits(method.replace(step=step), experiment.distill):
            return value
    return default


def _fits(method: Method, settings: DistillSettings, epochs: int | None = None) -> bool:
    try:
        check_settings(method, settings, epochs)
    except InputError:
        return False
    return True


def tune(
    experiment: Experiment,
    search: Search,
    out: Path,
    dataset: Dataset,
    on_trial: Callable[[Tuning], object] = lambda t: 0,
) -> Tuning:
    """Search the learning rates of an experiment, whose `dataset` must have held-out images. `on_trial` is called
    after every trial.

    All files are in `out`, from which the same call resumes; a trial that was killed is run again. Raises InputError if
    `out` holds another search, DivergedError if no trial reached the last outer step.
    """
    optuna = load_optuna()
    check_search(experiment, search)
    widest_experiment = widest(experiment, search)
    check_experiment(widest_experiment, dataset)
    assert dataset.validation is not None, "held_out gives images to judge on"
    check_continued(experiment, search, out, dataset.fingerprint)
    empty = Tuning(
        experiment=experiment.to_json(),
        fingerprint=dataset.fingerprint,
        steps=search.steps,
        also=search.also,
        asked=search.trials,
        held_out=len(dataset.validation),
        networks=experiment.distill.validate_networks,
        finalist_networks=JUDGES,
    )
    with RunDir(out).writing():
        empty.save(out)
        experts = None
        if experiment.method.expert is not None:
            experts = obtain_experts(widest_experiment, dataset)
        # Distillation gets no test images, so that they cannot influence a choice even by mistake.
        search_data = replace(dataset, test=dataset.validation)
        with using(experiment.engine), _ignore_optuna_warnings():
            return _Trials(optuna, experiment, search, out, search_data, experts, empty, on_trial).run()


def check_continued(experiment: Experiment, search: Search, out: Path, fingerprint: str | None = None) -> None:
    """Raise InputError, with nothing written, unless this search can begin in `out` or continue what it holds; without
    a fingerprint as far as that can be told before the data are read."""
    check_folder(out, "--out")
    saved = Tuning.read(out)
    if saved is None:
        if not RunDir(out).empty:
            raise InputError(f"{out} is not empty and holds no search; name a new folder with --out.")
        return
    before = flat(_search_identity(saved.experiment, saved.steps, saved.also, saved.fingerprint))
    now = flat(_search_identity(experiment.to_json(), search.steps, search.also, fingerprint or saved.fingerprint))
    free = FREE if fingerprint else (*FREE, "data.validation")  # which depends on the parts of the data
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name) and not name.startswith(free):
            raise InputError(
                f"{out} holds a search with other settings ({name} was {before.get(name)!r}, now {now.get(name)!r}); "
                "name a new folder with --out, or delete that one."
            )


def _search_identity(experiment: dict[str, Any], steps: int, also: Sequence[str], fingerprint: str) -> dict[str, Any]:
    return {**experiment, "steps": steps, "also": list(also), "the data's fingerprint": fingerprint}


class _NoLock:
    """A lock of the journal that does nothing, because `RunDir.writing` locks the whole folder."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...


@contextmanager
def _ignore_optuna_warnings():
    """Suppress Optuna's warnings about features that may change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna")
        yield


@dataclass(frozen=True)
class _TrialInputs:
    """The inputs that all trials share."""

    experiment: Experiment
    dataset: Dataset
    experts: TrajectoryStore | None
    engine: str


@dataclass(frozen=True)
class _Job:
    """A trial and the outer step that it is to reach. Its folder holds the state of the distillation."""

    number: int
    values: Mapping[str, float]
    folder: Path
    steps: int


def _distill_to_rung(inputs: _TrialInputs, job: _Job, progress: Bar) -> float | None:
    """Distil a trial up to a rung and return its accuracy; None if it diverged, or if its values contradict each other,
    which the ranges of an earlier version allowed."""
    experiment = with_values(inputs.experiment, job.values)
    settings = experiment.distill.replace(iterations=job.steps, validate_every=0, snapshots=False, max_skips=MOST_SKIPS)
    options: dict[str, Any] = {
        "method": experiment.method,
        "model": experiment.model,
        "ipc": experiment.ipc,
        "seed": experiment.seed,
    }
    if not _fits(experiment.method, settings, None if inputs.experts is None else inputs.experts.epochs):
        return None
    with using(inputs.engine):
        try:
            synthetic = distill(inputs.dataset, inputs.experts, settings=settings, out=job.folder, **options)
        except DivergedError:
            return None
        return validate(synthetic, inputs.dataset, settings, experiment.seed)


Compute = Callable[[Sequence[_Job]], Iterator[tuple[_Job, float | None]]]
"""Distils trials up to a rung in parallel; yields pairs as they finish."""


class _Trials:
    """The search, which resumes from the files in its folder."""

    def __init__(
        self,
        optuna: Any,
        experiment: Experiment,
        search: Search,
        out: Path,
        dataset: Dataset,
        experts: TrajectoryStore | None,
        empty: Tuning,
        on_update: Callable[[Tuning], object],
    ) -> None:
        self.optuna, self.experiment, self.search, self.out = optuna, experiment, search, out
        self.dataset, self.experts, self.empty, self.on_update = dataset, experts, empty, on_update
        self.rungs = sorted({max(1, search.steps // part) for part in RUNGS})
        self.study = self._study()
        self.states = optuna.trial.TrialState
        if "ranges" not in self.study.user_attrs:
            self._choose_ranges()
        self.ranges: Ranges = {name: tuple(ends) for name, ends in self.study.user_attrs["ranges"].items()}

    def _study(self) -> Any:
        optuna, path = self.optuna, self.out / JOURNAL
        if path.exists():
            check_regular(path)
            content = path.read_bytes()
            if content and not content.endswith(b"\n"):  # a kill has cut off the last line
                with replacing(path) as temporary:
                    temporary.write_bytes(content[: content.rfind(b"\n") + 1])
        journal = optuna.storages.journal
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=self.rungs[0], reduction_factor=2)
        try:
            storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(path), lock_obj=_NoLock()))
            return optuna.create_study(
                storage=storage, study_name="tune", direction="maximize", pruner=pruner, load_if_exists=True
            )
        except Exception as error:  # Optuna replays the lines, which can raise any exception
            reason = in_one_line(error)
            raise InputError(
                f"{path} is not the journal of a search ({type(error).__name__}: {reason}); delete it, and the same "
                "command starts over."
            ) from error

    def _choose_ranges(self) -> None:
        """Choose the search ranges and the first trials: the given values, and those that the first outer steps
        suggest."""
        with phase("looking at the first outer steps"):
            ranges, suggested = first_ranges(self.experiment, self.search, self.dataset, self.experts)
        current = _current_values(self.experiment, ranges)
        if all(low <= current[name] <= high for name, (low, high) in ranges.items()):
            self.study.enqueue_trial(current)
        else:
            tell("The given learning rates are far from those at which the first outer steps make progress.")
        self.study.enqueue_trial(suggested)
        self.study.set_user_attr("ranges", {name: list(ends) for name, ends in ranges.items()})

    def run(self) -> Tuning:
        """Run the missing trials and judge the finalists."""
        for trial in self.study.get_trials(states=(self.states.RUNNING,)):  # its process was killed
            self.study.tell(trial.number, state=self.states.FAIL)
            attributes = {"folder": self._folder(trial).name, "before": trial.intermediate_values}
            self.study.enqueue_trial(trial.params, user_attrs=attributes)
        done = len(self._ended())
        with (
            self._pool() as compute,
            bar("tuning", self.search.trials, min(done, self.search.trials), unit="trials") as progress,
        ):
            while (missing := self.search.trials - len(self._ended())) > 0:
                for _ in self._run_round(min(missing, self.search.parallel), compute):
                    progress.step()
                    self.on_update(self._save())
        self._judge_finalists()
        tuning = self._save()
        if tuning.winner is None or tuning.winner.last == 0:
            raise DivergedError(
                f"None of {len(tuning.trials)} trials reached {self.search.steps} outer steps with a usable "
                f"set; see {self.out / FILE}, and try other --distill.lr-init and --distill.lr-img in a new "
                "folder."
            )
        return tuning

    def _pool(self) -> AbstractContextManager[Compute]:
        """The processes, or the nodes of a cluster, that distil the trials of a round."""
        experiment, at_once, device = self.experiment, self.search.parallel, self.dataset.device
        if (cluster := used()) is not None:
            cluster.check_shared(self.out)
        plan = plan_workers(at_once, experiment.workers, device, [experiment.model])
        inputs = _TrialInputs(experiment, self.dataset, self.experts, chosen())
        return pool(_distill_to_rung, inputs, plan, Bar("", 0, 0, None), at_once, math.inf, device.type != "cpu")

    def _ended(self) -> list[Any]:
        return self.study.get_trials(deepcopy=False, states=(self.states.COMPLETE, self.states.PRUNED))

    def _folder(self, trial: Any) -> Path:
        return self.out / "trials" / trial.user_attrs.get("folder", f"{trial.number:03d}")

    def _run_round(self, count: int, compute: Compute) -> Iterator[Any]:
        """Run `count` trials in parallel, rung by rung; yield each when it has ended. Trials are pruned when all have
        reached a rung, so that the choice does not depend on their speed."""
        active = dict(self._draw_trial() for _ in range(count))
        for rung in self.rungs:
            jobs = {
                number: _Job(number, trial.user_attrs["values"], self._folder(trial), rung)
                for number, trial in active.items()
                if rung not in self._reported(trial)
            }
            accuracies = {job.number: accuracy for job, accuracy in compute(list(jobs.values()))}
            for number in jobs:
                if accuracies[number] is not None:
                    active[number].report(accuracies[number], rung)
            for number in jobs:
                if (outcome := self._outcome(active[number], accuracies[number], rung)) is not None:
                    yield self._finish(active.pop(number), outcome)
        for trial in active.values():  # all rungs were reported by a call that was killed
            yield self._finish(trial, "complete")

    def _draw_trial(self) -> tuple[int, Any]:
        """Draw the next trial and return its number and the trial. One that was killed keeps the accuracies that it
        reported."""
        seed = derive(self.experiment.seed, "tune", len(self.study.get_trials(deepcopy=False)))
        self.study.sampler = self.optuna.samplers.TPESampler(
            seed=seed % 2**32, n_startup_trials=8, constant_liar=self.search.parallel > 1
        )
        trial = self.study.ask()
        trial.set_user_attr(
            "values", self._rounded_settings({name: self._suggest(trial, name) for name in self.ranges})
        )
        for step, accuracy in sorted(trial.user_attrs.get("before", {}).items(), key=lambda each: int(each[0])):
            trial.report(accuracy, int(step))
        return trial.number, trial

    def _outcome(self, trial: Any, accuracy: float | None, rung: int) -> Outcome | None:
        """Outcome of a trial at a rung; None if it continues."""
        if accuracy is None:
            return "diverged"
        if rung == self.search.steps:
            return "complete"
        if trial.should_prune():
            return "pruned"
        return None

    def _finish(self, trial: Any, outcome: Outcome) -> Any:
        """Record the outcome of a trial and delete its state, because it is not continued."""
        reported, values = self._reported(trial), trial.user_attrs["values"]
        last = max(reported, default=0)
        if outcome == "pruned":
            self.study.tell(trial, state=self.states.PRUNED)
        elif outcome == "diverged":
            trial.set_user_attr("diverged", True)
            self.study.tell(trial, 0.0)
        else:
            self.study.tell(trial, reported[self.search.steps])
        RunDir(self._folder(trial)).state.unlink(missing_ok=True)
        settings = ", ".join(f"{name.rpartition('.')[2]} {value:.3g}" for name, value in values.items())
        tell(f"trial {trial.number}: {settings}: {reported.get(last, 0):.1f} % after {last} steps, {outcome}")
        return trial

    def _suggest(self, trial: Any, name: str) -> float:
        low, high = self.ranges[name]
        if name.startswith("method.step."):
            return trial.suggest_int(name, int(low), int(high), log=True)
        return trial.suggest_float(name, low, high, log=True)

    @staticmethod
    def _rounded_settings(drawn: Mapping[str, float]) -> dict[str, float]:
        """Settings by their dotted names, rounded to three digits, so that flags can state them."""
        values = {name: value for name, value in drawn.items() if name != RATIO}
        if RATIO in drawn:
            values["distill.lr_lr"] = drawn[RATIO] * drawn["distill.lr_init"] ** 2
        return {name: float(f"{value:.3g}") for name, value in values.items()}

    def _reported(self, trial: Any) -> dict[int, float]:
        """Reported accuracies of a trial, by outer steps."""
        return dict(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def _judge_finalists(self) -> None:
        """Judge the best trials again, with more and other networks, because the best of many noisy accuracies is too
        high."""
        ended = [trial for trial in self._ended() if trial.state == self.states.COMPLETE and trial.value]
        for trial in sorted(ended, key=lambda trial: trial.value, reverse=True)[:FINALISTS]:
            if f"judged {trial.number}" in self.study.user_attrs:
                continue
            synthetic = SyntheticSet.load(RunDir(self._folder(trial)).synthetic)
            settings = self.experiment.distill.replace(validate_networks=JUDGES)
            judged = validate(synthetic, self.dataset, settings, derive(self.experiment.seed, "finalists"))
            self.study.set_user_attr(f"judged {trial.number}", judged)

    def _save(self) -> Tuning:
        """Rewrite tuning.json."""
        trials = tuple(self._record(trial) for trial in self._ended())
        names = list(self._rounded_settings(dict.fromkeys(self.ranges, 1.0)))
        ranges = {name: self._range(name) for name in names}
        tuning = self.empty.replace(trials=trials, ranges=ranges)
        if tuning.winner is not None:
            tuning = tuning.replace(flags=" ".join(flags_of(tuning.winner.values)))
        tuning.save(self.out)
        return tuning

    def _range(self, name: str) -> tuple[float, float]:
        if name in self.ranges:
            return self.ranges[name]
        pairs = zip(self.ranges[RATIO], self.ranges["distill.lr_init"], strict=True)
        low, high = (ratio * lr**2 for ratio, lr in pairs)
        return low, high

    def _record(self, trial: Any) -> TrialRecord:
        outcome: Outcome = "complete"
        if trial.state == self.states.PRUNED:
            outcome = "pruned"
        elif trial.user_attrs.get("diverged"):
            outcome = "diverged"
        return TrialRecord(
            number=trial.number,
            values=trial.user_attrs["values"],
            outcome=outcome,
            accuracies=trial.intermediate_values,
            judged=self.study.user_attrs.get(f"judged {trial.number}"),
            seconds=trial.duration.total_seconds(),
        )


def with_values(experiment: Experiment, values: Mapping[str, float]) -> Experiment:
    """The experiment with settings changed by their dotted names."""
    for name, value in whole_counts(values).items():
        experiment = with_value(experiment, name, value)
    return experiment


def whole_counts(values: Mapping[str, float]) -> dict[str, float | int]:
    """The values, with counts as integers."""
    return {name: int(value) if name.startswith("method.step.") else value for name, value in values.items()}


def _current_values(experiment: Experiment, ranges: Ranges) -> dict[str, float]:
    """The experiment's own values for the names in `ranges`."""
    settings = experiment.distill
    return {
        name: settings.lr_lr / settings.lr_init**2 if name == RATIO else value_of(experiment, name) for name in ranges
    }


def first_ranges(
    experiment: Experiment, search: Search, dataset: Dataset, experts: TrajectoryStore | None
) -> tuple[Ranges, dict[str, float]]:
    """The search range of each value, and the first values to try.

    η₀, for methods that match trajectories: around the value with the lowest loss before any outer step is taken.
    lr_img, for the outer SGD: around the value whose first outer step moves the images by `MOVE`. Both hardly depend on
    the given values. Otherwise the ranges are around the given values.
    """
    settings, method = experiment.distill, experiment.method
    first_step = _FirstStep(experiment, dataset, experts)
    suggested: dict[str, float] = {}
    ranges: Ranges = {}
    lr, factor = settings.lr_init, 100.0
    if isinstance(method.step, TrajectoryMatching):
        lr, factor = first_step.best_lr(), 10.0
    if experiment.evaluation.recipe.lr is None:
        suggested["distill.lr_init"], ranges["distill.lr_init"] = lr, _around(lr, factor)
        if "lr" in method.learn:
            suggested[RATIO], ranges[RATIO] = BOLD, RATIOS
    image_lr, factor = settings.lr_img, 1000.0
    if settings.outer_optimiser == "sgd":
        image_lr, factor = first_step.lr_img(lr), 100.0
    suggested["distill.lr_img"], ranges["distill.lr_img"] = image_lr, _around(image_lr, factor)
    if "targets" in method.learn and settings.lr_targets:
        suggested["distill.lr_targets"] = settings.lr_targets
        ranges["distill.lr_targets"] = _around(settings.lr_targets, 100.0)
    counts = _step_ranges(experiment, search)
    suggested |= {name: value for name, value in _current_values(experiment, counts).items()}
    return ranges | counts, suggested


def _around(value: float, factor: float) -> tuple[float, float]:
    return value / factor, value * factor


class _FirstStep:
    """Evaluates the first outer step of an experiment for any η₀, without taking it."""

    def __init__(self, experiment: Experiment, dataset: Dataset, experts: TrajectoryStore | None) -> None:
        self.experiment = experiment
        network = build_model(experiment.model, dataset.shape, len(dataset.classes)).to(dataset.device)
        if experts is not None:
            experts = experts.first(experiment.distill.max_experts or len(experts))
        self.run = Distillation(
            dataset,
            experts,
            experiment.method,
            experiment.ipc,
            experiment.distill,
            None,
            experiment.seed,
            FlatModel(network),
            experiment.model,
        )
        self.first = self.run.start()

    def steps(self, lr: float) -> list[tuple[float, float]]:
        """Loss and root mean square of the images' gradient, for `SEGMENTS` draws of the first outer step."""
        measured, first = [], self.first
        for draw in range(SEGMENTS):
            settings = self.experiment.distill.replace(lr_init=lr)
            other_rates = {name: first.learned[name] for name in self.experiment.method.step.rates()}
            state = DistillState(first.images, first.targets, self.experiment.method, settings, other_rates, first.step)
            state.counters.iteration = draw
            gradient, _ = self.run.attempted(state)
            measured.append((float(gradient.loss), float(gradient.images.square().mean().sqrt())))
        return measured

    def best_lr(self) -> float:
        """The η₀ with the lowest loss: whole decades from the given value are compared, then half decades around the
        best of these."""
        initial = self.experiment.distill.lr_init
        lowest, highest = math.ceil(math.log10(LOWEST_LR / initial)), math.floor(math.log10(HIGHEST_LR / initial))
        losses = {power: self._loss(initial * 10**power) for power in map(float, range(lowest, highest + 1))}
        best = min(losses, key=losses.__getitem__, default=0.0)
        losses |= {power: self._loss(initial * 10**power) for power in (best - 0.5, best + 0.5)}
        return initial * 10 ** min(losses, key=losses.__getitem__)

    def _loss(self, lr: float) -> float:
        loss = statistics.median(loss for loss, _ in self.steps(lr))
        if math.isfinite(loss):
            return loss
        return math.inf

    def lr_img(self, lr: float) -> float:
        """The learning rate with which the first outer step moves the images by `MOVE` of their root mean square; the
        given one if there is no gradient."""
        slopes = [slope for _, slope in self.steps(lr) if math.isfinite(slope) and slope > 0]
        if not slopes:
            return self.experiment.distill.lr_img
        return MOVE * float(self.first.images.square().mean().sqrt()) / statistics.median(slopes)
