"""Initial images (random real ones, selected real ones, noise, or from a file) and their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from ..data.dataset import Dataset, Split
from ..data.selection import clustered, one_thread
from ..data.synthetic import LabelKind, load, one_hot
from ..data.textures import ORDINARY, TextureSpec
from ..experts.store import Segment, TrajectoryStore
from ..models.flat import FlatModel
from ..runtime.config import Component
from ..runtime.errors import InputError
from ..runtime.seeds import derive, rng
from ..runtime.shapes import Batch, Images, Labels, Logits, Params, Targets

Classifier = Callable[[Params, Batch], Logits]
"""The network that makes labels: a function of its parameters and of images, or of whole canvases."""


@dataclass(frozen=True)
class Initial:
    """Initial images `[N, C, H, W]` with labels `[N]`, grouped by class, N = K × ipc."""

    images: Images
    """`[N, C, H, W]`, in the preprocessed space."""
    labels: Labels
    """`[N]`, each 0 … K − 1."""
    clusters: tuple[Clusters, ...] = ()
    """One per class if the images were chosen by clustering."""


@dataclass(frozen=True)
class Clusters:
    """The clustering of one class: features `[N, D]`, the cluster of each image `[N]`, and the indices of the chosen
    images."""

    features: Logits
    """`[N, D]`."""
    clusters: Int[Tensor, " N"]
    """`[N]`, the number of each image's cluster."""
    chosen: Int[Tensor, " I"]
    """`[I]`, indices into the N."""


@dataclass(frozen=True)
class Choice:
    """Indices into the training images, and the clusters that they were chosen from, if any."""

    indices: Int[Tensor, " I"]
    """`[I]`, on the CPU."""
    clusters: Clusters | None = None
    """None if the images were not clustered."""

    @staticmethod
    def among(members: Int[Tensor, " N"], clusters: Clusters) -> Choice:
        """The images at `members` that were chosen.

        Args:
            members: `[N]`, indices into the training images.
            clusters: How these N were clustered.
        """
        return Choice(members.cpu()[clusters.chosen], clusters)


class ImageInit(Component):
    """Chooses the initial images X from the training images.

    `ipc` has been checked against the class sizes; a canvas of k² cells needs k² images, which a class may not have.
    The experts are given if `reads_trained` is set; otherwise they may be None.
    """

    reads_trained: ClassVar[bool] = False
    """Whether the last row of an expert is read, for which the expert must be trained to the end."""

    def check(self, dataset: Dataset, ipc: int) -> None:
        """Raise InputError if this many images per class of this data set cannot be chosen this way.

        Args:
            dataset: The real data.
            ipc: Images per class.
        """

    def __call__(
        self, dataset: Dataset, experts: TrajectoryStore | None, model: FlatModel, ipc: int, seed: int
    ) -> Initial:
        """The initial set. All images differ, unless a class has fewer than `ipc`: its images are then repeated in
        turn.

        Args:
            dataset: The real data.
            experts: The store. None if the method trains no experts.
            model: The network as a function of its parameters and of images.
            ipc: Images per class.
            seed: Seed of all random draws.
        """
        sizes = enumerate(dataset.class_sizes())
        chosen = [self.choose(dataset, label, min(ipc, size), experts, model, seed) for label, size in sizes]
        repeated = [each.indices[torch.arange(ipc) % len(each.indices)] for each in chosen]
        indices = torch.cat(repeated).to(dataset.train.labels.device)
        clusters = tuple(each.clusters for each in chosen if each.clusters is not None)
        return Initial(dataset.train.batch(indices), dataset.train.labels[indices], clusters)

    def laid_out(self, images: Images, texture: TextureSpec, size: tuple[int, int]) -> Images:
        """Canvases and slots `[N, C, H, W]`, made of the images of their cells, which are listed canvas by canvas.

        Args:
            images: Images of the initial set.
            texture: The layout of canvases and slots.
            size: Height and width of an ordinary image.
        """
        return texture.tiled(texture.fitted(images, size))

    def choose(
        self, dataset: Dataset, label: int, ipc: int, experts: TrajectoryStore | None, model: FlatModel, seed: int
    ) -> Choice:
        """Choose `ipc` training images of class `label`.

        Args:
            dataset: The real data.
            label: The class, 0 … K − 1.
            ipc: Images of the class, at most as many as it has.
            experts: The store. None if the method trains no experts.
            model: The network as a function of its parameters and of images.
            seed: Seed of all random draws.
        """
        raise NotImplementedError


