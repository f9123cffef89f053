"""Settings for pictures that no preset is of, chosen by what the pictures are: the same data give the same settings, on
every machine."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..data.augmentation import STRATEGY
from ..data.dataset import DataConfig
from ..data.loading import TEST_SHARE
from ..data.sources import DEFAULT_SIZES, PADDED, UNPADDED
from ..data.survey import PictureSize, Survey, survey
from ..distillation.settings import DistillSettings
from ..evaluation.protocol import MTT_PROTOCOL
from ..methods.outer_step import TrajectoryMatching
from ..methods.trajectory_matching import AST
from .config import ABSENT, EvaluationSettings, Experiment, ExpertSettings, value_of, with_value
from .cost import NAMED, DatasetSize, counted, dataset_size
from .presets import DIGITS_DSA
from .work import Costs

SMALLEST, LARGEST = 8, 128
"""Pixels a side that are chosen."""
LAST_MAP = 4
"""Pixels a side of what the ConvNet's last block puts out: depth 3 for 32 px, 4 for 64 px."""
LEAST_DEPTH = 2
STEPS = 20
"""Training steps of an epoch that the experts' batch leaves, where the images suffice."""
BATCHES = 8, 256
EXPERT_STEPS = 600
"""Training steps of an expert, where its epochs allow."""
EPOCHS = 15, 40
EARLY = 5
"""Segments begin in the first so many parts of the experts' epochs: on digits of 32 px the set reached 93 %, and 88 %
where they began in the first half, in which little is learnt any more."""
ITERATIONS = 100, 400
IMAGE_RATES = {8: 10.0, 16: 100.0, 32: 1000.0, 64: 10_000.0, 128: 10_000.0}
"""First learning rates of the images by pixels a side."""
BUDGET = 1e14
"""Multiply-adds of a run: some twenty minutes on two cores, an hour where these are slow."""
SHORTER: tuple[dict[str, Any], ...] = (
    {"experts.count": 3},
    {"distill.iterations": 200},
    {"method.expert.epochs": 10},
    {"experts.count": 2},
    {"width": 16},
    {"distill.iterations": 100},
)
"""What is made smaller, one after the other, until a run is within the budget."""


class Choice(NamedTuple):
    """One setting, by its dotted name, and why it is what it is."""

    field: str
    why: str


class Told(NamedTuple):
    """A setting as its flag with the value, and why it is so."""

    flag: str
    why: str


@dataclass(frozen=True)
class Proposal:
    """An experiment for the data, and why its settings are what they are."""

    experiment: Experiment
    choices: tuple[Choice, ...]

    def told(self, final: Experiment) -> list[Told]:
        """Every choice, as it is in the experiment that is run; of a value that was typed, that it was."""
        rows = []
        for field, why in self.choices:
            value = value_of(final, field)
            if value != value_of(self.experiment, field):
                why = "as given"
            rows.append(Told(f"--{field.replace('_', '-')} {value}", why))
        return [row for row in rows if not row.flag.endswith(f" {ABSENT}")]


def propose(data: DataConfig, ipc: int = 1) -> Proposal:
    """Settings for data that no preset is of. Raises InputError where the data cannot be read, or hold fewer than `ipc`
    images per class."""
    seen = _seen(data)
    sizing, images = _sizing(seen, data), _training_images(seen, data)
    side, batch = sizing.side, _batch(images)
    steps = math.ceil(images / batch)
    augmentation, why_augmented = _augmentation(seen.channels)
    whole = _experiment(data.replace(size=sizing.size), side, batch, images, augmentation).replace(ipc=ipc)
    tested = seen.test or round(TEST_SHARE * sum(seen.train))
    shorter = _within_budget(whole, DatasetSize((seen.channels, side, side), len(seen.classes), images, tested))
    reason = f"for {images:,} training images"
    if shorter != whole:
        reason += f", within {BUDGET / 1e12:.0f} T multiply-adds"
    choices = (
        Choice("data.size", sizing.why),
        Choice("model", f"{len(seen.classes)} classes, {side}×{side} pixels"),
        Choice("ipc", "images per class; 1 is the fastest"),
        Choice("method.expert.batch", f"{steps} step{'s' * (steps > 1)} in an epoch"),
        Choice("method.expert.epochs", reason),
        Choice("experts.count", reason),
        Choice("method.step.max_start_epoch", "the first fifth, where experts learn most"),
        Choice("distill.iterations", reason),
        Choice("distill.lr_img", f"a first value for {side}×{side} pixels"),
        Choice("distill.augmentation", why_augmented),
        Choice("method.expert.augmentation", "the same"),
        Choice("evaluation.networks", "for every row of the table"),
    )
    return Proposal(shorter, choices)


