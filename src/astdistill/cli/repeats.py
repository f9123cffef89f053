"""`astdistill run PRESET --seeds N`: whole runs that differ in their seed alone, and what they reach together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from ..data.description import Description
from ..evaluation.scores import RowScores, Scores, caption
from ..experiment.config import Experiment
from ..experiment.pipeline import run_experiment
from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.files import check_folder, write_json
from ..runtime.progress import console
from ..runtime.run_dir import SEEDS, RunDir
from ..runtime.tables import Column, Tabulation, deviation, spread, terminal


class Repeats(Record):
    """What whole runs of one experiment reach, in percent, by their seeds."""

    experiment: str
    seeds: tuple[int, ...]
    means: tuple[float, ...]
    """The mean over the networks of each run."""
    networks: int
    """Networks of each run."""
    mean: float
    """Over the runs."""
    std: float | None
    """Sample standard deviation over the runs; None for one."""


def seeded(experiment: Experiment, number: int) -> Experiment:
    """The experiment with the `number`-th whole-run seed: its own experts, draws and evaluated networks."""
    experts = experiment.experts.replace(seed=experiment.experts.seed + number)
    return experiment.replace(seed=experiment.seed + number, experts=experts)


def run_seeds(
    experiment: Experiment, seeds: int, out: Path, loggers: tuple[str, ...], tell: Callable[[Description], None]
) -> None:
    """Run with every seed, each in a folder of its own in `out`, resumed from what is there; show all and what they
    reach together. `out`/seeds.json is rewritten after each."""
    check_folder(out, "--out")
    if RunDir(out).config.exists():
        raise InputError(f"{out} holds a run; name another folder for the runs of --seeds, such as --out {out}-seeds")
    runs: dict[int, Scores] = {}
    for number in range(seeds):
        each = seeded(experiment, number)
        folder = out / f"seed-{each.seed}"
        console().print(f"{folder}:", highlight=False)
        runs[each.seed] = run_experiment(each, folder, loggers, tell)
        write_json(out / SEEDS, together(experiment.name, runs).to_json())
    Console().print(terminal(table(experiment, runs)))
    Console().print(f"Numbers:   {out / SEEDS}\nCompare:   astdistill compare {out}", highlight=False)


def together(name: str, runs: dict[int, Scores]) -> Repeats:
    """The finished runs as one record."""
    rows = [first(scores) for scores in runs.values()]
    means = tuple(row.mean for row in rows)
    mean = sum(means) / len(means)
    return Repeats(experiment=name, seeds=tuple(runs), means=means, networks=rows[0].n, mean=mean, std=deviation(means))


def first(scores: Scores) -> RowScores:
    """The networks of the run's own student."""
    return next(iter(scores.architecture.values()))


def table(experiment: Experiment, runs: dict[int, Scores]) -> Tabulation:
    """A row for each seed, and the mean ± standard deviation over the runs."""
    names = list(next(iter(runs.values())).baselines)
    rows: list[tuple[str, ...]] = [
        (f"seed {seed}", first(scores).text, *(scores.baselines[name].text for name in names), str(first(scores).n))
        for seed, scores in runs.items()
    ]
    whole = [spread([first(scores).mean for scores in runs.values()])]
    whole += [spread([scores.baselines[name].mean for scores in runs.values()]) for name in names]
    rows.append(("over runs", *whole, f"{len(runs)} runs"))
    columns = (Column("run", words=True), Column(experiment.method.name, bold=True), *map(Column, names), Column("n"))
    words = caption(next(iter(runs.values()))).rstrip(".")
    text = f"{words}; last row: mean ± standard deviation of the runs' means."
    return Tabulation(columns, tuple(rows), text, title=f"{experiment.name}, {len(runs)} whole runs")
