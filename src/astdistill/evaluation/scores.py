"""Accuracies of all trained networks, and tables of them, which always name the protocol and the kind of labels."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_serializer

from ..data.augmentation import STRATEGY
from ..data.synthetic import LabelKind, SyntheticSet
from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.files import read_json, write_json
from ..runtime.run_dir import RunDir
from ..runtime.status import size
from ..runtime.tables import Column, Tabulation, deviation, plus_minus, spread
from .protocol import MTT_PROTOCOL, EvalRecipe
from .teacher import TeacherInfo
from .training import NetworkResult

Figure = TypeVar("Figure")
Kind = TypeVar("Kind", bound=Record)


def read_as(kind: type[Kind], values: dict[str, Any], path: Path, what: str) -> Kind:
    """`values`, read from `path`, as a record. Raises InputError where they are not `what`."""
    try:
        return kind.model_validate(values)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} does not hold {what} ({reason}); move it away and evaluate again.") from error


class Peer(Record):
    """The best figure that other methods have published for the same benchmark setting."""

    accuracy: float | None = None
    """Test accuracy in percent, or nothing where none is known."""
    source: str = ""


class Published(Record):
    """The figure of the method's own paper that a preset is to be compared with."""

    accuracy: float | None = None
    """Test accuracy in percent, or nothing where the authors' figure is not known."""
    source: str = ""
    """Where figure and settings stand, and which settings are not the paper's own."""
    peer: Peer = Peer()
    """The best of other methods, where the method's own figure is not known."""
    protocol: str = MTT_PROTOCOL.name
    """The protocol that the figure was measured under, by its name in tables."""

    @model_serializer(mode="wrap")
    def _omit_unused(self, handler: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """MTT's protocol, that of all figures of earlier versions, is not written."""
        written = handler(self)
        if self.protocol == MTT_PROTOCOL.name:
            del written["protocol"]
        return written


class RowScores(Record):
    """The networks of one row of a table: accuracies in percent, one per seed."""

    final: tuple[float, ...]
    """Accuracy after the last epoch."""
    best: tuple[float, ...] | None = None
    """Highest accuracy of the recipe's checks, chosen on the tested images themselves; None when the recipe does not
    check."""
    mean: float
    """Mean of what the recipe reports."""
    std: float | None
    """Sample standard deviation (divided by n − 1) of what the recipe reports; None for one network, whose spread is
    unknown."""
    n: int = Field(ge=1)
    """Trained networks."""
    diverged: int = 0
    """How many of them met a loss that was not finite."""
    by_class: tuple[tuple[float | None, ...] | None, ...] = ()
    """Each network's final accuracy by class, None for a class without images; None for a network of an earlier
    version."""
    confusion: tuple[tuple[tuple[int, ...], ...] | None, ...] = ()
    """Each network's tested images of each class (row) by the class they were taken for (column); None above 100
    classes."""
    balanced: tuple[float, ...] | None = None
    """Each network's balanced accuracy: the mean of its final accuracies by class, in percent. None, and not written,
    where the tested classes have about as many images each."""

    by_steps: tuple[tuple[float, ...], ...] = ()
    """Each network's accuracy after each of the recipe's numbers of steps; empty where it counts epochs."""

    @model_serializer(mode="wrap")
    def _omit_unused(self, handler: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """Balanced accuracies and those by steps, which earlier versions did not have, are written only where
        present."""
        fields = handler(self)
        return {name: value for name, value in fields.items() if value or name not in ("balanced", "by_steps")}

    @staticmethod
    def of(results: Sequence[NetworkResult], reported: Literal["final", "best"], unequal: bool = False) -> RowScores:
        """The entry of these networks, in order of their seeds; with balanced accuracies where classes are
        `unequal`."""
        final = tuple(result.final for result in results)
        checks = [result.best for result in results if result.best is not None]
        best = tuple(checks) or None
        chosen = final
        if reported == "best":
            chosen = best or final
        balanced = None
        if unequal:
            balanced = tuple(mean_recall(result.by_class) for result in results if result.by_class) or None
        return RowScores(
            final=final,
            best=best,
            mean=statistics.fmean(chosen),
            std=deviation(chosen),
            n=len(final),
            diverged=sum(result.diverged for result in results),
            by_class=_unless_empty([result.by_class for result in results]),
            confusion=_unless_empty([result.confusion for result in results]),
            balanced=balanced,
            by_steps=tuple(result.by_steps for result in results if result.by_steps),
        )

    @staticmethod
    def constant(accuracy: float, balanced: float) -> RowScores:
        """The entry of a constant prediction, which has no spread."""
        return RowScores(final=(accuracy,), mean=accuracy, std=None, n=1, balanced=(balanced,))

    @property
    def counts(self) -> tuple[tuple[int, ...], ...] | None:
        """The sum of the confusion matrices of all networks; None where there are none."""
        matrices = [each for each in self.confusion if each is not None]
        return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*matrices, strict=True)) or None

    @property
    def text(self) -> str:
        """`mean ± std` in percent with one decimal; no spread where n = 1."""
        return plus_minus(self.mean, self.std)


