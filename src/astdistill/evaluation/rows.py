"""The rows of a table of accuracies: which network learns from which images, under which recipe, and on what it is
tested."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..data.coresets import Points, herding, k_centre
from ..data.dataset import Dataset, Split
from ..data.preprocessing import Preprocessing
from ..data.selection import representatives
from ..data.synthetic import SyntheticSet, mismatched, one_hot
from ..data.textures import ORDINARY
from ..models.registry import build_model
from ..runtime.errors import InputError, unknown
from ..runtime.kinds import usual_torch
from ..runtime.parallel import training_seconds
from ..runtime.seeds import check_seed, derive, rng
from ..runtime.shapes import Labels
from .protocol import EvalRecipe, architectures
from .scores import RowScores
from .teacher import Teacher
from .training import Examples, RealExamples, TensorExamples

REAL_LR = 0.01
"""The rate for real images where the recipe leaves it to the set: that of MTT's experts."""
UNEQUAL = 1.2
"""Ratio of the images of the largest tested class to those of the smallest from which accuracy alone is not enough."""
DIGITS = 16
INVERTED = 1 << 28
"""Bytes of images whose preprocessing is undone at once."""
Source = SyntheticSet | Split | Callable[[int], SyntheticSet | Split]
"""What networks learn from; a function gives network k its own set, so that the spread contains the draw of the
images."""


@dataclass(frozen=True)
class TableRow:
    """A row of networks that differ only in their number: its name, the network, the training data, the images per
    epoch and the resolved recipe.

    `content` identifies the training data; it is '' where no result is stored.
    """

    name: str
    model: str
    source: Source
    images: int
    recipe: EvalRecipe
    content: str = ""
    teacher: Teacher | None = None
    """The network that labels the training batches, where the recipe has a temperature."""

    def taught_by(self, teacher: Teacher | None, fingerprint: str) -> TableRow:
        """The row with a teacher, where its recipe needs one. Raises InputError where there is none, and for one that
        was not trained on the data of that fingerprint."""
        if not self.recipe.temperature:
            return self
        if teacher is None:
            raise InputError(
                f"The protocol {self.recipe.name} needs a teacher that labels the images, and none was given; "
                "evaluate with astdistill evaluate, which trains one, or choose another protocol, such as mtt."
            )
        teacher.check(fingerprint)
        teacher = teacher.at(self.recipe.temperature)
        return replace(self, teacher=teacher, content=f"{self.content}, seen with {teacher.content}")

    @property
    def images_seen(self) -> int:
        """Images that one network is shown, over all epochs."""
        return self.recipe.for_images(self.images).passes * self.images

    def seconds(self, dataset: Dataset) -> float:
        """The estimated seconds that one core takes for one network."""
        _, height, width = dataset.shape
        steps = self.recipe.for_images(self.images).passes * math.ceil(self.images / self.recipe.batch)
        network = build_model(self.model, dataset.shape, len(dataset.classes))
        return training_seconds(
            steps, self.images_seen, sum(part.numel() for part in network.parameters()), height * width
        )

    def examples(self, dataset: Dataset, k: int) -> Examples:
        """The images and targets of network k, on the device of the data set."""
        chosen, device, lr = self.source, dataset.device, self.recipe.lr
        if callable(chosen):
            chosen = chosen(k)
        if isinstance(chosen, SyntheticSet):
            check_same_space(chosen, dataset)
            return replace(TensorExamples.of(chosen, lr, device), teacher=self.teacher)
        if lr is None:
            lr = REAL_LR
        return RealExamples(chosen.to(device), len(dataset.classes), lr, self.teacher)


