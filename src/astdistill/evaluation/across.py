"""Results of one set under several protocols in one table, each with its protocol and its reported accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..runtime.status import size
from ..runtime.tables import ABSENT, Column, Tabulation, spread
from .scores import BASELINE_NAMES, LABELS, RowScores, Scores, networks_text


@dataclass(frozen=True)
class Result:
    """One table row: the protocol, the training data and the accuracies."""

    protocol: str
    reported: str
    source: str
    labels: str
    per_slot: int
    stored: int | None
    entry: RowScores

    def cells(self) -> tuple[str, ...]:
        """The cells of the row as text."""
        stored = ABSENT
        if self.stored is not None:
            stored = size(self.stored)
        figures = [spread(self.entry.final), ABSENT]
        if self.entry.best:
            figures[1] = spread(self.entry.best)
        leading = (self.protocol, self.source, LABELS[self.labels], str(self.per_slot), stored)
        return (*leading, *figures, self.reported, str(self.entry.n))


def across_protocols(measured: Sequence[Scores]) -> list[Tabulation]:
    """The results of all protocols as tables: one table for each kind of labels and number of images per slot."""
    results = [result for scores in measured for result in _results(scores)]
    kinds = sorted({(result.labels, result.per_slot) for result in results})
    names = ("protocol", "trained on", "labels", "images per slot", "stored", "final", "best", "reported", "n")
    columns = tuple(
        Column(name, left_aligned=name in ("protocol", "trained on", "labels", "reported")) for name in names
    )
    tables = []
    for labels, per_slot in kinds:
        members = [result for result in results if (result.labels, result.per_slot) == (labels, per_slot)]
        split = measured[0].split
        caption = (
            f"{split} accuracy in %; final: after the last epoch or step; best: the maximum of a protocol's checks, "
            f"chosen on the {split} images; {networks_text([result.entry.n for result in members])}."
        )
        title = LABELS[labels].capitalize()
        if per_slot > 1:
            title += f", {per_slot} images per slot"
        tables.append(Tabulation(columns, tuple(result.cells() for result in members), caption, title))
    return tables


def _results(scores: Scores) -> Iterator[Result]:
    """The rows of one evaluation, each with the kind of labels that its networks are trained on."""
    subject, recipe = scores.subject, scores.recipe
    assert subject is not None, "an evaluation of a set says which"
    for model, entry in scores.architecture.items():
        yield Result(
            recipe.name,
            recipe.reported,
            f"synthetic, {model}",
            subject.labels,
            subject.per_slot,
            subject.stored_bytes,
            entry,
        )
    labels = {True: "teacher", False: "hard"}[scores.online is not None]
    for name, entry in scores.baselines.items():
        yield Result(recipe.name, recipe.reported, BASELINE_NAMES.get(name, name), labels, 1, None, entry)
    if scores.taught is not None:
        stored = scores.taught.image_bytes + scores.taught.label_bytes
        yield Result(recipe.name, recipe.reported, scores.taught.text, "teacher", 1, stored, scores.taught.row)
