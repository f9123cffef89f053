"""What the page says about each run: figures in words, tables, and the commands that would make what is missing."""

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
from ...runtime.provenance import own_name, without_places
from ...runtime.run_dir import DESCRIPTION
from ...runtime.status import duration, size
from ...runtime.tables import Column, Tabulation
from ..run import RunReader

STAGES = ("experts", "distillation", "evaluation")
HIDDEN = ("versions", "machine", "resumed", "settings", "step", "best", DESCRIPTION)
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


ORDER = ("majority", "random", "kmeans", "herding", "kcenter", "own", "full")
"""The bars from top to bottom, whatever their values; baselines of other names come after them."""


def bars(run: RunReader) -> list[Bar]:
    """The headline beside its baselines and the published figures, in the order of `ORDER`."""
    if run.entry is None or run.scores is None:
        return []
    names, shown = {"own": "these images", **BASELINE_NAMES, "majority": MAJORITY_NAME}, []
    rows = {"own": run.entry, **run.scores.baselines}
    if run.scores.majority is not None:
        rows["majority"] = run.scores.majority
    kinds = [*filter(rows.__contains__, ORDER), *(kind for kind in rows if kind not in ORDER)]
    for kind, entry in ((kind, rows[kind]) for kind in kinds):
        low = high = None
        if entry.std:
            low, high = max(0.0, entry.mean - entry.std), min(100.0, entry.mean + entry.std)
        shown.append(Bar(names.get(kind, kind), entry.mean, entry.text, kind, low, high))
    published = run.published.accuracy
    if published is not None:
        shown.append(Bar("published", published, f"{published:.1f}", "published"))
    peer = run.published.peer.accuracy
    if peer is not None:
        shown.append(Bar("best peer", peer, f"{peer:.1f}", "published"))
    return shown


def published(run: RunReader) -> str:
    """Where the published figures stand: the method's own, and the best of other methods."""
    own, peer = run.published, run.published.peer
    texts = {f"Published: {own.source}.": own.accuracy, f"Best peer: {peer.source}.": peer.accuracy}
    return " ".join(text for text, accuracy in texts.items() if accuracy is not None)


def protocol(run: RunReader) -> str:
    """The sentence that no accuracy goes without."""
    if run.scores is None:
        return ""
    return caption(run.scores)


def steps(run: RunReader) -> str:
    """How many outer steps were taken, skipped and passed over."""
    if not run.metrics:
        return ""
    skipped, passed = (sum(word in line for line in run.metrics) for word in ("skipped", "passed"))
    reasons = {str(line["skipped"]) for line in run.metrics if "skipped" in line}
    told = f"{len(run.metrics):,} outer steps, {skipped:,} skipped"
    if reasons:
        told += f" ({'; '.join(sorted(reasons)[:2])})"
    if passed:
        told += f", {passed:,} passed over by the method's threshold"
    if run.learns_lr:
        rates = [float(line["lr"]) for line in run.metrics if line.get("lr") is not None] or [math.nan]
        first, last = rates[0], rates[-1]
        told += f"; η went from {first:.4g} to {last:.4g}"
    return f"{told}."


def about(runs: Sequence[RunReader]) -> list[str]:
    """What the outer steps of these runs do, each kind once, and what η is where one of them learned it."""
    sentences = list(dict.fromkeys(run.step.about for run in runs if run.step.about))
    learned = "η is the learned learning rate for training on these images."
    if any(run.learns_lr for run in runs):
        sentences[-1:] = [" ".join([*sentences[-1:], learned])]
    return sentences


def of_experts(runs: Sequence[RunReader]) -> str:
    """What the outer steps of these runs take from experts, each kind once."""
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
    """What the section of `score_tables` is called."""
    if any(len(scores.architecture) > 1 for run in runs for scores in run.evaluations.values()):
        return "On other networks"
    return "Other evaluations"


def rankings(run: RunReader) -> list[Tabulation]:
    """DD-Ranking's scores of every evaluation that asked for them."""
    return [_titled(ranking_table(ranking), name, run.ranking) for name, ranking in run.ranking.items()]


def arrivals(run: RunReader) -> list[Tabulation]:
    """Class-incremental learning of every evaluation that asked for it."""
    return [_titled(continual_table(measured), name, run.arriving) for name, measured in run.arriving.items()]


def _titled(shown: Tabulation, name: str, among: Mapping[str, object]) -> Tabulation:
    """The table, told apart from others of its kind by the folder of its evaluation."""
    if len(among) < 2:
        return shown
    return replace(shown, title=f"{shown.title}: {name}")


@dataclass(frozen=True)
class DataRead:
    """What the page says was read of a run's data: heads with sentences, the classes, and what is odd."""

    said: tuple[tuple[str, str], ...]
    classes: Tabulation
    warnings: tuple[str, ...]


