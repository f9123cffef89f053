"""What each of AST's six parts is worth: the method with one of them off, and with all of them off, over several
whole-run seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..autodiff.dispatch import using
from ..evaluation.scores import Scores, caption, spread
from ..experiment.config import Experiment, check_numbers
from ..experiment.cost import counted, dataset_size
from ..experiment.pipeline import run_experiment
from ..experiment.presets import PRESETS
from ..experiment.work import Costs, Speed
from ..methods.method import PARTS
from ..runtime.config import Record
from ..runtime.devices import check_device, settled_device
from ..runtime.errors import InputError
from ..runtime.files import check_folder, write_json
from ..runtime.progress import console
from ..runtime.status import duration
from ..runtime.tables import Column, Tabulation, markdown, terminal
from ..runtime.terminal import Terminal
from .flags import Word
from .options import Changes, PresetCommand, Request
from .verbs import computing_with, threads_of

NONE = "none of the six"


class AblationRow(Record):
    """One variant: the final accuracies in percent of every network, one tuple a seed, in the order of the seeds."""

    variant: str
    final: tuple[tuple[float, ...], ...]

    @property
    def means(self) -> tuple[float, ...]:
        """The mean over the networks of each seed."""
        return tuple(statistics.fmean(networks) for networks in self.final)


class Ablation(Record):
    """The table: the whole method first, then without each part, then without all."""

    base: str
    method: str
    seeds: int = Field(ge=1)
    protocol: str
    rows: tuple[AblationRow, ...]

    def change(self, row: AblationRow) -> tuple[float, ...]:
        """By seed, what the variant reaches less what the whole method reaches with the same seed, in points."""
        return tuple(ours - whole for ours, whole in zip(row.means, self.rows[0].means, strict=False))


def variants(experiment: Experiment) -> dict[str, Experiment]:
    """The experiment whole, without each part that its method has, and without all of them. Raises InputError if it has
    none."""
    method = experiment.method
    on = {part: without for part in PARTS if (without := method.without(part)) != method}
    if not on:
        raise InputError(
            f"'{method.name}' has none of AST's six parts ({', '.join(PARTS)}); name a --base whose method is ast."
        )
    none = method
    for part in on:
        none = none.without(part)
    methods = {method.name: method} | {f"without {part}": without for part, without in on.items()}
    if len(on) > 1:
        methods[NONE] = none
    return {name: experiment.replace(method=each) for name, each in methods.items()}


def seeded(experiment: Experiment, number: int) -> Experiment:
    """The experiment with the `number`-th whole-run seed: its own experts, draws and evaluated networks, and no
    baselines."""
    return experiment.replace(
        seed=experiment.seed + number,
        experts=experiment.experts.replace(seed=experiment.experts.seed + number),
        evaluation=experiment.evaluation.replace(baselines=()),
    )


def ablate(
    experiment: Experiment,
    seeds: int,
    out: Path,
    on_run: Callable[[str, Scores], None] = lambda folder, scores: None,
    loggers: Sequence[str] = (),
) -> Ablation:
    """Run every variant with every seed; each is an ordinary run folder in `out`, and is resumed from what is there.

    Seeds are the outer loop, so that an ablation that is stopped has whole rounds. `ablation.json` is rewritten after
    every run. `on_run` is told the name of each finished run and its scores.
    """
    final: dict[str, list[tuple[float, ...]]] = {}
    ablation: Ablation | None = None
    for folder, name, each in runs(experiment, seeds):
        console().print(f"{folder}:", highlight=False)
        scores = run_experiment(each, out / folder, loggers)
        final.setdefault(name, []).append(next(iter(scores.architecture.values())).final)
        rows = tuple(AblationRow(variant=variant, final=tuple(values)) for variant, values in final.items())
        ablation = Ablation(
            base=experiment.name, method=experiment.method.name, seeds=seeds, protocol=caption(scores), rows=rows
        )
        write_json(out / "ablation.json", ablation.to_json())
        on_run(folder, scores)
    assert ablation is not None
    return ablation


def runs(experiment: Experiment, seeds: int) -> Iterator[tuple[str, str, Experiment]]:
    """Folder, name of the variant and experiment of every run, seed after seed."""
    for number in range(seeds):
        for name, variant in variants(experiment).items():
            yield f"{name.replace(' ', '-')}-seed{experiment.seed + number}", name, seeded(variant, number)


COLUMNS = Column("variant", words=True), Column("accuracy, %"), Column("change, points"), Column("n")


def table(ablation: Ablation) -> Tabulation:
    """The ablation as a table; spreads are over seeds."""
    changes = ["", *(spread(ablation.change(row)) for row in ablation.rows[1:])]
    rows = tuple(
        (row.variant, spread(row.means), change, f"{len(row.final)} × {len(row.final[0])}")
        for row, change in zip(ablation.rows, changes, strict=True)
    )
    return Tabulation(COLUMNS, rows, _caption(ablation), title=f"{ablation.method} on {ablation.base}")


def _caption(ablation: Ablation) -> str:
    protocol = ablation.protocol.rsplit("; mean", 1)[0]
    return (
        f"{protocol}. n: whole runs × networks; accuracy: mean of the runs' means ± their standard deviation; "
        f"change: the same of the differences to {ablation.method} with the same seed."
    )


class AblationChanges(Changes):
    """The same, and what is taken apart."""

    base: Annotated[str, Word(metavar="PRESET", names=lambda: PRESETS)] = ""
    """Preset whose parts are removed; they are listed by: astdistill presets"""
    seeds: int = 3
    """Whole runs of each variant, experts included."""


def _base(changes: AblationChanges, rest: Sequence[str]) -> str:
    if not changes.base:
        base = next(iter(rest), "cifar100-ten-ipc10")
        raise InputError(f"Name the preset of the ablation: astdistill run ablation --base {base} --seeds 3")
    return changes.base


def command(request: Request) -> None:
    """`astdistill run ablation --base PRESET [--seeds N] [any flag of run]`."""
    assert isinstance(request.changes, AblationChanges)
    seeds, out = request.changes.seeds, request.out
    if seeds < 1:
        raise InputError(f"--seeds {seeds} was given; an ablation needs at least 1, and 3 for a spread.")
    check_device(request.experiment.device)
    with computing_with(threads_of(request)):
        if request.dry_run:
            _estimate(request, seeds, out)
            return
        check_numbers(request.experiment)
        check_folder(out, "--out")
        ablation = ablate(request.experiment, seeds, out, loggers=request.log)
    (out / "ablation.md").write_text(markdown(table(ablation)), encoding="utf-8")
    Terminal().print(terminal(table(ablation)))
    Terminal().print(f"Numbers:   {out / 'ablation.json'}", highlight=False)


def _estimate(request: Request, seeds: int, out: Path) -> None:
    """Print what every variant would cost; experts of one recipe are trained once."""
    rows: list[tuple[str, str, str]] = []
    device = settled_device(request.experiment.device)
    trained, whole, speed = set(), 0.0, Speed(device)
    costs = Costs(device, speed)
    for name, each in variants(request.experiment).items():
        check_numbers(each)
        first = seeded(each, 0)
        with using(each.engine):
            stages = counted(first, dataset_size(first), costs).stages
        recipe, spent, experts = each.method.expert, 0.0, "shared"
        if recipe not in trained:
            spent = seeds * sum(stage.seconds for stage in stages[:-2])
        if spent:
            experts = duration(spent)
        rest = seeds * sum(stage.seconds for stage in stages[-2:])
        trained.add(recipe)
        whole += spent + rest
        rows.append((name, experts, duration(rest)))
    rows.append(("together", "", duration(whole)))
    columns = Column("variant", words=True), Column("experts"), Column("distillation and evaluation")
    words = (
        f"For {seeds} seeds: counted work over a speed measured just now.",
        speed.disturbed(),
        f"It would go to {out}.",
    )
    caption = " ".join(filter(None, words))
    Terminal().print(terminal(Tabulation(columns, tuple(rows), caption)))


ablation = PresetCommand(
    "run ablation",
    command,
    "Repeat a preset without each part of its method in turn, and without all of them. All flags of run are accepted.",
    kind=AblationChanges,
    preset=_base,
    folder="ablation-{}",
    prog="astdistill {verb} --base {}",
)
