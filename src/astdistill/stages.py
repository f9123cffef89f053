"""The way through an experiment, stage by stage; each resumes from what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .clock import stage
from .data import Dataset
from .distillation import distill
from .engines import using
from .evaluation import Scores, evaluate_all
from .experiment import Experiment, check_experiment, expert_epochs, imported_experts, load_data
from .experts import TrajectoryStore, train_experts
from .logs import Log, open_log
from .progress import telling
from .recording import Recorder
from .report import record_experts, renew_page, save_curves, save_grid, save_quality, save_textures
from .run_folder import claim
from .runs import read_lines
from .synthetic import SyntheticSet

SILENT = Recorder(Log({}))


def obtain_experts(experiment: Experiment, dataset: Dataset, recorder: Recorder = SILENT) -> TrajectoryStore:
    """The experts: imported ones as they are, others trained where they are missing, with the quality figure beside them."""
    wanted = experiment.experts
    if wanted.imported is not None:
        return imported_experts(experiment)
    with using(experiment.engine):
        store = train_experts(
            dataset,
            model=experiment.model,
            recipe=experiment.method.expert,
            count=wanted.count,
            store=wanted.store,
            seed=wanted.seed,
            dtype=wanted.dtype,
            workers=experiment.workers,
            stop_after=expert_epochs(experiment),
        )
    recorder.experts(store)
    save_quality({experiment.method.name: store.curves()}, store.folder / "quality.png")
    return store


def obtain_synthetic(
    experiment: Experiment, dataset: Dataset, experts: TrajectoryStore, out: Path, recorder: Recorder = SILENT
) -> SyntheticSet:
    """The distilled set, with its picture and curves beside it, and textures as a folder of files that can be tiled."""
    with using(experiment.engine):
        synthetic = distill(
            dataset,
            experts,
            method=experiment.method,
            ipc=experiment.ipc,
            settings=experiment.distill,
            out=out,
            seed=experiment.seed,
            observers=[recorder],
        )
    record_experts(experts, out)
    save_grid(synthetic, out / "images.png")
    if synthetic.canvas > 1:
        save_textures(synthetic, out / "textures")
    save_curves(read_lines(out / "metrics.jsonl"), out / "curves.png")
    return synthetic


def obtain_scores(experiment: Experiment, dataset: Dataset, synthetic: SyntheticSet, out: Path) -> Scores:
    """The scores of the set and of the baselines, resumed network by network."""
    wanted = experiment.evaluation
    with using(experiment.engine):
        return evaluate_all(
            synthetic,
            dataset,
            recipe=wanted.recipe,
            model=wanted.architectures or None,
            seeds=wanted.networks,
            baselines=wanted.baselines,
            out=out,
            seed=experiment.seed,
            workers=experiment.workers,
        )


def prepare(experiment: Experiment, out: Path) -> Dataset:
    """The data, once everything that can be checked has been, and `out` is this run's. Raises InputError with nothing written."""
    dataset = load_data(experiment)
    check_experiment(experiment, dataset)
    # The number that "auto" stands for is noted, so that whoever reads the folder need not know the method.
    noted = experiment.replace(experts=experiment.experts.replace(stop_after=expert_epochs(experiment)))
    claim(noted.to_json(), dataset.fingerprint, out, experiment.device)
    return dataset


@contextmanager
def followed(experiment: Experiment, out: Path, loggers: Sequence[str]) -> Iterator[Recorder]:
    """A recorder for the named loggers; while the block lasts, `out` says where the run is (`astdistill watch`)."""
    with telling(out / "live.json"), open_log(loggers, out, experiment.to_json()) as log:
        yield Recorder(log)


def distill_experiment(experiment: Experiment, dataset: Dataset, out: Path, recorder: Recorder) -> SyntheticSet:
    """The distilled set of a run that `prepare` has claimed, its experts trained where they are missing."""
    with stage("experts", out):
        experts = obtain_experts(experiment, dataset, recorder)
    with stage("distillation", out):
        return obtain_synthetic(experiment, dataset, experts, out, recorder)


def run_experiment(experiment: Experiment, out: Path, loggers: Sequence[str] = ()) -> Scores:
    """Every stage in order; each resumes from what `out` and the expert store already hold. No result depends on the `loggers`.

    `out`/report.html shows the whole.
    """
    dataset = prepare(experiment, out)
    with followed(experiment, out, loggers) as recorder:
        synthetic = distill_experiment(experiment, dataset, out, recorder)
        with stage("evaluation", out):
            scores = obtain_scores(experiment, dataset, synthetic, out)
        recorder.scores(scores, experiment.distill.iterations)
    renew_page(out)
    return scores
