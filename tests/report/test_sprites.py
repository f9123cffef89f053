"""Images as sheets inside the page: every pixel where there is room, and never more bytes than the page may have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from astdistill.data.dataset import DataConfig
from astdistill.data.preprocessing import Preprocessing
from astdistill.data.synthetic import SyntheticSet, one_hot
from astdistill.distillation.snapshots import Frame, due
from astdistill.report.page.gallery import BORDER, LOSSLESS, encoded, laid_out, sheets, thinned, to_rgb
from astdistill.report.page.page import save_page


def test_a_sheet_shows_every_pixel_where_it_is_lossless() -> None:
    from io import BytesIO

    from PIL import Image

    pixels = torch.randint(0, 256, (7, 1, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = np.asarray(Image.open(BytesIO(encoded(laid_out(to_rgb(pixels, False), 3), LOSSLESS))).convert("RGB"))
    for index in range(7):
        row, column = divmod(index, 3)
        top, left = row * (5 + 2 * BORDER) + BORDER, column * (4 + 2 * BORDER) + BORDER
        assert np.array_equal(found[top : top + 5, left : left + 4, 0], pixels[index, 0].numpy())
        assert np.array_equal(found[top - 1, left : left + 4, 0], pixels[index, 0, 0].numpy())


def test_images_with_hardly_any_contrast_are_stretched_in_every_frame_and_the_page_says_so(tmp_path: Path) -> None:
    start = noise(0, torch.Generator().manual_seed(0))
    Frame.of(start, 0).save(tmp_path)
    faint = replace(start, images=0.5 + 0.05 * (start.images - 0.5), provenance={"iteration": 5})
    Frame.of(faint, 5).save(tmp_path)
    faint.save(tmp_path / "synthetic.safetensors")
    save_page([tmp_path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "hardly any contrast" in page
    frame = Frame.of(faint, 5)
    assert frame.pixels.max() - frame.pixels.min() <= 14
    colours = to_rgb(frame.pixels, True)
    assert (colours.max(axis=(1, 2, 3)) == 255).all()
    assert (colours.min(axis=(1, 2, 3)) == 0).all()
    start.save(tmp_path / "synthetic.safetensors")
    Frame.of(start, 5).save(tmp_path)
    save_page([tmp_path], tmp_path / "report.html")
    assert "hardly any contrast" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("budget", [200_000, 40_000, 9_000, 4_000])
def test_sheets_keep_to_their_budget_and_both_ends(budget: int) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = [
        Frame(
            number, torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8, generator=generator), torch.eye(20), 0.01
        )
        for number in range(8)
    ]
    found = sheets(frames, budget)
    assert sum(map(len, found.addresses)) <= budget
    assert found.frames[-1].iteration == 7
    if len(found.frames) > 1:
        assert found.frames[0].iteration == 0
    assert found.lossless == (budget == 200_000)
    assert [frame.iteration for frame in thinned(frames)] == [0, 2, 4, 6, 7]
    assert len(thinned(frames[:2])) == 1


def hundred_classes(out: Path) -> None:
    """A run folder as large as CIFAR-100's at ten images per class, with learned labels and nothing but noise; of its
    frames the first seven, in which budget and size are already at their limits."""
    generator = torch.Generator().manual_seed(0)
    frames = {iteration: noise(iteration, generator) for iteration in filter(due, range(101))}
    for iteration, synthetic in frames.items():
        Frame.of(synthetic, iteration).save(out)
    frames[max(frames)].save(out / "synthetic.safetensors")


def noise(iteration: int, generator: torch.Generator) -> SyntheticSet:
    """Noise for a hundred classes after so many outer steps."""
    images = torch.rand(1000, 3, 32, 32, generator=generator)
    targets = 4 * one_hot(torch.arange(100).repeat_interleave(10), 100) + torch.randn(1000, 100, generator=generator)
    return SyntheticSet(
        images, targets, torch.tensor(0.01), tuple(f"class_{number}" for number in range(100)), Preprocessing.none((3, 32, 32)),
        DataConfig(source="cifar100"), "convnet-d3", "soft", provenance={"iteration": iteration},
    )  # fmt: skip


@pytest.mark.slow
def test_a_hundred_classes_of_ten_images_stay_below_five_megabytes(tmp_path: Path) -> None:
    hundred_classes(tmp_path)
    save_page([tmp_path], tmp_path / "report.html")
    assert 1e6 < (tmp_path / "report.html").stat().st_size < 5e6
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count(
        'class="tile"'
    ) == 2001  # at the end and at the start, and the tip's
