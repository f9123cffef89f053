from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from reference_data import covariance_by_pairs

from astdistill.data.loading import load_dataset
from astdistill.data.preprocessing import (
    EXACT_ROWS,
    LARGEST_ZCA,
    Preprocessing,
    channel_moments,
    covariance,
    fit_rat,
    fit_standard,
    fit_zca,
)
from astdistill.data.synthetic import load
from astdistill.distillation.settings import DistillSettings, check_slots
from astdistill.evaluation.rows import random_real
from astdistill.runtime.errors import InputError


def correlated(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """uint8 images whose pixels depend on each other, as those of photographs do."""
    generator = torch.Generator().manual_seed(seed)
    size = shape[0] * shape[1] * shape[2]
    mix = torch.randn(size, size, generator=generator) / size**0.5
    values = torch.randn(count, size, generator=generator) @ mix + torch.randn(count, 1, generator=generator)
    return (values * 40 + 120).clamp(0, 255).to(torch.uint8).view(count, *shape)


def fitted(kind: str, images: torch.Tensor) -> Preprocessing:
    if kind == "none":
        return Preprocessing.none((images.shape[1], images.shape[2], images.shape[3]))
    return fit_standard(images) if kind == "standard" else fit_zca(images)


@pytest.mark.parametrize("count", [40, 500], ids=["fewer images than values", "more images than values"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zca_equals_kornia(count: int, dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kornia.enhance import ZCAWhitening
    pixels = correlated(count, (3, 6, 6))
    images = pixels.to(dtype) / 255
    oracle = ZCAWhitening(dim=0, eps=0.1, unbiased=True, compute_inv=True).fit(images.double())
    ours = fit_zca(pixels, eps=0.1)
    white = oracle(images.double())
    tolerance = 2e-6 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(ours.apply(images).double(), white, atol=tolerance, rtol=0)
    torch.testing.assert_close(
        ours.invert(white.to(dtype)).double(), oracle.inverse_transform(white), atol=tolerance, rtol=0
    )


def test_uint8_and_float_images_fit_the_same_whitening() -> None:
    pixels = correlated(300, (1, 5, 5))
    images = pixels.double() / 255
    torch.testing.assert_close(fit_zca(pixels).apply(images), fit_zca(images).apply(images), atol=1e-6, rtol=0)


def test_covariance_equals_the_slow_one() -> None:
    pixels = correlated(30, (1, 3, 3))
    found = covariance(pixels)
    torch.testing.assert_close(found.covariance, covariance_by_pairs(pixels / 255.0), atol=1e-7, rtol=0)
    torch.testing.assert_close(found.covariance, covariance_by_pairs(pixels.double() / 255), atol=1e-14, rtol=0)


def test_covariance_is_exact_over_many_blocks_and_any_order() -> None:
    extremes = torch.tensor([0, 255], dtype=torch.uint8).repeat(EXACT_ROWS * 3 // 2 + 7)
    pixels = torch.stack([extremes, extremes, 255 - extremes, torch.full_like(extremes, 254)], dim=1).view(-1, 1, 2, 2)
    shuffled = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(1))]
    assert covariance(pixels).digest == covariance(shuffled).digest
    expected = torch.cov(pixels.flatten(1).T.double() / 255)
    torch.testing.assert_close(covariance(pixels).covariance, expected, atol=1e-13, rtol=0)


def test_moments_per_channel() -> None:
    pixels = correlated(EXACT_ROWS + 300, (3, 4, 4))
    images = pixels.double() / 255
    found = channel_moments(pixels)
    torch.testing.assert_close(found.mean, images.mean(dim=(0, 2, 3)), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.std, images.std(dim=(0, 2, 3), correction=0), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["none", "standard", "zca"])
@pytest.mark.parametrize("count", [3, 200])
def test_apply_and_invert_round_trip_and_change_nothing_in_place(kind: str, count: int) -> None:
    pixels = correlated(200, (3, 5, 5))
    preprocessing = fitted(kind, pixels)
    images = pixels[:count] / 255.0
    before = images.clone()
    white = preprocessing.apply(images)
    assert torch.equal(images, before)
    assert white.dtype == torch.float32
    torch.testing.assert_close(preprocessing.invert(white), images, atol=2e-5, rtol=0)
    torch.testing.assert_close(preprocessing.apply(preprocessing.invert(white)), white, atol=5e-5, rtol=0)


def test_invert_does_not_clip() -> None:
    preprocessing = Preprocessing.standard([0.5], [0.5])
    assert preprocessing.invert(torch.full((1, 1, 2, 2), 3.0)).max() == 2.0


def test_whitened_training_images_are_uncorrelated_where_eps_is_small() -> None:
    pixels = correlated(2000, (1, 4, 4))
    white = fit_zca(pixels, eps=1e-9).apply(pixels.double() / 255)
    torch.testing.assert_close(torch.cov(white.flatten(1).T), torch.eye(16, dtype=torch.float64), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["none", "standard", "zca"])
def test_restore_gives_the_same_map(kind: str) -> None:
    pixels = correlated(60, (3, 4, 4))
    preprocessing = fitted(kind, pixels)
    again = Preprocessing.restore(json.loads(json.dumps(preprocessing.describe())), preprocessing.tensors())
    images = pixels / 255.0
    assert again.hash == preprocessing.hash
    assert torch.equal(again.apply(images), preprocessing.apply(images))
    assert preprocessing.to("cpu").hash == preprocessing.hash


def test_one_square_matrix_is_kept() -> None:
    tensors = fit_zca(correlated(60, (3, 4, 4))).tensors()
    assert sum(tensor.numel() for tensor in tensors.values()) == 48 * 48 + 2 * 48


def test_hash_is_of_the_map_and_not_of_the_threads() -> None:
    pixels = correlated(60, (3, 4, 4))
    one = fit_zca(pixels)
    torch.set_num_threads(2)
    try:
        two = fit_zca(pixels)
    finally:
        torch.set_num_threads(1)
    assert one.hash == two.hash
    changed = pixels.clone()
    changed[7, 1, 2, 3] ^= 1
    hashes = {
        one.hash,
        fit_zca(changed).hash,
        fit_zca(pixels, eps=0.2).hash,
        fit_standard(pixels).hash,
        fit_standard(changed).hash,
    }
    assert len(hashes) == 5
    assert len(one.hash) == 12
    assert int(one.hash, 16) >= 0


def test_a_constant_channel_is_not_divided_by_nothing() -> None:
    pixels = correlated(20, (3, 4, 4))
    pixels[:, 1] = 7
    assert torch.isfinite(fit_standard(pixels).apply(pixels / 255.0)).all()


def test_preprocessing_errors() -> None:
    preprocessing = fit_standard(correlated(20, (3, 4, 4)))
    with pytest.raises(InputError, match=r"\(2, 1, 4, 4\).*\[N, 3, 4, 4\]"):
        preprocessing.apply(torch.zeros(2, 1, 4, 4))
    with pytest.raises(InputError, match=r"'std'.*missing"):
        Preprocessing.restore(preprocessing.describe(), {"mean": torch.zeros(3)})
    with pytest.raises(InputError, match="does not describe"):
        Preprocessing.restore({"kind": "pca"}, {})
    with pytest.raises(InputError, match="above 0"):
        Preprocessing.standard([0.5, 0.5], [0.1, 0.0])
    with pytest.raises(InputError, match="at least 2"):
        fit_zca(torch.zeros(1, 1, 4, 4))
    side = int((LARGEST_ZCA // 3) ** 0.5) + 1
    with pytest.raises(InputError, match=r"--data\.size 64"):
        fit_zca(torch.zeros(2, 3, side, side, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.full((2, 1, 4, 4), 255.0), r"reach from 255 to 255; .*: images / 255\."),
        (torch.full((2, 1, 4, 4), 200, dtype=torch.uint8), r"are torch\.uint8 from 200 to 200; .*: images / 255\."),
        (torch.full((2, 1, 4, 4), 4000.0), r": images / 65535\."),
        (torch.linspace(-1, 1, 32).view(2, 1, 4, 4), r"from -1 to 1; .*: \(images \+ 1\) / 2\."),
        (torch.linspace(-2.1, 2.6, 32).view(2, 1, 4, 4), "undo their normalisation first"),
        (torch.full((2, 1, 4, 4), float("nan")), "give floats in"),
        (torch.ones(2, 1, 4, 4, dtype=torch.bool), r"are torch\.bool"),
    ],
)
@pytest.mark.parametrize("kind", ["none", "standard"])
def test_images_outside_the_unit_interval_are_refused_with_the_factor(
    images: torch.Tensor, sentence: str, kind: str
) -> None:
    fitted = {"none": Preprocessing.none((1, 4, 4)), "standard": Preprocessing.standard([0.5], [0.25])}[kind]
    with pytest.raises(InputError, match=sentence):
        fitted.apply(images)
    assert fitted.apply(torch.full((1, 1, 4, 4), 1.005)).shape == (1, 1, 4, 4)
    assert fitted.apply(torch.empty(0, 1, 4, 4)).shape == (0, 1, 4, 4)


def root_of_inverse(matrix: torch.Tensor) -> torch.Tensor:
    """M^(−½) by the iteration of Denman and Beavers."""
    root, inverse = matrix.clone(), torch.eye(len(matrix), dtype=matrix.dtype)
    for _ in range(60):
        root, inverse = (root + inverse.inverse()) / 2, (inverse + root.inverse()) / 2
    return inverse


def test_rats_whitening_is_its_formula() -> None:
    pixels = correlated(200, (2, 4, 4))
    images = pixels.double() / 255
    scaled = torch.stack([(image - image.mean()) / (image - image.mean()).pow(2).sum().sqrt() for image in images])
    rows = scaled.flatten(1)
    second = sum(torch.outer(row, row) for row in rows) / len(rows)
    added = 0.1 * torch.linalg.eigvalsh(second).mean()
    wanted = rows @ root_of_inverse(second + added * torch.eye(32, dtype=torch.float64))
    fit = fit_rat(pixels)
    for count in (3, 200):  # two slim products, or one
        torch.testing.assert_close(fit.apply(images[:count]).flatten(1), wanted[:count], atol=1e-5, rtol=0)
    torch.testing.assert_close(fit_rat(images).apply(images).flatten(1), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(fit.for_batches().apply(images).flatten(1), wanted, atol=1e-5, rtol=0)
    shown = fit.invert(wanted.view_as(images))
    typical = (images.flatten(1) - images.flatten(1).mean(dim=1, keepdim=True)).norm(dim=1).mean()
    torch.testing.assert_close(shown, scaled * typical + images.mean(), atol=1e-5, rtol=0)


def test_rats_whitening_is_known_by_its_images_and_comes_back_from_a_file() -> None:
    pixels = correlated(60, (1, 4, 4))
    fit = fit_rat(pixels, "a digest of many letters")
    assert (fit.statistics, fit.hash) == ("a digest of ", fit.compact().hash)
    assert fit.hash != fit_rat(pixels).hash != fit_rat(pixels[1:]).hash
    assert fit.is_complete
    assert not fit.compact().is_complete
    again = Preprocessing.restore(json.loads(json.dumps(fit.describe())), fit.tensors())
    images = pixels[:5].float() / 255
    assert torch.equal(again.apply(images), fit.apply(images))
    dark = fit.apply(torch.full((1, 1, 4, 4), 0.5))
    assert float(dark.abs().max()) < 1e-4  # one shade, which has no norm to be divided by
    with pytest.raises(InputError, match="RaT-BPTT's whitening was asked for 1 training image"):
        fit_rat(pixels[:1])


def test_pixels_are_cut_in_the_space_of_rats_whitening() -> None:
    pixels = correlated(60, (1, 4, 4))
    fit, generator = fit_rat(pixels), torch.Generator().manual_seed(1)
    images = 3 * torch.randn(6, 1, 4, 4, generator=generator, dtype=torch.float64)
    before = fit.invert(images)
    assert float(before.min()) < -0.1 < 1.1 < float(before.max())
    fit.clip_(images)
    torch.testing.assert_close(fit.invert(images), before.clamp(0, 1), atol=1e-5, rtol=0)


def test_rats_whitening_is_the_same_wherever_images_are_kept_and_goes_with_a_set(tmp_path: Path) -> None:
    kept = [load_dataset("digits", whiten="rat", per_class=10, memory=where) for where in ("float32", "uint8", "disk")]
    rows = torch.arange(40)
    for other in kept[1:]:
        torch.testing.assert_close(other.train.batch(rows), kept[0].train.batch(rows), atol=1e-5, rtol=0)
        assert other.preprocessing.hash == kept[0].preprocessing.hash
    made = random_real(kept[0], 1, 0)
    made.save(tmp_path / "whole.safetensors")
    made.compact().save(tmp_path / "small.safetensors")
    whole, small = (load(tmp_path / f"{name}.safetensors") for name in ("whole", "small"))
    assert torch.equal(whole.pixels(), made.pixels())
    assert torch.equal(small.completed(kept[1].preprocessing).pixels(), whole.pixels())
    with pytest.raises(InputError, match="was given with RaT-BPTT's whitening"):
        check_slots((1, 8, 8), "rat", DistillSettings(factor=2))