@dataclass(frozen=True)
class Testing:
    """What the networks of all rows share: the data, the tested split, the seed of all draws, and the number of
    networks per row."""

    dataset: Dataset
    split: Literal["test", "validation"]
    seed: int
    seeds: int

    @property
    def images(self) -> Split:
        """The images to test on: test, or those held out for validation. Raises InputError when there are none."""
        if self.split == "test":
            return self.dataset.test
        if self.split != "validation":
            raise InputError(f"There is no split '{self.split}'; evaluate on 'test' or 'validation'.")
        if self.dataset.validation is None:
            raise InputError(
                f"'{self.dataset.name}' was loaded without held-out images; "
                "load it with validation=0.1 to evaluate on them."
            )
        return self.dataset.validation

    @property
    def majority(self) -> RowScores | None:
        """The scores of always predicting the largest training class; None where the tested classes have about equally
        many images, so that accuracy is enough."""
        sizes = torch.bincount(self.images.labels, minlength=len(self.dataset.classes)).tolist()
        if max(sizes) < UNEQUAL * min(sizes):
            return None
        trained = self.dataset.class_sizes()
        largest = trained.index(max(trained))
        present = sum(size > 0 for size in sizes)
        return RowScores.constant(100 * sizes[largest] / sum(sizes), 100 * (sizes[largest] > 0) / present)

    def check(self, models: Sequence[str]) -> None:
        """Raise InputError unless there are images to test on, networks to train, a network of each name, and a seed
        that files can hold. Checked before any training, so that no hours are lost."""
        _ = self.images
        check_seed(self.seed)
        check_count(self.seeds)
        check_names(models, self.dataset)

    def common(self) -> dict[str, Any]:
        """The parts of the cache key that all rows share."""
        tested = tested_content(self.images, self.dataset.preprocessing)
        return {"dataset": self.dataset.fingerprint, "split": self.split, "tested": tested, "seed": self.seed}


def check_count(networks: int) -> None:
    """Raise InputError for less than one network."""
    if networks < 1:
        raise InputError(f"{networks} networks were asked for; train at least 1, and 5 for a spread to compare.")


def check_names(names: Sequence[str], dataset: Dataset) -> None:
    """Raise InputError for a name of which no network can be built for these images."""
    for name in names:
        build_model(name, dataset.shape, len(dataset.classes))


def settled(
    synthetic: SyntheticSet, dataset: Dataset, recipe: EvalRecipe, model: str | Sequence[str] | None
) -> tuple[EvalRecipe, list[str]]:
    """The recipe with the augmentation of the set where it has none, and the networks that `model` names (None: the
    student). Raises InputError for a set that does not belong to `dataset`."""
    check_shapes(synthetic)
    check_same_space(synthetic, dataset)
    return recipe_for(synthetic, recipe), architectures(model, synthetic.model, dataset.shape)


def recipe_for(synthetic: SyntheticSet, recipe: EvalRecipe) -> EvalRecipe:
    """The recipe with everything that depends on the set: its augmentation where it has none, and its batch."""
    return recipe.augmented(synthetic.augmentation).for_set(synthetic.ipc, len(synthetic.classes))


TAUGHT = "teacher"
"""The row of random real images with a teacher's soft labels, which share no table with hard labels."""
BASELINES = ("random", "kmeans", "herding", "kcenter", "full")
"""Rows of real images with hard labels by name."""


def check_taught(recipe: EvalRecipe, baselines: Sequence[str]) -> None:
    """Raise InputError for the baseline 'teacher' under a protocol in which a teacher labels every row."""
    if recipe.temperature and TAUGHT in baselines:
        raise InputError(
            f"The baseline 'teacher' was given under the protocol {recipe.name}, in which a teacher labels every row; "
            "leave it out: 'random' is that row."
        )


USUAL = ("random", "kmeans")
"""Baselines that are trained unless others are named: full data takes longer than all other rows together."""
FULL_DATA = "full data"
"""The content of the row of all training images, which is the same for every set distilled from these data."""


def synthetic_row(model: str, synthetic: SyntheticSet, recipe: EvalRecipe) -> TableRow:
    """The row of a distilled set on one network."""
    return TableRow(model, model, synthetic, synthetic.seen, recipe, content(synthetic))