def data_read(run: RunReader) -> DataRead | None:
    """What was read of the data, of paths the last name alone; None where that was not kept."""
    if run.description is None:
        return None
    known = run.description
    own = own_name(known.source) or known.source
    images = ", ".join(f"{count:,} {name}" for name, count in known.parts.items())
    said = [("source", own), ("images", f"{images}; {shape_text(known.shape)}"), ("test part", known.test_part)]
    said += [(head, sentence) for head, sentences in _sentences(known).items() for sentence in sentences]
    heads, *rows = known.rows()
    columns = Column(heads[0], words=True), *(Column(head) for head in heads[1:])
    shown = Tabulation(columns, tuple(rows), "Images of each class.")
    return DataRead(tuple((head, without_source(text, known.source)) for head, text in said), shown, known.warnings)


def _sentences(known: Description) -> dict[str, tuple[str, ...]]:
    return {"read": known.read, "left out": known.left_out, "guessed": known.guessed}


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
        taken = f"{median:.2g} s"
        if median >= 1:
            taken = duration(median)
        cells.append(["one outer step (median)", taken, "", ""])
    if not cells:
        return None
    used = 3 + any(row[3] for row in cells)
    columns = [Column("stage", words=True), Column("time"), Column("peak memory"), Column("accelerator")]
    note = "Memory is the largest process's peak up to the end of that stage. A resumed stage counts every call."
    return Tabulation(tuple(columns[:used]), tuple(tuple(row[:used]) for row in cells), note)


def settings(runs: Sequence[RunReader]) -> list[tuple[str, list[str], bool]]:
    """Every setting with its value in each run, and whether these differ; settings alone, not where the run was made.

    Of paths the page gives the last name alone, since it is made to be handed on; `config.json` has them whole.
    """
    flat = [_settings(run) for run in runs]
    names = list(dict.fromkeys(name for each in flat for name in each))
    values = [(name, [_word(each.get(name)) for each in flat]) for name in names]
    return [(name, words, len(set(words)) > 1) for name, words in values]


def _settings(run: RunReader) -> dict[str, Any]:
    """The settings of the run, or those that its set was made with, without those that its method does not read."""
    whole = run.config
    if not whole and run.synthetic is not None:
        known = run.synthetic.provenance
        whole = {**known.get("settings", {}), **{name: known[name] for name in ("step",) if name in known}}
    flat = _flat(without_places(whole))
    return {name: value for name, value in flat.items() if not name.startswith(run.ignores)}


def provenance(runs: Sequence[RunReader]) -> list[tuple[str, list[str], bool]]:
    """Where each run was made, in the same form."""
    flat = []
    for run in runs:
        whole = without_places(run.provenance)
        plain = {name: value for name, value in whole.items() if name not in HIDDEN}
        plain |= whole.get("machine", {}) | whole.get("versions", {})
        flat.append(_flat(plain | {"resumed": len(whole.get("resumed", []))}))
    names = list(dict.fromkeys(name for each in flat for name in each))
    return [(name, [_word(each.get(name)) for each in flat], False) for name in names]


def command(run: RunReader) -> str:
    """The command line that made the run, of paths the last name alone; '' for a run that another program made."""
    program, *words = without_places(run.provenance.get("arguments") or [""])
    if PurePath(program).name not in PROGRAMS:
        return ""
    return shlex.join(["astdistill", *words])


def snippet(run: RunReader) -> str:
    """Python that trains a network on the set, and tests it where its data can be loaded again; '' where there is no
    set."""
    if run.synthetic is None:
        return ""
    epochs = MTT_PROTOCOL.epochs
    if run.scores is not None:
        epochs = run.scores.recipe.epochs
    lines = [
        "import astdistill as ad",
        "",
        f"synthetic = ad.load({run.place!r})",
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
    """Sentences that name what is not there and the command that makes it."""
    told, earlier = [], dict(run.outdated)
    if run.scores is not None:  # another evaluation stands for the run's own one
        earlier.pop(run.dir.folder.name, None)
    if run.synthetic is None:
        told.append("The run has not ended: type its command again and it goes on from where it stopped.")
    elif run.scores is None and not earlier:
        told.append(f"Not evaluated yet; type: {run.word('evaluate')}")
    elif run.scores is not None and (run.entry is None or not any(run.entry.by_class)):
        told.append(f"Accuracy by class was not kept; type: {run.word('evaluate')}")
    told += earlier.values()
    if run.synthetic is not None and not run.metrics:
        told.append(
            "No log of the distillation lies beside the set; a run folder from astdistill run or distill has one."
        )
    if run.metrics and len(run.frames) < 2:
        told.append("The run kept no images on the way; a new one does, unless --distill.no-snapshots is given.")
    if run.step_refused:
        told.append(run.step_refused)
    if run.metrics and run.has_experts and run.experts is None:
        told.append("The experts' curves are not kept with this run; the run's own command, typed again, adds them.")
    return told


def headline(run: RunReader) -> str:
    """What the large number means, in one sentence."""
    if run.entry is None or run.scores is None or run.synthetic is None:
        return ""
    count, networks = len(run.synthetic.images), "a network"
    if run.entry.n > 1:
        networks = f"{run.entry.n} networks"
    accuracy = f"{run.scores.split} accuracy of {networks} trained on nothing but these {count:,} images"
    if run.entry.balanced:
        accuracy += f"; balanced accuracy, the mean over the classes: {spread(run.entry.balanced)} %"
    return accuracy


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {name: leaf for key, inner in value.items() for name, leaf in _flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}


def _word(value: Any) -> str:
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