class SetInfo(Record):
    """What was evaluated: whose images, from which data, for which network."""

    data: str
    """The data set's name, with what was kept of it where that is not all."""
    whiten: str
    ipc: int
    """Images per class."""
    method: str
    labels: LabelKind | Literal["smoothed", "teacher"]
    """The kind of its targets, "smoothed" for rows of probabilities that are not one class for sure; or that a teacher
    labelled real images."""
    model: str
    """The student that the images were made for."""
    per_slot: int = Field(default=1, ge=1)
    """Images that a network sees of each stored one."""
    stored_bytes: int | None = None
    """See `SyntheticSet.stored_bytes`; None in files of an earlier version."""
    digests: dict[str, str] = Field(default_factory=dict)
    """See `SyntheticSet.digests`; empty in files of an earlier version."""

    @staticmethod
    def of(synthetic: SyntheticSet) -> SetInfo:
        """The description of a distilled set."""
        config = synthetic.data
        name, restrictions = Path(config.source.removeprefix("tensors:")).name, []
        if config.classes or config.first_classes:
            restrictions.append(f"{len(synthetic.classes)} classes")
        if config.per_class:
            restrictions.append(f"{config.per_class} images each")
        if restrictions:
            name += f" ({', '.join(restrictions)})"
        return SetInfo(
            data=name,
            whiten=config.whiten,
            ipc=synthetic.ipc,
            method=synthetic.method,
            labels=_label_kind(synthetic),
            model=synthetic.model,
            per_slot=synthetic.texture.per_slot,
            stored_bytes=synthetic.stored_bytes,
            digests=synthetic.digests,
        )


def _label_kind(synthetic: SyntheticSet) -> LabelKind | Literal["smoothed"]:
    """The kind of labels. Probabilities that are not learned are "hard" in the file; smoothed ones are
    "smoothed" here."""
    if synthetic.labels == "hard" and not synthetic.certain:
        return "smoothed"
    return synthetic.labels


class SearchedRate(Record):
    """The learning rates that were tried for one network, and their accuracies on held-out training images."""

    rates: tuple[float, ...]
    """Ascending."""
    accuracies: tuple[tuple[float, ...], ...]
    """For each learning rate, the final accuracies of its networks in percent."""
    judged_on: str
    """Which images; never those of the test split."""

    @property
    def best(self) -> float:
        """The learning rate of the highest mean accuracy, the smallest of equals."""
        means = [statistics.fmean(each) for each in self.accuracies]
        return self.rates[means.index(max(means))]

    def with_best_rate(self, synthetic: SyntheticSet) -> SyntheticSet:
        """The set with its learning rate replaced by the best one."""
        return replace(synthetic, lr=synthetic.lr.new_tensor(self.best))


class Taught(Record):
    """Random real images with a teacher's soft labels: the baseline for distillation with soft labels."""

    teacher: TeacherInfo
    label_bytes: int
    """Bytes of the labels, as float32."""
    image_bytes: int
    """Bytes of the images, as they are kept."""
    row: RowScores

    @property
    def text(self) -> str:
        """The name of the row: the teacher, and the bytes of its labels."""
        return f"random real images, soft labels of {self.teacher.text}, {size(self.label_bytes)} of labels"


def _unless_empty(figures: Sequence[Figure | None]) -> tuple[Figure | None, ...]:
    """The figures of all networks, or () where no network has any."""
    if all(figure is None for figure in figures):
        return ()
    return tuple(figures)


