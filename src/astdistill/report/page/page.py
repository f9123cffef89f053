"""One or several runs as one self-contained HTML file, which needs no network and no other file."""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ...runtime.errors import InputError
from ...runtime.files import write_text
from ...runtime.progress import console
from ...runtime.run_dir import RunDir
from ..pictures import file_name
from ..run import RunReader, read_run, unique_names
from . import content, figures, head, mistakes
from .gallery import gallery
from .numbers import numbers
from .templates import filled, policy, source

IMAGE_BYTES = 3_900_000
"""Maximum bytes of images and CSV in a page of less than 5 MB, shared by all runs."""


def save_page(folders: Sequence[str | Path], path: str | Path) -> None:
    """Write the page of the runs in `folders` atomically; several runs are shown side by side.

    What a run does not have is left out, and the page states the command that creates it. Raises InputError for no
    folder, for one that is not a run, and for one given twice.
    """
    if not folders:
        raise InputError("Name at least one run folder: astdistill report runs/demo")
    targets = [Path(os.path.realpath(folder)) for folder in folders]  # unlike resolve(), accepts a link to itself
    if len(set(targets)) < len(targets):
        duplicate = next(folder for folder, target in zip(folders, targets, strict=True) if targets.count(target) > 1)
        raise InputError(f"{duplicate} was named twice; name each run once: astdistill report RUN OTHER")
    write_text(Path(path), rendered([read_run(folder) for folder in folders]))


def renew_page(folder: Path) -> Path | None:
    """Rewrite `folder`/report.html after something was added to the run. Returns its path, or None if that failed.

    The results are in files of their own, so any error is printed in one line and not raised.
    """
    path = RunDir(folder).page
    try:
        save_page([folder], path)
    except Exception as error:  # no error of the page may stop a command whose results took hours
        command = shlex.join(["astdistill", "report", str(folder)])
        message = f"The page {path} could not be written ({error}); the results are kept. Try again with: {command}"
        console().print(message, style="yellow", highlight=False)
        return None
    return path


def rendered(runs: Sequence[RunReader]) -> str:
    """The page as HTML."""
    runs, script = _with_unique_names(runs), source("page.js")
    return filled(
        "page.html",
        title=_title(runs),
        policy=policy(script),
        script=script,
        different=head.different_data(runs),
        elsewhere=content.elsewhere(runs),
        runs=[_template_values(run, number, IMAGE_BYTES // len(runs)) for number, run in enumerate(runs)],
        about=content.about(runs),
        of_experts=content.of_experts(runs),
        course=_without_empty(
            (figures.loss_name(runs).capitalize(), figures.loss(runs)),
            ("Learned learning rate", figures.step_size(runs)),
            ("Held-out accuracy", figures.held_out(runs)),
        ),
        experts=_without_empty(
            ("Squared distance that an expert moves in one epoch", figures.smoothness(runs)),
            ("Accuracy of the experts", figures.expert_accuracy(runs)),
        ),
        settings=content.settings(runs),
        provenance=content.provenance(runs),
    )


def _title(runs: Sequence[RunReader]) -> str:
    """The title of a single run, or the names of several."""
    if len(runs) == 1:
        return head.title(runs[0])
    if len(runs) > 3:
        return f"{len(runs)} runs"
    *names, last = (run.name for run in runs)
    return f"{', '.join(names)} and {last}"


def _with_unique_names(runs: Sequence[RunReader]) -> list[RunReader]:
    names = unique_names([(run.name, run.dir.folder) for run in runs])
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def _template_values(run: RunReader, number: int, budget: int) -> dict[str, Any]:
    """All values of the template for one run."""
    entry, classes, score = run.entry, (), ""
    if entry is not None:
        score = entry.text
    if run.synthetic is not None:
        classes = run.synthetic.classes
    csv_uri = _csv_uri(numbers(run))
    clusters, run_gallery = figures.clusters(run, number), gallery(run, number, budget - min(len(csv_uri), budget // 2))
    arriving = [
        figures.arriving(measured, f"arriving-{number}-{index}") for index, measured in enumerate(run.arriving.values())
    ]
    return {
        "name": run.name,
        "number": number,
        "title": head.title(run),
        "facts": head.facts(run),
        "file_name": file_name(run.name),
        "numbers": csv_uri,
        "snippet": content.snippet(run),
        "score": score,
        "headline": content.headline(run),
        "bars": content.bars(run),
        "published": content.published(run),
        "protocol": content.protocol(run),
        "missing": content.missing(run),
        "steps": content.steps(run),
        "gallery": run_gallery,
        "clusters": clusters,
        "starts": clusters or (run_gallery and run_gallery.start_style),
        "clusters_left": figures.left_out(run),
        "classes": mistakes.accuracies(entry, classes),
        "confusions": mistakes.confusions(entry, classes),
        "matrix": mistakes.matrix(entry, classes, f"confusion-{number}"),
        "tables": content.score_tables(run),
        "rankings": content.rankings(run),
        "arrivals": list(zip(arriving, content.arrivals(run), strict=True)),
        "data": content.data_read(run),
        "costs": content.costs(run),
        "command": content.command(run),
    }


def _csv_uri(text: str) -> str:
    """A data URI of a CSV text; '' for an empty text."""
    if not text:
        return ""
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _without_empty(*drawings: tuple[str, Markup | None]) -> list[tuple[str, Markup]]:
    """Figures with their titles, without those that have nothing to show."""
    return [(title, drawing) for title, drawing in drawings if drawing is not None]
