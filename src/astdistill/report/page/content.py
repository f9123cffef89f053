"""What the page says about each run: figures in words, tables, and the commands that would make what is missing."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from ...evaluation.continual import continual_table
from ...evaluation.dd_ranking import ranking_table
from ...evaluation.rate_search import rates_table
from ...evaluation.scores import BASELINE_NAMES, caption, table
from ...runtime.provenance import without_places
from ...runtime.status import duration, size
from ...runtime.tables import Column, Tabulation
from ..run import RunReader

STAGES = ("experts", "distillation", "evaluation")
HIDDEN = ("versions", "machine", "resumed", "settings", "step", "best")
"""Parts of the provenance that have a row of their own, or stand elsewhere."""
PROGRAMS = ("astdistill", "__main__.py", "cli.py")
"""What the command line's own file is called."""


@dataclass(frozen=True)
class Bar:
    """One accuracy in percent beside others; `low` and `high` are one deviation away."""

    name: str
    value: float
    text: str
    kind: str
    low: float | None = None
    high: float | None = None


def subtitle(run: RunReader) -> str:
    """One line: how many images of which data, by which method, for which network."""
    if run.synthetic is None:
        return f"{run.method}, not distilled yet"
    found = run.synthetic
    images = f"{len(found.images):,} synthetic {'images' if found.canvas == 1 else 'textures'}, {found.ipc} per class"
    return " · ".join(word for word in (images, found.method, found.published().data.source, found.model) if word)


def bars(run: RunReader) -> list[Bar]:
    """The headline beside its baselines and the published figure, from low to high."""
    if run.entry is None or run.scores is None:
        return []
    found = []
    for name, entry in [("these images", run.entry), *run.scores.baselines.items()]:
        kind = "own" if name == "these images" else name
        deviation = entry.std or 0.0
        bounds = (max(0.0, entry.mean - deviation), min(100.0, entry.mean + deviation)) if deviation else (None, None)
        found.append(Bar(BASELINE_NAMES.get(name, name), entry.mean, entry.text, kind, *bounds))
    published = run.published.accuracy
    if published is not None:
        found.append(Bar("published", published, f"{published:.1f}", "published"))
    return sorted(found, key=lambda bar: bar.value)


def published(run: RunReader) -> str:
    """Where the published figure stands."""
    return "" if run.published.accuracy is None else run.published.source


def protocol(run: RunReader) -> str:
    """The sentence that no accuracy goes without."""
    return caption(run.scores) if run.scores else ""


def steps(run: RunReader) -> str:
    """How many outer steps were taken, skipped and passed over."""
    if not run.metrics:
        return ""
    skipped, passed = (sum(word in line for line in run.metrics) for word in ("skipped", "passed"))
    reasons = {str(line["skipped"]) for line in run.metrics if "skipped" in line}
    why = f" ({'; '.join(sorted(reasons)[:2])})" if reasons else ""
    over = f", {passed:,} passed over by the method's threshold" if passed else ""
    rates = [float(line["lr"]) for line in run.metrics]
    rate = f"; η went from {rates[0]:.4g} to {rates[-1]:.4g}" if run.learns_lr else ""
    return f"{len(run.metrics):,} outer steps, {skipped:,} skipped{why}{over}{rate}."


def about(runs: Sequence[RunReader]) -> list[str]:
    """What the outer steps of these runs do, each kind once, and what η is where one of them learned it."""
    found = list(dict.fromkeys(run.step.about for run in runs if run.step.about))
    learned = "η is the step size for training on these images, learned with them."
    if any(run.learns_lr for run in runs):
        found[-1:] = [f"{found[-1]} {learned}"] if found else [learned]
    return found


def score_tables(run: RunReader) -> list[Tabulation]:
    """Every evaluation that trained several networks, searched step sizes, or was not the run's own."""
    found = []
    for name, scores in {run.name: run.scores, **run.other_scores}.items():
        if scores is None:
            continue
        if len(scores.architecture) > 1 or name in run.other_scores:
            found.append(replace(table(scores), title=name if name in run.other_scores else ""))
        if scores.rates:
            found.append(rates_table(scores.rates, scores.recipe))
    return found


def elsewhere(runs: Sequence[RunReader]) -> str:
    """What the section of `score_tables` is called."""
    several = any(
        len(scores.architecture) > 1 for run in runs for scores in (run.scores, *run.other_scores.values()) if scores
    )
    return "On other networks" if several else "Other evaluations"


def rankings(run: RunReader) -> list[Tabulation]:
    """DD-Ranking's scores of every evaluation that asked for them."""
    return [_titled(ranking_table(found), name, run.ranking) for name, found in run.ranking.items()]


def arrivals(run: RunReader) -> list[Tabulation]:
    """Class-incremental learning of every evaluation that asked for it."""
    return [_titled(continual_table(found), name, run.arriving) for name, found in run.arriving.items()]


