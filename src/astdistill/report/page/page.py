"""One or several runs as one HTML file that needs nothing else: no network, no other file."""

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
from ..run import RunReader, read_run
from . import content, figures, head, mistakes
from .gallery import gallery
from .numbers import numbers
from .templates import filled, policy, source

IMAGE_BYTES = 3_900_000
"""Of a page below 5 MB, what images and the CSV may take; all runs share it."""


def save_page(folders: Sequence[str | Path], path: str | Path) -> None:
    """Write the page of the runs in `folders`, side by side where there are several, whole or not at all.

    What a run has not is left out, and the page names the command that makes it. Raises InputError for no folder, for
    one that is no run, and for one given twice.
    """
    if not folders:
        raise InputError("Name at least one run folder: astdistill report runs/demo")
    places = [Path(os.path.realpath(folder)) for folder in folders]  # which says nothing of a link to itself
    if len(set(places)) < len(places):
        twice = next(folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1)
        raise InputError(f"{twice} was named twice; name each run once: astdistill report RUN OTHER")
    write_text(Path(path), rendered([read_run(folder) for folder in folders]))


def renew_page(folder: Path) -> Path | None:
    """Write `folder`/report.html anew, because something was added to the run; its path, or None where that failed.

    What was added lies in files of its own by then. Whatever keeps the page from being written is told in one line and
    stops nobody.
    """
    path = RunDir(folder).page
    try:
        save_page([folder], path)
    except Exception as error:  # hours of results are worth more than their picture, whatever is wrong with it
        again = shlex.join(["astdistill", "report", str(folder)])
        told = f"The page {path} could not be written ({error}); the results are kept. Try again with: {again}"
        console().print(told, style="yellow", highlight=False)
        return None
    return path


def rendered(runs: Sequence[RunReader]) -> str:
    """The page as HTML."""
    runs, script = _apart(runs), source("page.js")
    return filled(
        "page.html",
        title=_title(runs),
        policy=policy(script),
        script=script,
        different=head.different_data(runs),
        elsewhere=content.elsewhere(runs),
        runs=[_shown(run, number, IMAGE_BYTES // len(runs)) for number, run in enumerate(runs)],
        about=content.about(runs),
        of_experts=content.of_experts(runs),
        course=_drawn(
            (figures.loss_name(runs).capitalize(), figures.loss(runs)),
            ("Learned learning rate", figures.step_size(runs)),
            ("Held-out accuracy", figures.held_out(runs)),
        ),
        experts=_drawn(
            ("Squared distance that an expert moves in one epoch", figures.smoothness(runs)),
            ("Accuracy of the experts", figures.expert_accuracy(runs)),
        ),
        settings=content.settings(runs),
        provenance=content.provenance(runs),
    )


def _title(runs: Sequence[RunReader]) -> str:
    """What a single run is, or the names of several."""
    if len(runs) == 1:
        return head.title(runs[0])
    if len(runs) > 3:
        return f"{len(runs)} runs"
    *names, last = (run.name for run in runs)
    return f"{', '.join(names)} and {last}"


def _apart(runs: Sequence[RunReader]) -> list[RunReader]:
    """The runs under names of their own: that of the folder, or where two are alike the way to it from the folder that
    holds all."""
    names, places = [run.name for run in runs], [run.dir.folder.resolve() for run in runs]
    whole = os.path.commonpath(places)
    ways = [place.relative_to(whole).as_posix() for place in places]
    return [replace(run, name=way) if names.count(run.name) > 1 else run for run, way in zip(runs, ways, strict=True)]


def _shown(run: RunReader, number: int, budget: int) -> dict[str, Any]:
    """Everything that the page says of one run alone."""
    entry, classes, score = run.entry, (), ""
    if entry is not None:
        score = entry.text
    if run.synthetic is not None:
        classes = run.synthetic.classes
    saved = _link(numbers(run))
    clusters, shown = figures.clusters(run, number), gallery(run, number, budget - min(len(saved), budget // 2))
    arriving = [
        figures.arriving(measured, f"arriving-{number}-{place}") for place, measured in enumerate(run.arriving.values())
    ]
    return {
        "name": run.name,
        "number": number,
        "title": head.title(run),
        "facts": head.facts(run),
        "file_name": file_name(run.name),
        "numbers": saved,
        "snippet": content.snippet(run),
        "score": score,
        "headline": content.headline(run),
        "bars": content.bars(run),
        "published": content.published(run),
        "protocol": content.protocol(run),
        "missing": content.missing(run),
        "steps": content.steps(run),
        "gallery": shown,
        "clusters": clusters,
        "starts": clusters or (shown and shown.start_style),
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


def _link(text: str) -> str:
    """The address of a text that is part of the page; '' for none."""
    if not text:
        return ""
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _drawn(*drawings: tuple[str, Markup | None]) -> list[tuple[str, Markup]]:
    """Figures with their titles, without those that have nothing to show."""
    return [(title, drawing) for title, drawing in drawings if drawing is not None]
