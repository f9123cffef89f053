"""Settings for images without a preset, chosen from properties of the images. The same data give the same settings on
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
from ..models.convnets import MAX_DEPTH
from ..runtime.errors import InputError, flag_name
from .config import ABSENT, EvaluationSettings, Experiment, ExpertSettings, value_of, with_value
from .cost import NAMED, DatasetSize, counted, dataset_size
from .presets import DIGITS_DSA
from .work import Costs

SMALLEST, LARGEST = 8, 128
"""The smallest and the largest image size that is chosen, in pixels per side."""
LAST_MAP = 4
"""Pixels per side of the feature map of the ConvNet's last block: depth 3 for 32 px, 4 for 64 px."""
MOST_GIVEN = int(LAST_MAP * 2 ** (MAX_DEPTH + 0.5))
"""The largest image size for which settings are chosen: the last for which the deepest ConvNet is the nearest."""
LEAST_DEPTH = 2
STEPS = 20
"""Minimum number of training steps per epoch of an expert, if there are enough images; it limits the batch."""
BATCHES = 8, 256
EXPERT_STEPS = 600
"""Training steps of an expert, within the limits of `EPOCHS`."""
EPOCHS = 15, 40
EARLY = 5
"""Segments begin in the first 1/`EARLY` of the experts' epochs. On digits of 32 px the set reached 93 %, and 88 % when
they began in the first half, in which little more is learned."""
ITERATIONS = 100, 400
IMAGE_RATES = {8: 10.0, 16: 100.0, 32: 1000.0, 64: 10_000.0, 128: 10_000.0}
"""First learning rates of the images, by pixels per side."""
BUDGET = 1e14
"""Maximum multiply-adds of a run: about twenty minutes on two cores, an hour on slow ones."""
SHORTER: tuple[dict[str, Any], ...] = (
    {"experts.count": 3},
    {"distill.iterations": 200},
    {"method.expert.epochs": 10},
    {"experts.count": 2},
    {"width": 16},
    {"distill.iterations": 100},
)
"""Limits that are applied one after the other until a run is within the budget."""


class Choice(NamedTuple):
    """One setting, by its dotted name, and the reason for its value."""

    field: str
    why: str


class ChosenFlag(NamedTuple):
    """A setting as a flag with its value, and the reason for the value."""

    flag: str
    why: str


@dataclass(frozen=True)
class Proposal:
    """An experiment for the data, and the reasons for its settings."""

    experiment: Experiment
    choices: tuple[Choice, ...]

    def chosen_flags(self, final: Experiment) -> list[ChosenFlag]:
        """Every choice with its value in the experiment that is run; the reason is 'as given' for a value that the user
        set."""
        rows = []
        for field, why in self.choices:
            value = value_of(final, field)
            if value != value_of(self.experiment, field):
                why = "as given"
            rows.append(ChosenFlag(f"{flag_name(field)} {value}", why))
        return [row for row in rows if not row.flag.endswith(f" {ABSENT}")]


