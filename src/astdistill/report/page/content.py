"""Content of the page for each run: sentences, tables, and the commands that create what is missing."""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from ...data.description import Description, shape_text, without_source
from ...data.sources import IN_MEMORY
from ...evaluation.continual import continual_table
from ...evaluation.dd_ranking import ranking_table
from ...evaluation.protocol import MTT_PROTOCOL
from ...evaluation.rate_search import rates_table
from ...evaluation.scores import BASELINE_NAMES, MAJORITY_NAME, caption, spread, table, taught_table
from ...runtime.provenance import base_name, without_places
from ...runtime.run_dir import DESCRIPTION, flat
from ...runtime.status import duration, size
from ...runtime.tables import Column, Tabulation
from ..run import RunReader

STAGES = ("experts", "distillation", "evaluation")
HIDDEN = ("versions", "machine", "resumed", "settings", "step", "best", DESCRIPTION)
"""Parts of the provenance that have a row of their own, or are shown elsewhere."""
PROGRAMS = ("astdistill", "__main__.py", "cli.py")
"""File names of the command line program."""


@dataclass(frozen=True)
class Bar:
    """One accuracy in percent, in a chart with others; `low` and `high` are one deviation away."""

    name: str
    value: float
    text: str
    kind: str
    low: float | None = None
    high: float | None = None


ORDER = ("majority", "random", "kmeans", "herding", "kcenter", "own", "full")
"""The bars from top to bottom, whatever their values; baselines of other names come after them."""


def bars(run: RunReader) -> list[Bar]:
    """The run's accuracy with its baselines and the published accuracies, in the order of `ORDER`."""
    if run.entry is None or run.scores is None:
        return []
    names, result = {"own": "these images", **BASELINE_NAMES, "majority": MAJORITY_NAME}, []
    rows = {"own": run.entry, **run.scores.baselines}
    if run.scores.majority is not None:
        rows["majority"] = run.scores.majority
    kinds = [*filter(rows.__contains__, ORDER), *(kind for kind in rows if kind not in ORDER)]
    for kind, entry in ((kind, rows[kind]) for kind in kinds):
        low = high = None
        if entry.std:
            low, high = max(0.0, entry.mean - entry.std), min(100.0, entry.mean + entry.std)
        result.append(Bar(names.get(kind, kind), entry.mean, entry.text, kind, low, high))
    published = run.published.accuracy
    if published is not None:
        result.append(Bar("published", published, f"{published:.1f}", "published"))
    peer = run.published.peer.accuracy
    if peer is not None:
        result.append(Bar("best peer", peer, f"{peer:.1f}", "published"))
    return result


def published(run: RunReader) -> str:
    """The sources of the published accuracies: that of the method, and the best of other methods."""
    figure, peer = run.published, run.published.peer
    texts = {f"Published: {figure.source}.": figure.accuracy, f"Best peer: {peer.source}.": peer.accuracy}
    return " ".join(text for text, accuracy in texts.items() if accuracy is not None)


def protocol(run: RunReader) -> str:
    """The sentence that describes how the accuracies were measured."""
    if run.scores is None:
        return ""
    return caption(run.scores)


def steps(run: RunReader) -> str:
    """How many outer steps were taken, skipped and passed over."""
    if not run.metrics:
        return ""
    skipped, passed = (sum(key in line for line in run.metrics) for key in ("skipped", "passed"))
    reasons = {str(line["skipped"]) for line in run.metrics if "skipped" in line}
    text = f"{len(run.metrics):,} outer steps, {skipped:,} skipped"
    if reasons:
        text += f" ({'; '.join(sorted(reasons)[:2])})"
    if passed:
        text += f", {passed:,} left out by the method's loss threshold"
    if run.learns_lr:
        rates = [float(line["lr"]) for line in run.metrics if line.get("lr") is not None] or [math.nan]
        first, last = rates[0], rates[-1]
        text += f"; η went from {first:.4g} to {last:.4g}"
    return f"{text}."


def about(runs: Sequence[RunReader]) -> list[str]:
    """What the outer steps of these runs do, without repetition, and what η is if one of the runs learned it."""
    sentences = list(dict.fromkeys(run.step.about for run in runs if run.step.about))
    learned = "η is the learned learning rate for training on these images."
    if any(run.learns_lr for run in runs):
        sentences[-1:] = [" ".join([*sentences[-1:], learned])]
    return sentences


def of_experts(runs: Sequence[RunReader]) -> str:
    """What the outer steps of these runs take from experts, without repetition."""
    return " ".join(dict.fromkeys(run.step.of_experts for run in runs if run.step.of_experts))


