"""Evaluation protocols and pools of networks. Accuracies are comparable only under the same protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from ..data.augmentation import Strategy
from ..models.convnets import deepest
from ..models.registry import Name, parse
from ..runtime.config import FINITE, Record, Share
from ..runtime.errors import InputError, unknown
from ..runtime.trust import trust_models

LATER = (
    *("released_count", "optimiser", "steps", "networks", "drops_at", "cutmix"),
    *("cosine", "checks_from", "batches", "temperature"),
)
"""Fields of a recipe that the first version did not have."""


Count = Annotated[int, Field(ge=1)]


def _split_pair(value: object) -> object:
    """The two numbers of a typed pair such as '10:50'."""
    return value.split(":") if isinstance(value, str) else value


class EvalRecipe(Record):
    """How a fresh network is trained on a few images and what is reported of it."""

    model_config = FINITE

    name: str
    """Name of the recipe, shown in every table."""
    epochs: int = Field(default=1000, ge=1)
    """E, the number of training epochs; E + 1 with released_count."""
    full_epochs: int | None = Field(default=None, ge=1)
    """Training epochs of the full-data baseline. Default: epochs; in a run, those of an expert."""
    released_count: bool = False
    """Count epochs as the released scripts do, from 0 to E inclusive: E + 1 epochs, the learning rate drops after epoch
    number int(decay_at · E) + 1, and tests follow the epochs whose number is a multiple of check_every, 0 included."""
    batch: int = Field(default=256, ge=1)
    """Batch size; a smaller set is one batch. It has no effect if batches are given."""
    lr: float | None = Field(default=None, gt=0)
    """Learning rate. Default: the learned one of the distilled set, and 0.01 for real images."""
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimiser of the evaluated networks."""
    steps: tuple[Count, ...] = ()
    """Numbers of optimiser steps after which to test, ascending; training ends after the last. Default: epochs are
    counted instead."""
    networks: int = Field(default=5, ge=1)
    """Number of networks per row that --protocol sets; a run uses evaluation.networks."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD, or β₁ of Adam and AdamW (β₂ is 0.999), from 0 to below 1."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay: this factor times the parameters is added to the gradient; decoupled from it in AdamW."""
    decay_at: float = Field(default=0.5, ge=0, le=1)
    """Fraction of the epochs after which the learning rate drops, from 0 to 1: after the pass that reaches it, so that
    0 keeps one pass at the full rate. 1 means no drop."""
    decay_factor: float = Field(default=0.1, gt=0, le=1)
    """Factor on the learning rate at each drop, above 0 and at most 1. It has no effect with cosine."""
    drops_at: tuple[Share, ...] = ()
    """Fractions of the epochs after each of which the learning rate is multiplied by decay_factor, without a reset of
    the optimiser, in place of the single drop. It has no effect with cosine. Default: the single drop at decay_at."""
    momentum_after: float | None = Field(default=None, ge=0, lt=1)
    """Momentum after the single drop, from 0 to below 1. Default: unchanged."""
    augmentation: Strategy | None = None
    """Augmentations, joined by underscores, one of which is drawn for each batch: color, crop, cutout, flip, scale,
    rotate (DSA, differentiable Siamese augmentation). An empty text means none. Default: those that the set was
    distilled with, for the baselines too; all six where there is no set."""
    cutmix: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the batches to which cutmix is applied after the augmentation, from 0 to 1."""
    cosine: float = Field(default=0.0, ge=0)
    """c, of a cosine schedule: in epoch e, counted from 0, the learning rate is multiplied by ½ (1 + cos(π e / (c E))),
    and does not drop. With c = 2 it ends at half of its first value. 0 means no such schedule."""
    batches: tuple[Annotated[tuple[Count, Count], BeforeValidator(_split_pair)], ...] = ()
    """Pairs of a number of images per class and the batch size from that number on, in place of batch; twice the batch
    size for a hundred classes or more. On the command line a pair is two numbers with a colon: 1:10 10:50."""
    temperature: float = Field(default=0.0, ge=0)
    """T, of a teacher that labels the augmented batches: networks minimise KL(teacher ‖ network), the logits of both
    divided by T, in place of the cross-entropy with the labels of the set. 0 means no teacher."""
    checks_from: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the epochs before the first test that check_every counts, from 0 to below 1."""
    check_every: int = Field(default=0, ge=0)
    """Epochs between two tests, of which the best accuracy is also recorded. 0 tests once, after the last epoch. It has
    no effect if steps are given."""
    reported: Literal["final", "best"] = "final"
    """Accuracy of each network that mean and standard deviation are computed from: that of the last epoch (final), or
    the best of all tests (best), which is chosen on the test images."""

    @model_validator(mode="after")
    def _best_needs_checks(self) -> Self:
        if self.reported == "best" and not self.check_every and not self.steps:
            raise InputError(
                "reported is 'best', but this recipe tests only at the end; set check_every, for example to 20 "
                "(--evaluation.recipe.check-every 20)."
            )
        return self

    @model_validator(mode="after")
    def _steps_ascend(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)):
            raise InputError(
                f"The steps after which to test were given as {', '.join(map(str, self.steps))}; give each once, in "
                f"ascending order: {', '.join(map(str, sorted(set(self.steps))))}."
            )
        return self

    @model_serializer(mode="wrap")
    def _omit_unused(self, handler: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """Write fields that earlier versions did not have only where they are used, so that existing scores keep their
        keys."""
        fields = type(self).model_fields
        unused = {name for name in LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in handler(self).items() if name not in unused}

    def unread(self) -> tuple[str, ...]:
        idle = {
            ("batch",): bool(self.batches),
            ("decay_at", "momentum_after"): bool(self.drops_at or self.cosine),
            ("decay_factor", "drops_at"): bool(self.cosine),
            ("check_every",): bool(self.steps),
            ("checks_from",): bool(self.steps) or not self.check_every,
        }
        return tuple(name for names, holds in idle.items() if holds for name in names)

    def check_epochs(self, given: str, called: str = "this evaluation") -> None:
        """Raise InputError where the recipe counts steps, so that a number of epochs would have no effect.

        Args:
            given: The flag and the number as typed, for the error message.
            called: The name of the recipe in the error message.
        """
        if self.steps:
            raise InputError(
                f"{given} was given, but {called} counts {self.steps[-1]} steps; leave it out, or choose another: "
                f"--protocol mtt."
            )

    def for_images(self, count: int) -> EvalRecipe:
        """The recipe for a set of `count` images, with as many epochs as its steps take.

        Args:
            count: Images that a network trains on.
        """
        if not self.steps:
            return self
        return self.replace(epochs=-(-self.steps[-1] // -(-count // self.batch)))

    @property
    def passes(self) -> int:
        """How often a network sees its training images: E, or E + 1 as released."""
        return self.epochs + self.released_count

    @property
    def decays_at(self) -> int:
        """The first pass, counted from 0, that runs at the lower learning rate: `int(decay_at · E) + 1`, one later as
        released.

        At `decay_at` = ½ and E = 1000, 502 passes run at the full rate as released, and 499 below it. The released MTT
        code makes a new optimiser there, so the momentum buffer starts from zero.
        """
        return int(self.decay_at * self.epochs) + 1 + self.released_count

    def starts_anew(self, epoch: int) -> bool:
        """Whether a new optimiser begins with the lower learning rate in `epoch`, counted from 0.

        Args:
            epoch: Counted from 0.
        """
        return not self.drops_at and not self.cosine and epoch == self.decays_at

    def for_set(self, ipc: int, classes: int) -> EvalRecipe:
        """The recipe with its batch size resolved, where it depends on the size of the set.

        Args:
            ipc: Images per class, as they are stored.
            classes: K.
        """
        if not self.batches:
            return self
        ascending = sorted(self.batches)
        fitting = [batch for least, batch in ascending if ipc >= least] or [ascending[0][1]]
        return self.replace(batch=fitting[-1] * (1 + (classes >= 100)), batches=())

    def dropped(self, epoch: int) -> float:
        """The factor on the learning rate in `epoch`, counted from 0, from the `drops_at` before it or the cosine
        schedule.

        Args:
            epoch: Counted from 0.
        """
        if self.cosine:
            return 0.5 * (1 + math.cos(math.pi * epoch / (self.cosine * self.epochs)))
        return self.decay_factor ** sum(epoch >= round(share * self.epochs) for share in self.drops_at)

    def checks_after(self, passes: int) -> bool:
        """Whether the network is tested after `passes` passes: after 20, 40, … for a `check_every` of 20, and after 1,
        21, … as released.

        Args:
            passes: Completed passes over the training images.
        """
        if self.steps or not self.check_every or passes <= self.checks_from * self.epochs:
            return False
        return (passes - self.released_count) % self.check_every == 0

    def augmented(self, strategy: str) -> EvalRecipe:
        """The recipe with its augmentation resolved: its own, or else `strategy`.

        Args:
            strategy: DSA operations joined by underscores; "" for none.
        """
        if self.augmentation is not None:
            return self
        return self.replace(augmentation=strategy)

    @property
    def epochs_on_full_data(self) -> int | None:
        """Epochs of the full-data baseline; None where they are those of the set, or where the recipe counts steps, of
        which full data takes as many as the set."""
        if self.steps:
            return None
        return self.full_epochs

    def for_full_data(self) -> EvalRecipe:
        """The recipe that the full-data baseline runs: the same with `epochs_on_full_data` epochs."""
        return self.replace(epochs=self.epochs_on_full_data or self.epochs, full_epochs=None)


MTT_PROTOCOL = EvalRecipe(name="MTT", released_count=True)
"""Cazenavette et al. 2022 (arXiv 2203.11932) and most of its successors: 1000 epochs, which are 1001 passes; the
accuracy after the last one counts."""
AST_RELEASED_PROTOCOL = MTT_PROTOCOL.replace(
    name="AST as released", weight_decay=1e-3, decay_factor=0.5, momentum_after=0.8, check_every=20, reported="best"
)
"""The script released with arXiv 2310.10541: the maximum over checks on the test images after passes 1, 21, … 1001."""
DATM_RELEASED_PROTOCOL = MTT_PROTOCOL.replace(name="DATM as released", batch=128)
"""The code released with arXiv 2310.05773: MTT's loop with batches of 128."""
DC_PROTOCOL = MTT_PROTOCOL.replace(name="DC", epochs=300, augmentation="")
"""DC (arXiv 2006.05929): MTT's loop in 300 epochs, without augmentation. DSA's own protocol is MTT's."""
NO_CUTOUT = "color_crop_flip_scale_rotate"
"""DSA without cutout, which goes with cutmix."""
TGDD_PROTOCOL = EvalRecipe(
    name="TGDD",
    epochs=1500,
    batch=64,
    lr=0.01,
    decay_factor=0.2,
    drops_at=(2 / 3, 5 / 6),
    augmentation=NO_CUTOUT,
    cutmix=0.5,
    check_every=50,
    reported="best",
)
"""Of the code released with TGDD: the maximum over checks on the test images; how often it checks is our choice."""
NCFM_PROTOCOL = TGDD_PROTOCOL.replace(
    name="NCFM",
    epochs=2000,
    batch=128,
    optimiser="adamw",
    lr=0.001,
    weight_decay=0.01,
    decay_factor=0.5,
    drops_at=(0.2, 0.4, 0.6, 0.8),
    networks=10,
)
"""Of the code released with NCFM (arXiv 2502.20653): the maximum over checks on the test images; the weight decay is
AdamW's usual one, and how often it checks is our choice."""
RAT_PROTOCOL = EvalRecipe(
    name="RaT-BPTT",
    optimiser="adam",
    lr=1e-3,
    weight_decay=0.0,
    batch=100,
    decay_at=1.0,
    steps=(300, 600, 1000, 3000),
    reported="best",
    networks=8,
)
"""RaT-BPTT (arXiv 2311.07025): Adam, and the maximum over four numbers of steps, chosen on the tested images. Tables
also show the accuracy at each number of steps, for example 1000."""
RDED_PROTOCOL = EvalRecipe(
    name="RDED",
    epochs=300,
    batches=((1, 10), (10, 50), (50, 100)),
    lr=1e-3,
    optimiser="adamw",
    weight_decay=0.01,
    cosine=2.0,
    augmentation="flip",
    cutmix=1.0,
    temperature=20.0,
    check_every=10,
    checks_from=0.8,
    reported="best",
)
"""Of the code released with RDED (arXiv 2312.03526): a teacher labels what students see, with cutmix in every batch;
the maximum over checks on the test images in the last fifth of the epochs, where their number is our choice."""
PROTOCOLS: dict[str, EvalRecipe] = {
    "mtt": MTT_PROTOCOL,
    "ast-released": AST_RELEASED_PROTOCOL,
    "datm-released": DATM_RELEASED_PROTOCOL,
    "dc": DC_PROTOCOL,
    "tgdd": TGDD_PROTOCOL,
    "ncfm": NCFM_PROTOCOL,
    "rat": RAT_PROTOCOL,
    "rded": RDED_PROTOCOL,
}
ALL = ("mtt", "ast-released", "rat", "tgdd", "ncfm", "rded")
"""The protocols of an evaluation under all protocols: those of each family of methods."""


def protocol(name: str) -> EvalRecipe:
    """The protocol called `name`. Raises InputError naming the nearest one."""
    if name not in PROTOCOLS:
        raise unknown("evaluation protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


Shape = tuple[int, int, int]
PAPERS = ("mlp", "convnet", "lenet", "alexnet", "vgg11-instancenorm", "resnet18")
"""The networks of the papers' cross-architecture tables; their VGG11 has instance norm."""


def architectures(requested: str | Sequence[str] | None, student: str, shape: Shape) -> list[str]:
    """The names of the networks to train on images of `shape`, each once, with the pools among `requested` expanded;
    the student where nothing is requested.

    A pool writes the student's name with one option changed, and leaves the name unchanged where the option already has
    that value, so that the student is trained once however many pools contain it. Raises InputError where a pool needs
    a student and there is none, or an option that the student does not have.
    """
    if isinstance(requested, str):
        requested = [requested]
    trust_models(requested)  # only the caller's names: the student may come from a file
    names = requested or ["S"]
    for name in names:
        if len(name) == 1 and name not in POOLS:
            raise unknown("pool of networks", name, POOLS)
    return list(dict.fromkeys(each for name in names for each in _pool(name, student, shape)))


def _pool(name: str, student: str, shape: Shape) -> list[str]:
    """The networks of the pool `name`; any other name stands for one network."""
    if name not in POOLS:
        return [name]
    if not student:
        raise InputError(
            "Real images name no network of their own; say which to train, for example model='convnet-d3'."
        )
    return POOLS[name](student, shape)


def _many_architectures(student: str, shape: Shape) -> list[str]:
    family = student.split("-")[0]
    return [student, *(name for name in PAPERS if name.split("-")[0] != family)]


def _parse_student(student: str) -> Name:
    if ":" in student:
        raise InputError(
            f"A pool that varies one option needs a student of the package's own, and '{student}' is not; "
            "use pool S or M."
        )
    return parse(student)


def _depths(student: str, shape: Shape) -> list[str]:
    name, size, most = _parse_student(student), shape[1:], 4
    if name.family == "convnet":
        most = min(most, deepest(size, name.options(size)["pooling"]))
    return [name.having("depth", depth, size) for depth in range(1, most + 1)]


def _vary_option(option: str, values: Sequence[Any]) -> Callable[[str, Shape], list[str]]:
    return lambda student, shape: [_parse_student(student).having(option, value, shape[1:]) for value in values]


POOLS: dict[str, Callable[[str, Shape], list[str]]] = {
    "S": lambda student, shape: [student],
    "M": _many_architectures,
    "W": _vary_option("width", (32, 64, 128, 256)),
    "D": _depths,
    "A": _vary_option("activation", ("sigmoid", "relu", "leakyrelu")),
    "P": _vary_option("pooling", ("none", "max", "avg")),
    "N": _vary_option("norm", ("none", "batch", "layer", "instance", "group")),
}
"""The student itself, many architectures, widths, depths 1 to 4 (what the image size allows), activations, poolings,
norms."""