def propose(data: DataConfig, ipc: int = 1) -> Proposal:
    """Propose settings for data without a preset. Raises InputError if the data cannot be read, or have fewer than
    `ipc` images per class."""
    found = _survey_data(data)
    sizing, images = _choose_size(found, data), _count_training_images(found, data)
    side, batch = sizing.side, _choose_batch(images)
    steps = math.ceil(images / batch)
    augmentation, why_augmented = _choose_augmentation(found.channels)
    full = _experiment(data.replace(size=sizing.size), side, batch, images, augmentation).replace(ipc=ipc)
    test_images = found.test or round(TEST_SHARE * sum(found.train))
    reduced = _within_budget(full, DatasetSize((found.channels, side, side), len(found.classes), images, test_images))
    reason = f"for {images:,} training images"
    if reduced != full:
        reason += f", within {BUDGET / 1e12:.0f} T multiply-adds"
    choices = (
        Choice("data.size", sizing.why),
        Choice("model", f"{len(found.classes)} classes, {side}×{side} pixels"),
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
    return Proposal(reduced, choices)


def _experiment(data: DataConfig, side: int, batch: int, images: int, augmentation: str) -> Experiment:
    """The settings without regard to the budget."""
    epochs = _clamp(EPOCHS, EXPERT_STEPS / math.ceil(images / batch))
    recipe = AST.recipe.replace(epochs=epochs, batch=batch, augmentation=augmentation)
    step = TrajectoryMatching(syn_steps=10, expert_epochs=2, max_start_epoch=epochs // EARLY)
    return Experiment(
        name=_name(data.source),
        data=data,
        model=f"convnet-d{max(LEAST_DEPTH, round(math.log2(side / LAST_MAP)))}-w32",
        experts=ExpertSettings(count=5),
        method=AST.replace(expert=recipe, step=step),
        distill=DistillSettings(
            iterations=_clamp(ITERATIONS, 100 * math.ceil(images / 500)),
            lr_img=IMAGE_RATES[_power_of_two(side)],
            lr_lr=1e-7,
            lr_init=0.001,
            augmentation=augmentation,
        ),
        evaluation=EvaluationSettings(recipe=MTT_PROTOCOL.replace(epochs=300), networks=3),
    )


def _within_budget(experiment: Experiment, data_size: DatasetSize) -> Experiment:
    """The experiment, with as few of its counts reduced as the budget requires."""
    costs = Costs("cpu")
    for changes in SHORTER:
        if counted(experiment, data_size, costs).together.work <= BUDGET:
            break
        for field, limit in changes.items():
            experiment = _reduce(experiment, field, limit)
    return experiment


def _reduce(experiment: Experiment, field: str, limit: int) -> Experiment:
    if field == "width":
        return experiment.replace(model=re.sub(r"-w\d+", f"-w{limit}", experiment.model))
    return with_value(experiment, field, min(limit, value_of(experiment, field)))


def _survey_data(data: DataConfig) -> Survey:
    """A survey of the data. Data sets that are known by name are not read for it."""
    if data.source not in NAMED:
        return survey(data)
    size = dataset_size(Experiment(name="", data=data.replace(size=None, per_class=None, validation=0.0)))
    channels, height, width = size.shape
    per_class = size.train // size.classes
    names = tuple(map(str, range(size.classes)))
    return Survey(data.source, names, (per_class,) * size.classes, size.test, (PictureSize(height, width),), channels)


class _Sizing(NamedTuple):
    """The requested size, if there is one, the resulting pixels per side, and the reason."""

    size: int | None
    side: int
    why: str


def _choose_size(found: Survey, data: DataConfig) -> _Sizing:
    requested = data.size or DEFAULT_SIZES.get(data.source)
    if requested and requested > MOST_GIVEN:
        raise InputError(
            f"--data.size {requested} is more than settings are chosen for; choose {MOST_GIVEN} or less, or name a "
            "preset and a --model for such images (astdistill presets)."
        )
    if requested:
        return _Sizing(data.size, requested, "as given")
    if not found.sizes:
        return _Sizing(32, 32, "no picture's size could be read")
    sides = [size.side for size in found.sizes]
    height, width = found.sizes[0]
    if found.alike and (found.channels, height, width) == UNPADDED:
        return _Sizing(None, PADDED, f"grey images of {height}×{width} are padded to {PADDED}×{PADDED}")
    if found.alike and height == width == _power_of_two(height):
        return _Sizing(None, height, f"all images are {height}×{width}")
    side = _power_of_two(found.median)
    if found.alike:
        return _Sizing(side, side, f"all images are {height}×{width}")
    why = f"short sides {min(sides)} to {max(sides)}, median {found.median:g}"
    return _Sizing(side, side, why)


def _power_of_two(pixels: float) -> int:
    """The nearest power of two from `SMALLEST` to `LARGEST`."""
    return _clamp((SMALLEST, LARGEST), 2 ** round(math.log2(max(1, pixels))))


def _count_training_images(found: Survey, data: DataConfig) -> int:
    """Number of images that the experts train on."""
    counts = [min(count, data.per_class or count) for count in found.train]
    share = 1.0 - data.validation
    if not found.test:
        share *= 1.0 - TEST_SHARE
    return max(1, round(share * sum(counts)))


def _choose_batch(images: int) -> int:
    return _clamp(BATCHES, 2 ** math.floor(math.log2(max(1, images / STEPS))))


def _choose_augmentation(channels: int) -> tuple[str, str]:
    if channels == 1:
        return DIGITS_DSA, "grey: not mirrored, nor recoloured"
    return STRATEGY, "colour: all; leave out flip if a mirrored image means something else"


def _clamp(bounds: tuple[int, int], value: float) -> int:
    return min(max(bounds[0], round(value)), bounds[1])


def _name(source: str) -> str:
    """Name of the run folder, taken from the data source."""
    path, name = Path(os.path.expanduser(source)), source.partition(":")[0].rpartition("/")[2]
    if path.is_dir():
        name = path.resolve().name
    elif path.is_file():
        name = path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "own"