class RealInit(ImageInit):
    """Random real images of each class (MTT)."""

    def choose(
        self, dataset: Dataset, label: int, ipc: int, experts: TrajectoryStore | None, model: FlatModel, seed: int
    ) -> Choice:
        members = dataset.train.of_class(label).cpu()
        return Choice(members[torch.randperm(len(members), generator=rng(seed, "init", label))[:ipc]])


class CorrectInit(ImageInit):
    """Random real images of each class among those that a trained expert classifies correctly (DATM, arXiv 2310.05773,
    section 3.2).

    If these are too few, misclassified images follow in ascending order of the largest logit minus the logit of their
    own class.
    """

    reads_trained: ClassVar[bool] = True

    def choose(
        self, dataset: Dataset, label: int, ipc: int, experts: TrajectoryStore | None, model: FlatModel, seed: int
    ) -> Choice:
        members = dataset.train.of_class(label)
        members = members[torch.randperm(len(members), generator=rng(seed, "init", label)).to(members.device)]
        logits = expert_logits(experts, model, dataset.train.select(members), seed)
        wrong_by = (logits.amax(dim=1) - logits[:, label]).clamp_min(0.0)
        return Choice(members.cpu()[wrong_by.argsort(stable=True)[:ipc]])


class NoiseInit(ImageInit):
    """Gaussian noise, of unit variance in the preprocessed space for slots as they are stored."""

    def __call__(
        self, dataset: Dataset, experts: TrajectoryStore | None, model: FlatModel, ipc: int, seed: int
    ) -> Initial:
        labels = torch.arange(len(dataset.classes)).repeat_interleave(ipc)
        images = torch.randn(len(labels), *dataset.shape, generator=rng(seed, "init"), dtype=torch.float32)
        return Initial(images.to(dataset.device), labels.to(dataset.device))

    def laid_out(self, images: Images, texture: TextureSpec, size: tuple[int, int]) -> Images:
        return texture.factor * super().laid_out(images, texture, size)  # averaging r² values divides σ by r


class UnitNormInit(NoiseInit):
    """Gaussian noise, each image that a network sees scaled to an L2 norm of 1 in the preprocessed space (RaT-BPTT,
    arXiv 2311.07025)."""

    def __call__(
        self, dataset: Dataset, experts: TrajectoryStore | None, model: FlatModel, ipc: int, seed: int
    ) -> Initial:
        initial = super().__call__(dataset, experts, model, ipc, seed)
        return replace(initial, images=of_unit_norm(initial.images, ORDINARY))

    def laid_out(self, images: Images, texture: TextureSpec, size: tuple[int, int]) -> Images:
        slots = super().laid_out(images, texture, size)
        if texture.factor == 1:
            return slots
        return of_unit_norm(slots, texture)


def of_unit_norm(images: Images, texture: TextureSpec) -> Images:
    """Scale the stored images so that each image that a network sees has an L2 norm of 1; a canvas of k² cells has
    k."""
    if texture.factor == 1:
        return images * (texture.canvas / images.flatten(1).norm(dim=1))[:, None, None, None]
    norms = texture.decoded(images).flatten(1).norm(dim=1)
    return texture.tiled(texture.cut(images) / norms[:, None, None, None])


class FileInit(ImageInit):
    """The images of an earlier distilled set, which must have the same classes, images per class and preprocessing.

    A canvas counts as its k² cells, so textures can start from textures or from ordinary images, and ordinary images
    from textures.
    """

    path: Path
    """A synthetic.safetensors file, or a run folder that contains one."""

    def check_alike(self, earlier: Sequence[object], current: Sequence[object]) -> None:
        """Raise InputError if classes, images per class, shape or, where it is known, preprocessing differ.

        Args:
            earlier: Properties of the earlier set, in this order.
            current: Properties of the run, as far as they are known.
        """
        for name, actual, expected in zip(
            ("classes", "images per class", "image shape", "preprocessing"), earlier, current, strict=False
        ):
            if actual != expected:
                raise InputError(
                    f"{self.path} has other {name} ({actual}) than this run ({expected}); start from a set like it, or "
                    "--init real."
                )

    def check(self, dataset: Dataset, ipc: int) -> None:
        earlier = load(self.path)
        actual = (earlier.classes, earlier.ipc * earlier.texture.cells, earlier.shape, earlier.preprocessing.hash)
        expected = (dataset.classes, ipc, dataset.shape, dataset.preprocessing.hash)
        self.check_alike(actual, expected)

    def __call__(
        self, dataset: Dataset, experts: TrajectoryStore | None, model: FlatModel, ipc: int, seed: int
    ) -> Initial:
        earlier, device = load(self.path), dataset.device
        labels = earlier.hard_labels.repeat_interleave(earlier.texture.cells)
        return Initial(earlier.texture.cut(earlier.images).to(device), labels.to(device))


