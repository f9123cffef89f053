"""The stages of an experiment, each of which resumes from existing files, and the logging of a run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import Tensor

from ..autodiff.dispatch import using
from ..data.dataset import Dataset
from ..data.description import Description
from ..data.synthetic import SyntheticSet
from ..distillation.loop import distill
from ..distillation.run import Distillation, StepRecord
from ..distillation.settings import unread
from ..distillation.state import DistillState
from ..evaluation.rows import TAUGHT
from ..evaluation.runner import evaluate_all
from ..evaluation.scores import Scores
from ..evaluation.teacher import Teacher
from ..experts.recipe import ExpertCurve
from ..experts.store import TrajectoryStore
from ..experts.training import train_experts
from ..methods.method import Method
from ..methods.trajectory_matching import MTT
from ..report.experts import record_experts
from ..report.figures import save_curves, save_quality
from ..report.page.page import renew_page
from ..report.pictures import save_grid, save_textures, sheet, visible
from ..report.run import unmoved_loss
from ..runtime.devices import read, settled_device
from ..runtime.errors import InputError, refused
from ..runtime.files import check_folder, read_json, read_lines, reading
from ..runtime.objects import Url
from ..runtime.progress import tell, write_status
from ..runtime.run_dir import RunDir, sound_metric
from ..runtime.status import stage
from ..runtime.tracking import Log, open_log
from .config import (
    Experiment,
    check_experiment,
    check_numbers,
    evaluation_recipe,
    expert_epochs,
    imported_experts,
    load_data,
)
from .work import describe_device

PICTURES = 50
"""Number of pictures and histograms logged over a run. The steps in `EARLY`, when images change most, are logged in
addition."""
EARLY = (0, 1, 2, 5, 10, 20, 50, 100)
MOST = 100_000
"""Maximum number of values in a histogram; larger tensors are sampled at even intervals."""


class Recorder:
    """Logs the progress of a run; does nothing if the log has no loggers. It never changes what it logs, and draws no
    random numbers.

    Groups: `experts` (steps: epochs), `distillation` (outer steps), `scores` (outer steps of the set).
    """

    def __init__(self, log: Log) -> None:
        self.log = log

    def experts(self, store: TrajectoryStore) -> None:
        """Log each metric of the experts for every epoch from 1: the mean, and the values of all experts as a
        histogram."""
        if not self.log:
            return
        curves = store.curves()
        for name in ExpertCurve.__dataclass_fields__:
            for epoch, values in enumerate(zip(*(getattr(curve, name) for curve in curves), strict=False), start=1):
                self.log.scalars("experts", {name: statistics.fmean(values)}, epoch)
                self.log.histogram("experts", f"{name} of each", np.array(values), epoch)

    def __call__(self, run: Distillation, state: DistillState, line: StepRecord) -> None:
        """Log one outer step; an observer of `distill`."""
        if not self.log:
            return
        step = int(line["iteration"])
        values = {name: float(line[name]) for name in ("loss", "lr", "validation") if name in line}
        values |= {"skipped": float(state.counters.skipped), "passed": float(state.counters.passed)}
        gradients: dict[str, Tensor] = {}
        if not {"skipped", "passed"} & line.keys():
            gradients = _gradients(state)
        if gradients:
            values |= read({f"gradient norm of {name}": gradient.norm() for name, gradient in gradients.items()})
        self.log.scalars("distillation", values, step)
        if (
            step in EARLY
            or step % max(10, run.settings.iterations // PICTURES) == 0
            or step + 1 == run.settings.iterations
        ):
            self._log_images(run.result(state), gradients, step)

    def _log_images(self, synthetic: SyntheticSet, gradients: dict[str, Tensor], step: int) -> None:
        pixels = synthetic.pixels()
        self.log.image("distillation", "images", sheet(visible(pixels), synthetic.ipc), step)
        tensors = {"pixels": pixels, "preprocessed pixels": synthetic.images, "targets": synthetic.targets}
        tensors |= {f"gradient of {name}": gradient for name, gradient in gradients.items() if gradient.numel() > 1}
        for name, values in tensors.items():
            self.log.histogram("distillation", name, _subsample(values), step)

    def scores(self, scores: Scores, iterations: int) -> None:
        """Log the mean and the spread of every row."""
        for table in (scores.architecture, scores.baselines):
            for name, entry in table.items():
                values = {f"{name} mean": entry.mean}
                if entry.std is not None:
                    values[f"{name} deviation"] = entry.std
                self.log.scalars("scores", values, iterations)


def _gradients(state: DistillState) -> dict[str, Tensor]:
    """The meta-gradient of each learned tensor, as used by the last step."""
    return {name: tensor.grad for name, tensor in state.learned.items() if tensor.grad is not None}


def _subsample(values: Tensor) -> np.ndarray:
    flat = values.detach().flatten()
    return flat[:: -(-len(flat) // MOST)].float().cpu().numpy()


SILENT = Recorder(Log({}))


def ignore_description(description: Description) -> None:
    """Print nothing about the data; their description is on the page and in provenance.json."""


def obtain_experts(
    experiment: Experiment, dataset: Dataset, recorder: Recorder = SILENT, shard: str | None = None
) -> TrajectoryStore:
    """Return the experts. Imported ones are used unchanged; otherwise missing ones, or only those of a shard (see
    `train_experts`), are trained, and the quality figure is saved in the folder of the store."""
    settings = experiment.experts
    if settings.imported is not None:
        return imported_experts(experiment)
    with using(experiment.engine):
        store = train_experts(
            dataset,
            model=experiment.model,
            recipe=experiment.method.recipe,
            count=settings.count,
            store=settings.store,
            seed=settings.seed,
            dtype=settings.dtype,
            workers=experiment.workers,
            stop_after=expert_epochs(experiment),
            shard=shard,
        )
    recorder.experts(store)
    save_quality({experiment.method.name: store.curves()}, store.scratch / "quality.png")
    return store


def obtain_synthetic(
    experiment: Experiment, dataset: Dataset, experts: TrajectoryStore | None, out: Path, recorder: Recorder = SILENT
) -> SyntheticSet:
    """Return the distilled set. Its picture and curves are saved in `out`, and textures as a folder of tileable
    files."""
    with using(experiment.engine):
        synthetic = distill(
            dataset,
            experts,
            method=experiment.method,
            model=experiment.model,
            ipc=experiment.ipc,
            settings=experiment.distill,
            out=out,
            seed=experiment.seed,
            observers=[recorder],
            workers=experiment.workers,
        )
    if experts is not None:
        record_experts(experts.first(experiment.distill.max_experts or len(experts)), out)
    save_grid(synthetic, RunDir(out).images)
    if synthetic.canvas > 1:
        save_textures(synthetic, RunDir(out).textures)
    _draw_curves(experiment.method, RunDir(out))
    return synthetic


def _draw_curves(method: Method, run: RunDir) -> None:
    """Save the curves of a run. If its log is empty, print a message and do not fail, because the set is finished."""
    lines = read_lines(run.metrics, sound_metric)
    if all(line.get("loss") is None for line in lines):
        tell(f"{run.metrics} holds no outer step, so no curves are drawn.")
        return
    save_curves(
        lines,
        run.curves,
        loss_name=method.step.loss_name,
        learned_lr="lr" in method.learn,
        unmoved=unmoved_loss(method),
    )


def obtain_teacher(experiment: Experiment, dataset: Dataset, temperature: float = 1.0) -> Teacher:
    """Return the teacher: the first expert of the run, trained for its whole recipe even if the run itself needs fewer
    epochs, so that it does not depend on other runs that share the store. A method without experts gets an MTT expert;
    of imported experts, the first one is used unchanged."""
    settings = experiment.experts
    if experiment.method.expert is None:
        with using(experiment.engine):
            store = train_experts(
                dataset, model=experiment.model, recipe=MTT.recipe, count=1, store=settings.store, seed=settings.seed
            )
        return Teacher.of(store, temperature)
    full_run = experiment.replace(experts=settings.replace(count=1, stop_after=None))
    return Teacher.of(obtain_experts(full_run, dataset), temperature)


def obtain_scores(experiment: Experiment, dataset: Dataset, synthetic: SyntheticSet, out: Path) -> Scores:
    """The scores of the set and of the baselines, resumed network by network."""
    settings, teacher = experiment.evaluation, None
    if TAUGHT in settings.baselines or settings.recipe.temperature:
        teacher = obtain_teacher(experiment, dataset)
    with using(experiment.engine):
        return evaluate_all(
            synthetic,
            dataset,
            recipe=evaluation_recipe(experiment),
            model=settings.architectures or None,
            seeds=settings.networks,
            baselines=settings.baselines,
            out=out,
            seed=experiment.seed,
            workers=experiment.workers,
            teacher=teacher,
        )


def prepare(
    experiment: Experiment, out: Path, on_description: Callable[[Description], None] = ignore_description
) -> Dataset:
    """Load the data, check everything that can be checked, and claim `out` for this run.

    `on_description` is called with the description of the data before the checks. Raises InputError, with nothing
    written, if a check fails or another process is writing to the run.
    """
    folder = RunDir(out)
    folder.check_free()
    check_folder(out, "--out")
    if experiment.method.expert is not None and isinstance(experiment.experts.store, Url):
        check_numbers(experiment)
    dataset = load_data(experiment)
    description = Description.of(dataset, experiment.ipc)
    print_device(experiment, description)
    on_description(description)
    check_experiment(experiment, dataset)
    saved_config = read_json(folder.config) if folder.config.exists() else {}
    with reading(folder.config, "the settings of a run", "restore it, or name a new folder with --out"):
        former = unread(saved_config.get("distill", {}), experiment.method)
    with folder.writing():
        folder.claim(
            _resolve_auto(experiment).to_json(),
            dataset.fingerprint,
            settled_device(experiment.device),
            read=_upgrade_config,
            former=former,
            about=description.to_json(),
        )
    return dataset


def check_continued(experiment: Experiment, out: Path) -> None:
    """Raise InputError, with nothing written, unless the experiment can begin in `out` or continue what it holds, as
    far as that can be told without its data."""
    RunDir(out).check_continued(_resolve_auto(experiment).to_json(), _upgrade_config)


def print_device(experiment: Experiment, description: Description) -> None:
    """Print the device of this experiment and what computes its derivatives."""
    with using(experiment.engine):
        tell(describe_device(experiment.device, description.shape, len(description.classes), experiment.model))


def _upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """Convert a config.json, possibly of an earlier version, to the form that this version writes."""
    try:
        return Experiment.model_validate(config).to_json()
    except ValidationError as error:
        raise InputError(f"{refused(error)} So says its config.json; restore that, or name a new --out.") from error


def _resolve_auto(experiment: Experiment) -> Experiment:
    """Replace "auto" by the device and the number of epochs that it stands for, so that the saved settings do not
    depend on the machine or the method."""
    experiment = experiment.replace(device=settled_device(experiment.device))
    if experiment.method.expert is None:
        return experiment
    return experiment.replace(experts=experiment.experts.replace(stop_after=expert_epochs(experiment)))


@contextmanager
def tracked(experiment: Experiment, out: Path, loggers: Sequence[str]) -> Iterator[Recorder]:
    """Yield a recorder for the named loggers, and write the status of the run to `out` inside the block (for
    `astdistill watch`)."""
    with write_status(RunDir(out).live), open_log(loggers, out, experiment.to_json()) as log:
        yield Recorder(log)


def distill_experiment(experiment: Experiment, dataset: Dataset, out: Path, recorder: Recorder) -> SyntheticSet:
    """Return the distilled set of a run that `prepare` has claimed. Missing experts are trained if the method needs
    them."""
    experts = None
    if experiment.method.expert is not None:
        with stage("experts", out):
            experts = obtain_experts(experiment, dataset, recorder)
    with stage("distillation", out):
        return obtain_synthetic(experiment, dataset, experts, out, recorder)


def run_experiment(
    experiment: Experiment,
    out: Path,
    loggers: Sequence[str] = (),
    tell: Callable[[Description], None] = ignore_description,
) -> Scores:
    """Run every stage in order. Each resumes from the files in `out` and in the expert store.

    Results do not depend on `loggers`. `tell` is called with the description of the data before anything is computed.
    `out`/report.html is the report of the run.
    """
    dataset = prepare(experiment, out, tell)
    with RunDir(out).writing(), tracked(experiment, out, loggers) as recorder:
        synthetic = distill_experiment(experiment, dataset, out, recorder)
        with stage("evaluation", out):
            scores = obtain_scores(experiment, dataset, synthetic, out)
        recorder.scores(scores, experiment.distill.iterations)
    renew_page(out)
    return scores