class Scores(Record):
    """What an evaluation found: the synthetic set on one or more networks, and the baselines on the first of them."""

    recipe: EvalRecipe
    """The evaluation protocol that they were measured under."""
    architecture: dict[str, RowScores]
    """By network name."""
    baselines: dict[str, RowScores] = Field(default_factory=dict)
    """random, kmeans, herding, kcenter, full: real images under the same recipe."""
    split: Literal["test", "validation"] = "test"
    """The images the accuracies are measured on."""
    seed: int | None = None
    """Of networks and draws; None in files of an earlier version."""
    subject: SetInfo | None = None
    """What was evaluated; None for real images and in files of an earlier version."""
    rates: dict[str, SearchedRate] = Field(default_factory=dict)
    """By network, where the set's own learning rate was replaced by one that held-out images chose; baselines keep
    theirs."""
    classes: tuple[str, ...] = ()
    """Names, in the order of the figures by class; empty in files of an earlier version."""
    majority: RowScores | None = None
    """What it gives to answer with the largest training class always; None, and not written, where the tested classes
    have about as many images each."""
    taught: Taught | None = None
    """Random real images with a teacher's soft labels, which are no baseline of hard ones; None, and not written, where
    nobody asked for them."""

    online: TeacherInfo | None = None
    """Who labelled what the networks saw while they trained; None, and not written, for a recipe without a teacher."""

    @model_serializer(mode="wrap")
    def _omit_unused(self, handler: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """What only unequal classes or soft labels need is written for these alone."""
        absent = {name for name in ("majority", "taught", "online") if getattr(self, name) is None}
        return {name: value for name, value in handler(self).items() if name not in absent}

    def are_of(self, synthetic: SyntheticSet) -> bool:
        """Whether the scores can belong to a set: all that they record of their set agrees with it.

        Args:
            synthetic: The set to compare with.
        """
        if self.subject is None:
            return True
        recorded, expected = self.subject, SetInfo.of(synthetic)
        if recorded.labels == "teacher":  # a protocol with a teacher replaces the labels
            expected = expected.replace(labels="teacher")
        if not recorded.digests:
            expected = expected.replace(digests={})
        return recorded == expected.replace(stored_bytes=recorded.stored_bytes)

    @property
    def diverged(self) -> int:
        """Networks, baselines included, whose loss stopped being finite."""
        taught = [self.taught.row] if self.taught else []
        return sum(entry.diverged for entry in [*self.architecture.values(), *self.baselines.values(), *taught])

    @property
    def mean(self) -> float:
        """The reported mean of the first network."""
        return next(iter(self.architecture.values())).mean

    def write(self, path: Path) -> None:
        """Write `scores.json` atomically.

        Args:
            path: The file.
        """
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The scores in a file or a run folder. Raises InputError for anything else.

        Args:
            path: A `scores.json`, or the run folder that holds one.
        """
        file = Path(path)
        if file.is_dir():
            file = RunDir(file).scores
        return read_as(cls, read_json(file), file, "scores")


BASELINE_NAMES = {
    "random": "random real images",
    "kmeans": "K-means real images",
    "herding": "herding real images",
    "kcenter": "k-centre real images",
    "full": "full data",
}
"""Rows of real images with hard labels, by their name in settings."""
LABELS = {
    "hard": "hard labels",
    "smoothed": "smoothed labels",
    "soft": "soft labels",
    "teacher": "a teacher's soft labels",
    "weights": "learned labels that are not normalised",
}
MAJORITY_NAME = "majority class"
"""The row of `Scores.majority`."""


def mean_recall(by_class: Sequence[float | None]) -> float:
    """The mean of the accuracies by class, without classes that have no images."""
    return statistics.fmean(value for value in by_class if value is not None)


def protocol_text(recipe: EvalRecipe, split: str, searched: bool = False) -> str:
    """The recipe as text: its name, epochs, augmentation where it is not all of DSA, learning rate where it is not
    learned, the tested images.

    `searched`: whether held-out images chose the learning rate of the distilled set.
    """
    details = []
    if recipe.augmentation != STRATEGY:
        details.append(f"augmentation {(recipe.augmentation or 'none').replace('_', ', ')}")
    if searched:
        details.append("learning rate of the set searched on held-out training images")
    elif recipe.lr is not None:
        details.append(f"learning rate {recipe.lr:g}")
    details.append(f"{split} accuracy in %")
    return f"Protocol {recipe.name}: {_length_text(recipe)}, {'; '.join(details)}"


def _length_text(recipe: EvalRecipe) -> str:
    """The epochs of a recipe, with the passes where these are more, as in the released scripts; or its steps."""
    if recipe.steps:
        return f"{recipe.steps[-1]} steps of {recipe.optimiser.replace('adam', 'Adam').replace('sgd', 'SGD')}"
    epochs = "1 epoch"
    if recipe.epochs > 1:
        epochs = f"{recipe.epochs} epochs"
    if recipe.released_count:
        return f"{epochs} ({recipe.passes} passes)"
    return epochs


def networks_text(sizes: Sequence[int]) -> str:
    """The number of networks behind the figures of a table, as text."""
    least, most = min(sizes, default=0), max(sizes, default=0)
    n = " to ".join(map(str, sorted({least, most})))
    return f"mean ± standard deviation over n = {n} fresh network{'s' * (n != '1')}"


def taught_table(scores: Scores) -> Tabulation | None:
    """Random real images with a teacher's soft labels, as a separate table; None where there are none."""
    taught = scores.taught
    if taught is None:
        return None
    subject = scores.subject and scores.subject.replace(labels="teacher", per_slot=1)
    alone = scores.replace(architecture={}, baselines={}, majority=None, subject=subject, rates={}, taught=None)
    cells = {"random real images labelled by": taught.teacher.text, "labels": size(taught.label_bytes)}
    row = _row("", taught.row, alone.replace(baselines={"teacher": taught.row}))
    cells |= {name: text for name, text in row.items() if name != "trained on"}
    caption_text = caption(alone.replace(baselines={"teacher": taught.row}))
    columns = tuple(Column(name, left_aligned=name.startswith("random")) for name in cells)
    return Tabulation(columns, (tuple(cells.values()),), caption_text, LABELS["teacher"].capitalize())


def caption(scores: Scores) -> str:
    """One sentence naming the protocol, what is reported, the labels, the spread and the number of networks."""
    recipe = scores.recipe
    parts = [
        f"{protocol_text(recipe, scores.split, bool(scores.rates))}, reported: {reported_text(recipe, scores.split)}"
    ]
    if scores.subject:
        parts.append(LABELS[scores.subject.labels])
        if scores.online is not None:
            parts[-1] = f"labels of all that networks see by {scores.online.text}"
        parts += _slot_texts(scores.subject)
    if scores.majority is not None:
        parts.append("balanced: mean of the final accuracies by class")
    parts.append(networks_text([entry.n for entry in _entries(scores)]))
    return f"{'; '.join(parts)}."


def _slot_texts(subject: SetInfo) -> list[str]:
    """The stored slots, where each holds several images."""
    if subject.per_slot == 1:
        return []
    slots = f"each of {subject.ipc} slots" if subject.ipc > 1 else "the one slot"
    return [f"{subject.per_slot} images in {slots} per class ({size(subject.stored_bytes or 0)})"]


def best_name(recipe: EvalRecipe, split: str) -> str:
    """The name of the column of the best accuracies."""
    return {True: f"maximum on {split}", False: f"best on {split}"}[bool(recipe.steps)]


def reported_text(recipe: EvalRecipe, split: str) -> str:
    """The accuracy that a protocol reports, as text."""
    if recipe.reported == "final":
        return {True: "the last step", False: "the last epoch"}[bool(recipe.steps)]
    return best_text(recipe, split)


def best_text(recipe: EvalRecipe, split: str) -> str:
    """How the best accuracy is chosen, as text."""
    if recipe.steps:
        numbers = ", ".join(map(str, recipe.steps[:-1])) + " or " * (len(recipe.steps) > 1) + str(recipe.steps[-1])
        return f"the maximum after {numbers} steps, chosen on the {split} images"
    last = f" of the last {1 - recipe.checks_from:.0%}" * (recipe.checks_from > 0)
    return f"the best of checks on the {split} images every {recipe.check_every} epochs{last}"


def table(scores: Scores) -> Tabulation:
    """The synthetic set on every network first, then the baselines, with the protocol as the caption."""
    named = {f"synthetic, {model}": entry for model, entry in scores.architecture.items()}
    named |= {_baseline_label(name, scores): entry for name, entry in scores.baselines.items()}
    if scores.majority is not None:
        named[MAJORITY_NAME] = scores.majority
    cells = [_row(name, entry, scores) for name, entry in named.items()]
    names = next(iter(cells), {})
    bold = {"best": best_name(scores.recipe, scores.split)}.get(scores.recipe.reported, "final")
    columns = [Column(name, name == "trained on", name == bold) for name in names]
    return Tabulation(tuple(columns), tuple(tuple(row.values()) for row in cells), caption(scores))


def _row(name: str, entry: RowScores, scores: Scores) -> dict[str, str]:
    cells = {"trained on": name}
    for number, steps in enumerate(scores.recipe.steps):
        cells[f"{steps} steps"] = spread([accuracies[number] for accuracies in entry.by_steps])
    if not scores.recipe.steps:
        cells["final"] = spread(entry.final)
    if any(each.best for each in _entries(scores)):
        cells[best_name(scores.recipe, scores.split)] = spread(entry.best)
    if scores.majority is not None:
        cells["balanced"] = spread(entry.balanced)
    cells["n"] = str(entry.n)
    if scores.diverged:
        cells["diverged"] = str(entry.diverged)
    return cells


def _entries(scores: Scores) -> list[RowScores]:
    return [*scores.architecture.values(), *scores.baselines.values()]


def _baseline_label(name: str, scores: Scores) -> str:
    label = BASELINE_NAMES.get(name, name)
    if name == "full" and scores.recipe.epochs_on_full_data:
        return f"{label}, {scores.recipe.epochs_on_full_data} epochs"
    return label