class RepresentativeInit(ImageInit):
    """AST, docs/method.md, section 2, part 3, corrected: K-means with k = ipc on an expert's logits, the real image
    nearest each centre within its cluster."""

    reads_trained: ClassVar[bool] = True

    def choose(
        self, dataset: Dataset, label: int, ipc: int, experts: TrajectoryStore | None, model: FlatModel, seed: int
    ) -> Choice:
        members = dataset.train.of_class(label)
        logits = expert_logits(experts, model, dataset.train.select(members), seed)
        clusters = clustered(logits, ipc, derive(seed, "init", label))
        return Choice.among(members, Clusters(logits, clusters.clusters, clusters.nearest))


class RepresentativeInitAsReleased(ImageInit):
    """AST, docs/method.md, section 2, part 3, as released: ten clusters whatever ipc is, int(ipc / 10) images of the
    whole class nearest each centre."""

    reads_trained: ClassVar[bool] = True

    def check(self, dataset: Dataset, ipc: int) -> None:
        if ipc % 10:
            raise InputError(
                "The released representative initialisation takes int(ipc/10) images from each of ten clusters, which "
                f"is not {ipc} images per class; use a multiple of 10, or --method ast, or --without representative."
            )
        if min(dataset.class_sizes()) < 10:
            raise InputError(
                f"The released representative initialisation needs 10 training images of every class for its ten "
                f"clusters, the smallest "
                f"has {min(dataset.class_sizes())}; use --method ast, or --without representative."
            )

    def choose(
        self, dataset: Dataset, label: int, ipc: int, experts: TrajectoryStore | None, model: FlatModel, seed: int
    ) -> Choice:
        from sklearn.cluster import KMeans

        members = dataset.train.of_class(label)
        logits = expert_logits(experts, model, dataset.train.select(members), seed).double()
        means: Any = KMeans  # its annotations allow only the text 'auto' for n_init
        with one_thread():
            clusters = means(n_clusters=10, n_init=4, random_state=derive(seed, "init", label) % 2**32).fit(
                logits.numpy()
            )
        distances = torch.cdist(torch.from_numpy(clusters.cluster_centers_).double(), logits)
        nearest = distances.argsort(dim=1)[:, : ipc // 10].flatten()
        return Choice.among(members, Clusters(logits.float(), torch.from_numpy(clusters.labels_).long(), nearest))


@torch.no_grad()
def expert_logits(experts: TrajectoryStore | None, model: Classifier, split: Split, seed: int) -> Logits:
    """Logits that one randomly drawn expert gives the images, at the last epoch that is read of it, on the CPU.

    Raises InputError if there are no experts.
    """
    if experts is None:
        raise InputError(
            "This initialisation needs an expert, but there are none; give a store of experts, or use --init real."
        )
    return _last_logits(experts, experts.drawn(rng(seed, "init", "expert")), model, split)


def _last_logits(experts: TrajectoryStore, expert: int, model: Classifier, split: Split) -> Logits:
    """Logits that an expert gives the images, at the last epoch that is read of it, on the CPU."""
    theta = experts.rows(expert, experts.epochs, experts.epochs + 1)[0].to(split.device)
    return torch.cat([model(theta, images) for images, _ in split.batches(1000)]).cpu()


class SyntheticLabels(Component):
    """Makes the targets Y of the initial set."""

    kind: ClassVar[LabelKind] = "hard"
    learnable: ClassVar[bool] = True
    """Whether outer steps depend on them, so that they can be learned."""
    reads_trained: ClassVar[bool] = False
    """Whether the last row of an expert is read, for which the expert must be trained to the end."""

    def __call__(
        self, initial: Initial, experts: TrajectoryStore | None, model: Classifier, classes: int, seed: int
    ) -> Targets:
        """Y, `[N, K]`. For textures `model` gives the mean logits of a canvas's k² cells.

        Args:
            initial: Initial images with their labels.
            experts: The store. None if the method trains no experts.
            model: The network as a function of its parameters and of images.
            classes: K.
            seed: Seed of all random draws.
        """
        raise NotImplementedError

    def at(self, targets: Targets, images: Images, segment: Segment, model: Classifier) -> Targets:
        """The targets of the current `images` in an outer step that matches `segment`; the base class returns Y itself.

        Args:
            targets: Y `[N, K]`.
            images: X `[N, C, H, W]`.
            segment: The segment that the outer step matches.
            model: The network as a function of its parameters and of images.

        Returns:
            `[N, K]`.
        """
        return targets


class HardLabels(SyntheticLabels):
    """The one-hot label of each image (MTT, AST)."""

    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing (arXiv 1512.00567): fraction of each label that is spread evenly over all classes, from 0 to
    below 1. The student trains on these labels in methods that match trajectories or differentiate through training.
    Other methods save them with the set; at most, their networks train on them."""

    def __call__(
        self, initial: Initial, experts: TrajectoryStore | None, model: Classifier, classes: int, seed: int
    ) -> Targets:
        hard = one_hot(initial.labels, classes)
        return hard * (1 - self.smoothing) + self.smoothing / classes if self.smoothing else hard


class WeightLabels(HardLabels):
    """Weights of the classes, which start as the one-hot label of each image and are then learned without normalisation
    (RaT-BPTT, arXiv 2311.07025). Networks minimise −Σ_k Y_k log p_k, here and in evaluation."""

    kind: ClassVar[LabelKind] = "weights"


class ExpertLabels(SyntheticLabels):
    """The logits that a trained expert gives each initial image (DATM, arXiv 2310.05773, section 3.2)."""

    kind: ClassVar[LabelKind] = "soft"
    reads_trained: ClassVar[bool] = True
    temperature: float = Field(default=1.0, gt=0)
    """The logits are divided by this temperature; values above 1 make the labels softer."""

    def __call__(
        self, initial: Initial, experts: TrajectoryStore | None, model: Classifier, classes: int, seed: int
    ) -> Targets:
        return (
            expert_logits(experts, model, Split(initial.images, initial.labels), seed).to(initial.images.device)
            / self.temperature
        )


class ExpertTargetsAsReleased(ExpertLabels):
    """The mean logits of all experts that classify an initial image correctly (DATM, arXiv 2310.05773, as released); of
    all experts if none does, where the released code divides by zero."""

    @torch.no_grad()
    def __call__(
        self, initial: Initial, experts: TrajectoryStore | None, model: Classifier, classes: int, seed: int
    ) -> Targets:
        if experts is None:
            raise InputError(
                "These labels read all experts, but there are none; give a store of experts, or use hard labels."
            )
        split, labels = Split(initial.images, initial.labels), initial.labels.cpu()
        logits = torch.stack([_last_logits(experts, expert, model, split) for expert in experts.experts()])
        correct = (logits.argmax(dim=2) == labels).to(logits)
        correct[:, correct.sum(dim=0) == 0] = 1.0
        mean = (logits * correct[:, :, None]).sum(dim=0) / correct.sum(dim=0)[:, None]
        return mean.to(initial.images.device) / self.temperature


class SegmentLabels(ExpertLabels):
    """The logits of the sampled expert at θ*_{t+M}, the segment's target, for the current images, recomputed in every
    outer step.

    TESLA (arXiv 2211.10586, section 3.3, soft label assignment). They are constants of the step and are not learned.
    The saved set has the labels of its own images by the segment of the last outer step; those of the released code are
    one update of the images older. Before the first step they are those of a trained expert.
    """

    learnable: ClassVar[bool] = False

    @torch.no_grad()
    def at(self, targets: Targets, images: Images, segment: Segment, model: Classifier) -> Targets:
        return torch.cat([model(segment.checkpoints[-1], part) for part in images.split(1000)]) / self.temperature