def _titled(found: Tabulation, name: str, among: Mapping[str, object]) -> Tabulation:
    """The table, told apart from others of its kind by the folder of its evaluation."""
    return replace(found, title=f"{found.title}: {name}" if len(among) > 1 else found.title)


def costs(run: RunReader) -> Tabulation | None:
    """Time and peak memory of each stage, and the usual outer step."""
    stages = [line for line in run.clock if "stage" in line]
    step = {line["iteration"]: float(line["seconds"]) for line in run.clock if "iteration" in line}
    cells = []
    for name in STAGES:
        own = [line for line in stages if line["stage"] == name]
        if own:
            memory = max(max(line.get("peak_mib", 0), line.get("worker_peak_mib", 0)) for line in own)
            accelerator = max(line.get("accelerator_peak_mib", 0) for line in own)
            cells.append([name, duration(sum(line["seconds"] for line in own)), _memory(memory), _memory(accelerator)])
    if step:
        median = statistics.median(step.values())
        cells.append(["one outer step (median)", duration(median) if median >= 1 else f"{median:.2g} s", "", ""])
    if not cells:
        return None
    used = 4 if any(row[3] for row in cells) else 3
    columns = [Column("stage", words=True), Column("time"), Column("peak memory"), Column("accelerator")]
    note = "Memory is the largest process's peak up to the end of that stage. A resumed stage counts every call."
    return Tabulation(tuple(columns[:used]), tuple(tuple(row[:used]) for row in cells), note)


def settings(runs: Sequence[RunReader]) -> list[tuple[str, list[str], bool]]:
    """Every setting with its value in each run, and whether these differ; settings alone, not where the run was made.

    Of paths the page gives the last name alone, since it is made to be handed on; `config.json` has them whole.
    """
    whole = [_settings_of(run) for run in runs]
    flat = [_read_by(run, _flat(without_places(each))) for run, each in zip(runs, whole, strict=True)]
    names = list(dict.fromkeys(name for each in flat for name in each))
    values = [(name, [_word(each[name]) if name in each else "–" for each in flat]) for name in names]
    return [(name, found, len(set(found)) > 1) for name, found in values]


def _settings_of(run: RunReader) -> dict[str, Any]:
    """The settings of a run, or where there is its set alone what that says it was made with."""
    if run.config or run.synthetic is None:
        return run.config
    known = run.synthetic.provenance
    return {**known.get("settings", {}), **{name: known[name] for name in ("step",) if name in known}}


def _read_by(run: RunReader, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without those that the run's outer step does not read."""
    return {name: value for name, value in settings.items() if not name.startswith(run.step.ignores)}


def provenance(runs: Sequence[RunReader]) -> list[tuple[str, list[str], bool]]:
    """Where each run was made, in the same form."""
    flat = []
    for run in runs:
        whole = without_places(run.provenance)
        plain = {name: value for name, value in whole.items() if name not in HIDDEN}
        flat.append(
            _flat(
                plain
                | whole.get("machine", {})
                | whole.get("versions", {})
                | {"resumed": len(whole.get("resumed", []))}
            )
        )
    names = list(dict.fromkeys(name for each in flat for name in each))
    return [(name, [_word(each.get(name)) for each in flat], False) for name in names]


def command(run: RunReader) -> str:
    """The command line that made the run, of paths the last name alone; '' for a run that another program made."""
    program, *words = without_places(run.provenance.get("arguments") or [""])
    return shlex.join(["astdistill", *words]) if PurePath(program).name in PROGRAMS else ""


def missing(run: RunReader) -> list[str]:
    """Sentences that name what is not there and the command that makes it."""
    found = []
    if run.synthetic is None:
        found.append("The run has not ended: type its command again and it goes on from where it stopped.")
    elif run.scores is None:
        found.append(f"Not evaluated yet; type: {run.word('evaluate')}")
    elif not any(run.entry.by_class if run.entry else ()):
        found.append(f"Accuracy by class was not kept; type: {run.word('evaluate')}")
    if run.synthetic is not None and not run.metrics:
        found.append(
            "No log of the distillation lies beside the set; a run folder from astdistill run or distill has one."
        )
    if run.metrics and len(run.frames) < 2:
        found.append("The run kept no images on the way; a new one does, unless --distill.no-snapshots is given.")
    if run.metrics and run.has_experts and not run.experts:
        found.append("The experts' curves are not kept with this run; the run's own command, typed again, adds them.")
    return found


def headline(run: RunReader) -> str:
    """What the large number means, in one sentence."""
    if run.entry is None or run.scores is None or run.synthetic is None:
        return ""
    count, n = len(run.synthetic.images), run.entry.n
    networks = "a network" if n == 1 else f"{n} networks"
    return f"{run.scores.split} accuracy of {networks} trained on nothing but these {count:,} images"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {name: leaf for key, inner in value.items() for name, leaf in _flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}


def _word(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "–"
    return value if isinstance(value, str) else json.dumps(value)


def _memory(mib: float) -> str:
    return size(mib * 2**20) if mib else ""
