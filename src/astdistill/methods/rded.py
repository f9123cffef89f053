"""RDED (Sun et al., On the Diversity and Realism of Distilled Dataset, arXiv 2312.03526): the crops of real images that
a teacher recognises best. Nothing is optimised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..data.augmentation import pixels_at
from ..data.dataset import Dataset, Split
from ..experts.store import TrajectoryStore
from ..models.flat import FlatModel
from ..runtime.errors import InputError
from ..runtime.seeds import rng, to_device
from ..runtime.shapes import Batch, Images, Labels
from .initialisation import ImageInit, Initial, expert_logits
from .method import Method
from .outer_step import OuterStep, Setup, StepSettings, StepWork
from .tgdd import EXPERT
from .unroll import MetaGradient, Variables

TOGETHER = 1024
"""Number of crops that are made and evaluated at once."""


class CropInit(ImageInit):
    """Per class: from `crops` random square crops of each of `images` random images, keeps the one with the lowest loss
    under an expert's last row; then selects those of lowest loss among all images (RDED, section 3 and Algorithm 1)."""

    reads_trained: ClassVar[bool] = True
    images: int = Field(default=300, ge=1)
    """Real images of each class that are tried: all if there are fewer, and at least as many as are kept."""
    crops: int = Field(default=5, ge=1)
    """Crops of each of these images."""
    least: float = Field(default=0.08, gt=0, le=1)
    """Smallest area of a crop, as a share of that of the largest square; the area is uniform from there to 1."""

    def check(self, dataset: Dataset, ipc: int) -> None:
        if dataset.preprocessing.mixes:
            raise InputError(
                "Method 'rded' crops images, but whitening has mixed all their pixels; load the data with "
                "--data.whiten standard or none."
            )

    def __call__(
        self, dataset: Dataset, experts: TrajectoryStore | None, model: FlatModel, ipc: int, seed: int
    ) -> Initial:
        crops = [self._best_crops(dataset, experts, model, label, ipc, seed) for label in range(len(dataset.classes))]
        labels = torch.arange(len(crops), device=dataset.device).repeat_interleave(ipc)
        return Initial(torch.cat(crops), labels)

    def _best_crops(
        self, dataset: Dataset, experts: TrajectoryStore | None, model: FlatModel, label: int, ipc: int, seed: int
    ) -> Images:
        """The `ipc` crops of one class, in ascending order of the loss; they are repeated in turn if the class has
        fewer images."""
        members, generator = dataset.train.of_class(label), rng(seed, "crops", label)
        candidates = torch.randperm(len(members), generator=generator)[: max(self.images, ipc)]
        chosen, losses = [], []
        for part in candidates.split(max(1, TOGETHER // self.crops)):
            images = dataset.train.batch(members[to_device(part, members.device)]).repeat_interleave(self.crops, dim=0)
            crops = cropped(
                images, *draw_boxes(len(images), min(dataset.shape[1:]), dataset.shape, self.least, generator)
            )
            loss = teacher_losses(experts, model, crops, torch.full((len(crops),), label), seed).view(-1, self.crops)
            best = loss.argmin(dim=1)
            rows = to_device(best + self.crops * torch.arange(len(best)), crops.device)
            chosen.append(crops[rows])
            losses.append(loss.amin(dim=1))
        order = torch.cat(losses).argsort(stable=True)[:ipc]
        return torch.cat(chosen)[to_device(order[torch.arange(ipc) % len(order)], dataset.device)]


def draw_boxes(
    count: int, longest: int, shape: tuple[int, int, int], least: float, generator: torch.Generator
) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], Int[Tensor, " B"]]:
    """Top, left and side of `count` squares in an image of `shape` (C, H, W), in pixels: the area is uniform between
    `least` and 1 times `longest`², the position is uniform."""
    fraction = least + (1 - least) * torch.rand(count, generator=generator, dtype=torch.float32)
    sides = (longest * fraction.sqrt()).round().long().clamp(1, longest)
    top, left = (
        (torch.rand(count, generator=generator, dtype=torch.float32) * (side - sides + 1))
        .long()
        .clamp_max(side - sides)
        for side in shape[1:]
    )
    return top, left, sides


def cropped(images: Batch, top: Int[Tensor, " B"], left: Int[Tensor, " B"], sides: Int[Tensor, " B"]) -> Batch:
    """Cut the squares out of images `[B, C, H, W]` and resize each bilinearly to H × W; pixels outside a square are not
    used."""
    _, _, height, width = images.shape
    rows, columns = (_source_pixels(first, sides, side) for first, side in ((top, height), (left, width)))
    crops = torch.zeros_like(images)
    for row_indices, row_weight in rows:
        for column_indices, column_weight in columns:
            weight = row_weight[:, :, None] * column_weight[:, None, :]
            pixels = pixels_at(images, to_device(row_indices, images.device), to_device(column_indices, images.device))
            crops += pixels * to_device(weight, images.device)[:, None].to(images)
    return crops


def _source_pixels(
    first: Int[Tensor, " B"], sides: Int[Tensor, " B"], size: int
) -> list[tuple[Int[Tensor, "B s"], Float[Tensor, "B s"]]]:
    """For each of `size` output positions along an axis: the two source pixels that it lies between, and their
    weights."""
    position = (torch.arange(size, dtype=torch.float32) + 0.5) * sides[:, None] / size - 0.5
    position = position.clamp_min(0.0).minimum(sides[:, None] - 1.0)
    low = position.floor().long()
    high = (low + 1).minimum(sides[:, None] - 1)
    weight = position - low
    return [(first[:, None] + low, 1 - weight), (first[:, None] + high, weight)]


def teacher_losses(
    experts: TrajectoryStore | None, model: FlatModel, images: Batch, labels: Labels, seed: int
) -> Float[Tensor, " N"]:
    """The cross-entropy of each image under the last row of the drawn expert, on the CPU."""
    logits = expert_logits(experts, model, Split(images, labels.to(images.device)), seed)
    return cross_entropy(logits, labels.cpu(), reduction="none")


class Selection(OuterStep):
    """The teacher's mean cross-entropy on the chosen images, without derivatives: the images do not change."""

    derives: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[str] = "selection of crops of real images"
    loss_name: ClassVar[str] = "loss of the chosen images"
    of_experts: ClassVar[str] = "One of them chooses the crops that it recognises best."
    about: ClassVar[str] = (
        "The images are crops of real ones, those with the lowest loss under a trained network. "
        "They are chosen before the first outer step, and no outer step changes them."
    )

    def usual_settings(self, ipc: int) -> Mapping[str, float | str | None]:
        return {"iterations": 1, "lr_init": 0.01}

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        return StepWork(forward=images, at_once=min(images, TOGETHER))

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        labels = variables.targets.argmax(dim=1)
        logits = expert_logits(setup.experts, setup.classifier, Split(variables.images, labels), seed)
        loss = cross_entropy(logits.to(variables.images), labels)
        return MetaGradient(loss)


PAPER = "Sun et al., On the Diversity and Realism of Distilled Dataset (RDED), arXiv 2312.03526, Algorithm 1"
RDED = Method(name="rded", paper=PAPER, init=CropInit(), step=Selection(), expert=EXPERT, learn=())
"""Stores hard labels; published with a teacher that labels the students' augmented images, `--protocol rded`."""