def baseline_row(
    name: str,
    model: str,
    ipc: int,
    dataset: Dataset,
    recipe: EvalRecipe,
    seed: int,
    teacher: Teacher | None = None,
) -> TableRow:
    """The row of a baseline. Raises InputError for an unknown one, where a class has fewer than `ipc` images, and where
    a teacher is needed and there is none, or one trained on other data."""
    if name == "full":  # all training images that are not held out for validation
        images = dataset.train
        return TableRow(name, model, images, len(images), recipe.for_full_data(), FULL_DATA)
    if name not in (*BASELINES, TAUGHT):
        raise unknown("baseline", name, (*BASELINES, TAUGHT))
    dataset.check_ipc(ipc)
    count = ipc * len(dataset.classes)
    if name == TAUGHT:
        if teacher is None:
            raise InputError(
                "The baseline 'teacher' labels real images by a trained network, and none was given; pass a Teacher, "
                "or leave the baseline out."
            )
        teacher.check(dataset.fingerprint)
        draw = Draw("random", dataset, ipc, seed, teacher)
        return TableRow(name, model, draw, count, recipe, f"random real images, {ipc} per class, {teacher.content}")
    return TableRow(name, model, Draw(name, dataset, ipc, seed), count, recipe, f"{name} real images, {ipc} per class")


@dataclass(frozen=True)
class Draw:
    """Real images of a baseline, drawn for each network separately."""

    baseline: str
    dataset: Dataset
    ipc: int
    seed: int
    teacher: Teacher | None = None
    """The network that gives the images soft labels; None: they have their hard labels."""

    def __call__(self, k: int) -> SyntheticSet:
        chosen = CHOOSERS[self.baseline](self.dataset, self.ipc, derive(self.seed, "baseline", k))
        if self.teacher is None:
            return chosen
        return replace(chosen, targets=self.teacher.labels(chosen.images), labels="soft")


@usual_torch()
def random_real(dataset: Dataset, ipc: int, seed: int) -> SyntheticSet:
    """`ipc` training images of every class, drawn without replacement, grouped by class. Raises InputError when a class
    is too small."""

    def draw(members: Labels, label: int) -> Labels:
        return torch.randperm(len(members), generator=rng(seed, "random-real", label))[:ipc]

    return _real_set(dataset, ipc, draw, "random real images")


def kmeans_real(dataset: Dataset, ipc: int, seed: int) -> SyntheticSet:
    """Per class the `ipc` training images nearest the centres of K-means, each within its own cluster, grouped by
    class.

    K-means sees the preprocessed pixels. Raises InputError when a class is too small.
    """

    def nearest(members: Labels, label: int) -> Labels:
        features = dataset.train.batch(members).flatten(1)
        return representatives(features, ipc, seed=derive(seed, "kmeans-real", label))

    return _real_set(dataset, ipc, nearest, "K-means real images")


def herding_real(dataset: Dataset, ipc: int, seed: int) -> SyntheticSet:
    """Per class the `ipc` training images that `herding` chooses by their preprocessed pixels, grouped by class; the
    same for every seed. Raises InputError when a class is too small."""
    return _real_set(
        dataset, ipc, lambda members, label: herding(_pixels(dataset, members), ipc), "herding real images"
    )


def kcenter_real(dataset: Dataset, ipc: int, seed: int) -> SyntheticSet:
    """Per class the `ipc` training images that `k_centre` chooses by their preprocessed pixels, grouped by class; the
    same for every seed. Raises InputError when a class is too small."""
    return _real_set(
        dataset, ipc, lambda members, label: k_centre(_pixels(dataset, members), ipc), "k-centre real images"
    )


def _pixels(dataset: Dataset, members: Labels) -> Points:
    """Images of one class as points: pixels, not features of a network, so that a row depends on the data alone, is
    the same for every method, and needs no trained network."""
    return Points(len(members), lambda numbers: dataset.train.batch(members[numbers.to(members.device)]))


CHOOSERS = {"random": random_real, "kmeans": kmeans_real, "herding": herding_real, "kcenter": kcenter_real}