def _experiment(data: DataConfig, side: int, batch: int, images: int, augmentation: str) -> Experiment:
    """The settings where there is time enough."""
    epochs = _within(EPOCHS, EXPERT_STEPS / math.ceil(images / batch))
    recipe = AST.recipe.replace(epochs=epochs, batch=batch, augmentation=augmentation)
    step = TrajectoryMatching(syn_steps=10, expert_epochs=2, max_start_epoch=epochs // EARLY)
    return Experiment(
        name=_name(data.source),
        data=data,
        model=f"convnet-d{max(LEAST_DEPTH, round(math.log2(side / LAST_MAP)))}-w32",
        experts=ExpertSettings(count=5),
        method=AST.replace(expert=recipe, step=step),
        distill=DistillSettings(
            iterations=_within(ITERATIONS, 100 * math.ceil(images / 500)),
            lr_img=IMAGE_RATES[_power_of_two(side)],
            lr_lr=1e-7,
            lr_init=0.001,
            augmentation=augmentation,
        ),
        evaluation=EvaluationSettings(recipe=MTT_PROTOCOL.replace(epochs=300), networks=3),
    )


def _within_budget(experiment: Experiment, known: DatasetSize) -> Experiment:
    """The experiment with as few of its counts made smaller as the budget wants."""
    costs = Costs("cpu")
    for changes in SHORTER:
        if counted(experiment, known, costs).together.work <= BUDGET:
            break
        for field, most in changes.items():
            experiment = _smaller(experiment, field, most)
    return experiment


def _smaller(experiment: Experiment, field: str, most: int) -> Experiment:
    if field == "width":
        return experiment.replace(model=re.sub(r"-w\d+", f"-w{most}", experiment.model))
    return with_value(experiment, field, min(most, value_of(experiment, field)))


def _seen(data: DataConfig) -> Survey:
    """What the data hold; of data that are known by name, without reading them."""
    if data.source not in NAMED:
        return survey(data)
    known = dataset_size(Experiment(name="", data=data.replace(size=None, per_class=None, validation=0.0)))
    channels, height, width = known.shape
    each = known.train // known.classes
    names = tuple(map(str, range(known.classes)))
    return Survey(data.source, names, (each,) * known.classes, known.test, (PictureSize(height, width),), channels)


class _Sizing(NamedTuple):
    """The size that is asked for, if one is, the pixels a side that come of it, and why."""

    size: int | None
    side: int
    why: str


def _sizing(seen: Survey, data: DataConfig) -> _Sizing:
    given = data.size or DEFAULT_SIZES.get(data.source)
    if given:
        return _Sizing(data.size, given, "as given")
    if not seen.sizes:
        return _Sizing(32, 32, "no picture's size could be read")
    sides = [size.side for size in seen.sizes]
    height, width = seen.sizes[0]
    if seen.alike and (seen.channels, height, width) == UNPADDED:
        return _Sizing(None, PADDED, f"grey images of {height}×{width} are padded to {PADDED}×{PADDED}")
    if seen.alike and height == width == _power_of_two(height):
        return _Sizing(None, height, f"all images are {height}×{width}")
    side = _power_of_two(seen.median)
    if seen.alike:
        return _Sizing(side, side, f"all images are {height}×{width}")
    why = f"short sides {min(sides)} to {max(sides)}, median {seen.median:g}"
    return _Sizing(side, side, why)


def _power_of_two(pixels: float) -> int:
    """The nearest one among the sizes that are chosen."""
    return _within((SMALLEST, LARGEST), 2 ** round(math.log2(max(1, pixels))))


def _training_images(seen: Survey, data: DataConfig) -> int:
    """Those that experts will learn from."""
    kept = [min(count, data.per_class or count) for count in seen.train]
    share = 1.0 - data.validation
    if not seen.test:
        share *= 1.0 - TEST_SHARE
    return max(1, round(share * sum(kept)))


def _batch(images: int) -> int:
    return _within(BATCHES, 2 ** math.floor(math.log2(max(1, images / STEPS))))


def _augmentation(channels: int) -> tuple[str, str]:
    if channels == 1:
        return DIGITS_DSA, "grey: not mirrored, nor recoloured"
    return STRATEGY, "colour: all; leave out flip if a mirrored image means something else"


def _within(bounds: tuple[int, int], value: float) -> int:
    return min(max(bounds[0], round(value)), bounds[1])


def _name(source: str) -> str:
    """A name for the run folder: that of the data."""
    path, name = Path(os.path.expanduser(source)), source.partition(":")[0].rpartition("/")[2]
    if path.is_dir():
        name = path.resolve().name
    elif path.is_file():
        name = path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "own"