def score_tables(run: RunReader) -> list[Tabulation]:
    """Every evaluation that trained several networks, searched learning rates, or was not the run's own."""
    tables = []
    for name, scores in {run.name: run.scores, **run.other_scores}.items():
        if scores is None:
            continue
        if name in run.other_scores:
            tables.append(replace(table(scores), title=name))
        elif len(scores.architecture) > 1:
            tables.append(table(scores))
        if taught := taught_table(scores):
            tables.append(taught)
        if scores.rates:
            tables.append(rates_table(scores.rates, scores.recipe))
    return tables


def elsewhere(runs: Sequence[RunReader]) -> str:
    """The heading of the section with `score_tables`."""
    if any(len(scores.architecture) > 1 for run in runs for scores in run.evaluations.values()):
        return "On other networks"
    return "Other evaluations"


def rankings(run: RunReader) -> list[Tabulation]:
    """DD-Ranking's scores of every evaluation that has them."""
    return [_titled(ranking_table(ranking), name, run.ranking) for name, ranking in run.ranking.items()]


def arrivals(run: RunReader) -> list[Tabulation]:
    """Class-incremental learning of every evaluation that has it."""
    return [_titled(continual_table(measured), name, run.arriving) for name, measured in run.arriving.items()]


def _titled(tabulation: Tabulation, name: str, results: Mapping[str, object]) -> Tabulation:
    """The table, with the folder of its evaluation in the title if there are several of its kind."""
    if len(results) < 2:
        return tabulation
    return replace(tabulation, title=f"{tabulation.title}: {name}")


@dataclass(frozen=True)
class DataRead:
    """What was read of a run's data: sentences with headings, a table of the classes, and warnings."""

    entries: tuple[tuple[str, str], ...]
    classes: Tabulation
    warnings: tuple[str, ...]


def data_read(run: RunReader) -> DataRead | None:
    """What was read of the data, with only the last part of paths; None if it was not saved."""
    if run.description is None:
        return None
    description = run.description
    source = base_name(description.source) or description.source
    images = ", ".join(f"{count:,} {name}" for name, count in description.parts.items())
    entries = [
        ("source", source),
        ("images", f"{images}; {shape_text(description.shape)}"),
        ("test part", description.test_part),
    ]
    entries += [(head, sentence) for head, sentences in _sentences(description).items() for sentence in sentences]
    heads, *rows = description.rows()
    columns = Column(heads[0], left_aligned=True), *(Column(head) for head in heads[1:])
    classes = Tabulation(columns, tuple(rows), "Images of each class.")
    return DataRead(
        tuple((head, without_source(text, description.source)) for head, text in entries), classes, description.warnings
    )


def _sentences(description: Description) -> dict[str, tuple[str, ...]]:
    return {"read": description.read, "left out": description.left_out, "guessed": description.guessed}


def costs(run: RunReader) -> Tabulation | None:
    """Time and peak memory of each stage, and the time of a median outer step."""
    stages = [line for line in run.clock if "stage" in line]
    step = {line["iteration"]: float(line["seconds"]) for line in run.clock if "iteration" in line}
    cells = []
    for name in STAGES:
        calls = [line for line in stages if line["stage"] == name]
        if calls:
            memory = max(max(line.get("peak_mib", 0), line.get("worker_peak_mib", 0)) for line in calls)
            accelerator = max(line.get("accelerator_peak_mib", 0) for line in calls)
            cells.append(
                [name, duration(sum(line["seconds"] for line in calls)), _memory(memory), _memory(accelerator)]
            )
    if step:
        median = statistics.median(step.values())
        text = f"{median:.2g} s"
        if median >= 1:
            text = duration(median)
        cells.append(["one outer step (median)", text, "", ""])
    if not cells:
        return None
    used = 3 + any(row[3] for row in cells)
    columns = [Column("stage", left_aligned=True), Column("time"), Column("peak memory"), Column("accelerator")]
    note = "Memory is the largest process's peak up to the end of that stage. A resumed stage counts every call."
    return Tabulation(tuple(columns[:used]), tuple(tuple(row[:used]) for row in cells), note)


def settings(runs: Sequence[RunReader]) -> list[tuple[str, list[str], bool]]:
    """Every setting with its value in each run, and whether these differ. Where the run was made is not among them.

    Only the last part of paths is shown, because the page is made to be passed on; `config.json` has the full paths.
    """
    flat = [_settings(run) for run in runs]
    names = list(dict.fromkeys(name for each in flat for name in each))
    values = [(name, [_format_value(each.get(name)) for each in flat]) for name in names]
    return [(name, texts, len(set(texts)) > 1) for name, texts in values]