def _real_set(dataset: Dataset, ipc: int, choose: Callable[[Labels, int], Labels], method: str) -> SyntheticSet:
    """A set of training images: those that `choose` selects among the rows of each class."""
    dataset.check_ipc(ipc)
    chosen = []
    for label in range(len(dataset.classes)):
        members = dataset.train.of_class(label)
        chosen.append(members[choose(members, label).to(members.device)])
    indices = torch.cat(chosen)
    return SyntheticSet(
        images=dataset.train.batch(indices),
        targets=one_hot(dataset.train.labels[indices], len(dataset.classes)),
        lr=torch.tensor(REAL_LR, dtype=torch.float32, device=dataset.device),
        classes=dataset.classes,
        preprocessing=dataset.preprocessing,
        data=dataset.config,
        model="",
        method=method,
        fingerprint=dataset.fingerprint,
    )


def content(synthetic: SyntheticSet) -> str:
    """A hash of what training on a set depends on: images, targets, their kind, learning rate; for textures also their
    specification."""
    state = hashlib.sha256()
    for tensor in (synthetic.images, synthetic.targets, synthetic.lr):
        state.update(_header_bytes(tuple(tensor.shape), tensor.dtype) + _bytes(tensor))
    digest = state.hexdigest()[:DIGITS] + synthetic.labels
    if synthetic.texture == ORDINARY:
        return digest
    return f"{digest}-{synthetic.texture.digest()}"


def tested_content(split: Split, preprocessing: Preprocessing) -> str:
    """A hash of the 8-bit pixels and the labels that networks are tested on.

    It takes pixels, because the last bits of whitened images change with the linear-algebra library and its number of
    threads.
    """
    state = hashlib.sha256(_header_bytes((len(split), *split.shape), torch.uint8))
    for images, _ in split.batches(max(1, INVERTED // (4 * math.prod(split.shape)))):
        state.update(_bytes(preprocessing.invert(images).mul(255).round().clamp(0, 255).to(torch.uint8)))
    state.update(_header_bytes(tuple(split.labels.shape), split.labels.dtype) + _bytes(split.labels))
    return state.hexdigest()[:DIGITS]


def _header_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> bytes:
    return repr((shape, str(dtype))).encode()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def check_shapes(synthetic: SyntheticSet) -> None:
    """Raise InputError unless the set has one row of targets for each of its images."""
    if problem := mismatched(synthetic):
        raise InputError(f"The set cannot be evaluated ({problem}); give it one row of targets for each of its images.")


def check_same_space(synthetic: SyntheticSet, dataset: Dataset) -> None:
    """Raise InputError unless the set has the classes, the image shape and the preprocessing of `dataset`."""
    source = shlex.quote(synthetic.data.source)
    remedy = f"give the data that it was made from: --data {source}, in Python {_load_call(synthetic)}."
    if synthetic.classes != dataset.classes:
        raise InputError(
            f"The set was distilled for {_few(synthetic.classes)}, but '{dataset.name}' has {_few(dataset.classes)}; "
            f"{remedy}"
        )
    if synthetic.shape != dataset.shape:
        raise InputError(
            f"The set's images have shape {synthetic.shape}, those of '{dataset.name}' {dataset.shape}; {remedy}"
        )
    if synthetic.preprocessing.hash != dataset.preprocessing.hash:
        raise InputError(
            f"The set's images are preprocessed ({synthetic.data.whiten}) otherwise than '{dataset.name}' "
            f"({dataset.config.whiten}), so a network trained on one cannot be tested on the other; {remedy}"
        )


def _few(classes: tuple[str, ...]) -> str:
    """The number of classes and the first three names, as text."""
    first = ", ".join(classes[:3])
    return f"{len(classes)} classes ({first}{', …' * (len(classes) > 3)})"


def _load_call(synthetic: SyntheticSet) -> str:
    """The Python call that loads the data that the set was made from."""
    fields = {
        name: value
        for name, value in synthetic.data.model_dump(exclude_defaults=True).items()
        if name not in ("source", "memory")
    }
    arguments = "".join(f", {name}={value!r}" for name, value in {"whiten": synthetic.data.whiten, **fields}.items())
    return f"load_dataset({synthetic.data.source!r}{arguments})"
