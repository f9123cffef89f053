"""RDED: crops pixel by pixel, and which of them are chosen."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from astdistill.data.dataset import Dataset
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.experts.store import TrajectoryStore
from astdistill.methods import rded
from astdistill.methods.rded import RDED, CropInit, cropped, draw_boxes
from astdistill.models.flat import FlatModel
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import rng


def test_crops_are_enlarged_pixel_by_pixel() -> None:
    images = torch.rand(6, 2, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    top, left, sides = (
        torch.tensor([0, 1, 2, 0, 6, 3]),
        torch.tensor([0, 3, 4, 2, 8, 1]),
        torch.tensor([7, 5, 4, 3, 1, 2]),
    )
    found = cropped(images, top, left, sides)
    for number, image in enumerate(images):
        side = int(sides[number])
        square = image[:, top[number] : top[number] + side, left[number] : left[number] + side]
        for row in range(7):
            for column in range(9):
                y, x = (min(max((at + 0.5) * side / size - 0.5, 0), side - 1) for at, size in ((row, 7), (column, 9)))
                y0, x0 = math.floor(y), math.floor(x)
                y1, x1 = min(y0 + 1, side - 1), min(x0 + 1, side - 1)
                wanted = (
                    (1 - (y - y0)) * ((1 - (x - x0)) * square[:, y0, x0] + (x - x0) * square[:, y0, x1])
                    + (y - y0) * ((1 - (x - x0)) * square[:, y1, x0] + (x - x0) * square[:, y1, x1])
                )  # fmt: skip
                torch.testing.assert_close(found[number, :, row, column], wanted, rtol=0, atol=1e-6)


def test_boxes_lie_inside_and_have_the_areas_that_were_asked_for() -> None:
    top, left, sides = draw_boxes(4000, 8, (3, 8, 12), 0.25, rng(0, "boxes"))
    assert int(top.min()) == 0
    assert int(left.min()) == 0
    assert int((top + sides).max()) == 8
    assert int((left + sides).max()) == 12
    assert (int(sides.min()), int(sides.max())) == (4, 8)
    assert float(sides.square().double().mean()) / 64 == pytest.approx(0.625, abs=0.02)


def test_the_crops_of_least_loss_are_kept_one_of_each_image(
    dataset: Dataset, experts: TrajectoryStore, model: FlatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    judge = rded.teacher_losses

    def recorded(experts, model, images, labels, seed):  # type: ignore[no-untyped-def]
        losses = judge(experts, model, images, labels, seed)
        seen.append((images, losses))
        return losses

    monkeypatch.setattr(rded, "teacher_losses", recorded)
    start = CropInit(images=9, crops=4)(dataset, experts, model, 3, 5)
    assert start.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for label, (images, losses) in enumerate(seen):
        assert len(images) == 9 * 4
        best = sorted((min((float(losses[4 * k + c]), c) for c in range(4)), k) for k in range(9))[:3]
        wanted = torch.stack([images[4 * k + c] for (_, c), k in best])
        assert torch.equal(start.images[3 * label : 3 * label + 3], wanted)
        last = [experts.rows(number, experts.epochs, experts.epochs + 1)[0] for number in experts.experts()]
        labels = torch.full((36,), label)
        with torch.no_grad():
            slow = [cross_entropy(model(theta, images), labels, reduction="none") for theta in last]
        assert any(torch.allclose(losses, each, atol=1e-5) for each in slow)


def test_as_many_images_are_tried_as_are_kept_and_few_come_round_again(
    dataset: Dataset, experts: TrajectoryStore, model: FlatModel
) -> None:
    whole = CropInit(images=5, crops=3)(dataset, experts, model, 8, 1)
    assert len(whole.images) == 24
    few = CropInit(images=5, crops=3)(dataset, experts, model, 2 * max(dataset.class_sizes()), 1)
    assert few.images.shape[0] == 6 * max(dataset.class_sizes())


def test_the_set_is_the_start_in_slots_too(dataset: Dataset, experts: TrajectoryStore) -> None:
    settings = DistillSettings(iterations=2, lr_init=0.05, factor=2)
    made = distill(dataset, experts, method=RDED, ipc=2, settings=settings, seed=3)
    assert (made.factor, made.ipc, made.labels) == (2, 2, "hard")
    assert made.seen == 3 * 2 * 4
    assert torch.equal(
        made.images,
        distill(dataset, experts, method=RDED, ipc=2, settings=settings.replace(iterations=1), seed=3).images,
    )


def test_zca_is_refused(dataset: Dataset) -> None:
    CropInit().check(dataset, 1)
    with pytest.raises(InputError, match="standard or none"):
        CropInit().check(replace(dataset, preprocessing=replace(dataset.preprocessing, kind="zca")), 1)