def _settings(run: RunReader) -> dict[str, Any]:
    """The settings of the run, or those that its set was made with, without those that its method does not read."""
    settings = run.config
    if not settings and run.synthetic is not None:
        saved = run.synthetic.provenance
        settings = {**saved.get("settings", {}), **{name: saved[name] for name in ("step",) if name in saved}}
    leaves = flat(without_places(settings))
    return {name: value for name, value in leaves.items() if not name.startswith(run.ignores)}


def provenance(runs: Sequence[RunReader]) -> list[tuple[str, list[str], bool]]:
    """Where each run was made, in the same form as `settings`."""
    columns = []
    for run in runs:
        entries = without_places(run.provenance)
        plain = {name: value for name, value in entries.items() if name not in HIDDEN}
        plain |= entries.get("machine", {}) | entries.get("versions", {})
        columns.append(flat(plain | {"resumed": len(entries.get("resumed", []))}))
    names = list(dict.fromkeys(name for each in columns for name in each))
    return [(name, [_format_value(each.get(name)) for each in columns], False) for name in names]


def command(run: RunReader) -> str:
    """The command line that made the run, with only the last part of paths; '' for a run that another program made."""
    program, *arguments = without_places(run.provenance.get("arguments") or [""])
    if PurePath(program).name not in PROGRAMS:
        return ""
    return shlex.join(["astdistill", *arguments])


def snippet(run: RunReader) -> str:
    """Python code that trains a network on the set, and tests it if its data can be loaded; '' if there is no set."""
    if run.synthetic is None:
        return ""
    epochs = MTT_PROTOCOL.epochs
    if run.scores is not None:
        epochs = run.scores.recipe.epochs
    lines = [
        "import astdistill as ad",
        "",
        f"synthetic = ad.load({run.display_path!r})",
        "network = ad.build_model(synthetic.model, synthetic.shape, len(synthetic.classes))",
        f"synthetic.train(network, epochs={epochs})",
    ]
    if not run.synthetic.data.source.startswith(IN_MEMORY):
        lines += [
            "",
            "# Test it on the real test images, or on photos of your own: [N, C, H, W] in [0, 1].",
            "real = ad.load_dataset(synthetic.data)",
            "photos = real.preprocessing.invert(real.test.whole()).clamp(0, 1)",
            "print(synthetic.accuracy(network, photos, real.test.labels))",
        ]
    return "\n".join(lines)


def missing(run: RunReader) -> list[str]:
    """Sentences that state what is missing, and the command that creates it."""
    messages, earlier = [], dict(run.outdated)
    if run.scores is not None:  # another evaluation replaces that of the run folder
        earlier.pop(run.dir.folder.name, None)
    if run.synthetic is None:
        messages.append("The run has not ended: type its command again to resume it.")
    elif run.scores is None and not earlier:
        messages.append(f"Not evaluated yet; type: {run.command_for('evaluate')}")
    elif run.scores is not None and (run.entry is None or not any(run.entry.by_class)):
        messages.append(f"Accuracy by class was not kept; type: {run.command_for('evaluate')}")
    messages += earlier.values()
    if run.synthetic is not None and not run.metrics:
        messages.append(
            "The set has no log of its distillation beside it; a run folder from astdistill run or distill has one."
        )
    if run.metrics and len(run.frames) < 2:
        messages.append("The run saved no intermediate images; a new one does, unless --distill.no-snapshots is given.")
    if run.step_refused:
        messages.append(run.step_refused)
    if run.metrics and run.has_experts and run.experts is None:
        messages.append(
            "The experts' curves are not kept with this run; the run's own command, typed again, adds them."
        )
    return messages


def headline(run: RunReader) -> str:
    """The meaning of the large number, in one sentence."""
    if run.entry is None or run.scores is None or run.synthetic is None:
        return ""
    count, networks = len(run.synthetic.images), "a network"
    if run.entry.n > 1:
        networks = f"{run.entry.n} networks"
    accuracy = f"{run.scores.split} accuracy of {networks} trained on nothing but these {count:,} images"
    if run.entry.balanced:
        accuracy += f"; balanced accuracy, the mean over the classes: {spread(run.entry.balanced)} %"
    return accuracy


def _format_value(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "–"
    if isinstance(value, str):
        return value
    return json.dumps(value)


def _memory(mib: float) -> str:
    if not mib:
        return ""
    return size(mib * 2**20)
