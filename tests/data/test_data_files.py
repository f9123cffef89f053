from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from astdistill.data.loading import load_dataset
from astdistill.runtime.errors import InputError


def png_pixels(path: Path) -> torch.Tensor:
    array = np.asarray(Image.open(path))
    return torch.tensor(array).unsqueeze(0) if array.ndim == 2 else torch.tensor(array).permute(2, 0, 1)


def test_digits() -> None:
    digits = load_dataset("digits", whiten="none", seed=5)
    assert (len(digits.train), len(digits.test), digits.shape, len(digits.classes)) == (1437, 360, (1, 8, 8), 10)
    found: Any = load_digits()
    originals = {image.tobytes(): int(label) for image, label in zip(found.images, found.target, strict=True)}
    both = torch.cat([digits.train.whole(), digits.test.whole()])
    labels = torch.cat([digits.train.labels, digits.test.labels])
    found = [
        ((image[0].double() * 16).round().numpy().tobytes(), int(label))
        for image, label in zip(both, labels, strict=True)
    ]
    assert all(originals[data] == label for data, label in found)
    assert both.max() == 1.0
    assert torch.equal(both * 255, (both * 255).round())
    shares = torch.bincount(digits.test.labels) / torch.bincount(labels)
    assert bool(((shares > 0.19) & (shares < 0.21)).all())


def test_the_digits_test_part_does_not_depend_on_the_seed() -> None:
    assert torch.equal(load_dataset("digits", seed=0).test.whole(), load_dataset("digits", seed=1).test.whole())


def test_picture_folder_with_both_parts(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    folder = tmp_path / "pets"
    for number, name in enumerate(["dog", "cat"]):
        write_pictures(folder / "train" / name, 3, seed=number)
        write_pictures(folder / "val" / name, 2, seed=10 + number)
    pets = load_dataset(str(folder), whiten="none")
    assert (pets.name, pets.classes) == ("pets", ("cat", "dog"))
    assert pets.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pets.test.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal((pets.train.whole()[4] * 255).round(), png_pixels(folder / "train/dog/001.png").float())
    assert torch.equal((pets.test.whole()[1] * 255).round(), png_pixels(folder / "val/cat/001.png").float())


def test_picture_folder_without_a_test_part_sets_a_fifth_of_each_class_aside(
    tmp_path: Path, write_pictures: Callable[..., None]
) -> None:
    for number, name in enumerate("ab"):
        write_pictures(tmp_path / "set" / name, 10, seed=number)
    first, again, other = (load_dataset(str(tmp_path / "set"), seed=seed) for seed in (0, 0, 1))
    assert torch.bincount(first.train.labels).tolist() == [8, 8]
    assert torch.bincount(first.test.labels).tolist() == [2, 2]
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_grey_palette_and_transparent_pictures(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    grey, mixed = tmp_path / "grey", tmp_path / "mixed"
    for name in "ab":
        write_pictures(grey / "train" / name, 2, mode="L")
        write_pictures(grey / "test" / name, 2, mode="L")
        write_pictures(mixed / "train" / name, 2, mode="L")
        write_pictures(mixed / "test" / name, 2, mode="RGBA")
    Image.open(mixed / "test/a/000.png").convert("P").save(mixed / "test/a/001.png")
    assert load_dataset(str(grey)).shape == (1, 8, 8)
    colour = load_dataset(str(mixed), whiten="none", background="drop")
    assert colour.shape == (3, 8, 8)
    assert torch.equal(colour.train.whole()[0, 0], colour.train.whole()[0, 2])
    rgba = torch.tensor(np.asarray(Image.open(mixed / "test/a/000.png"))).permute(2, 0, 1)
    assert torch.equal((colour.test.whole()[0] * 255).round(), rgba[:3].float())


def test_a_colour_picture_after_grey_ones_keeps_all_of_them(
    tmp_path: Path, write_pictures: Callable[..., None]
) -> None:
    for part in ("train", "test"):
        write_pictures(tmp_path / part / "a", 2, mode="L")
        write_pictures(tmp_path / part / "b", 2, mode="RGB")
    found = load_dataset(str(tmp_path), whiten="none")
    grey = png_pixels(tmp_path / "train/a/001.png").float()
    assert torch.equal((found.train.whole()[1] * 255).round(), grey.expand(3, -1, -1))
    assert torch.equal((found.train.whole()[3] * 255).round(), png_pixels(tmp_path / "train/b/001.png").float())


def test_sixteen_bit_grey_pictures_are_scaled(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    for part in ("train", "test"):
        for name in "ab":
            write_pictures(tmp_path / part / name, 1, mode="L")
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    Image.fromarray(deep).save(tmp_path / "train/a/000.png")
    found = load_dataset(str(tmp_path), whiten="none")
    torch.testing.assert_close(
        found.train.whole()[0, 0], torch.tensor(deep.astype(np.float32)) / 65535, atol=0.5 / 255 + 1e-6, rtol=0
    )


def test_sizes_are_made_equal_only_when_asked(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    write_pictures(tmp_path / "train/a", 2, size=(16, 8))
    write_pictures(tmp_path / "train/b", 2, size=(9, 30))
    write_pictures(tmp_path / "test/a", 2, size=(50, 40))
    with pytest.raises(InputError, match=r"000\.png is 16×8 and .*b.000\.png is 9×30.*--data\.size"):
        load_dataset(str(tmp_path))
    assert load_dataset(str(tmp_path), size=8).test.images.shape == (2, 3, 8, 8)


def test_train_and_test_of_different_size(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    for name in "ab":
        write_pictures(tmp_path / "train" / name, 1, size=(8, 8))
        write_pictures(tmp_path / "test" / name, 1, size=(16, 16))
    with pytest.raises(InputError, match=r"8×8 and test images 16×16.*--data\.size"):
        load_dataset(str(tmp_path))


def test_resizing_keeps_the_aspect_ratio_and_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((40, 120, 3), dtype=np.uint8)
    wide[:, 40:80] = 255
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(wide).save(tmp_path / part / name / "x.png")
    centre = load_dataset(str(tmp_path), size=20, whiten="none").train.whole()
    assert centre.shape == (2, 3, 20, 20)
    assert centre[:, :, :, 2:-2].min() == 1.0


def test_a_broken_picture_is_named(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    for name in "ab":
        write_pictures(tmp_path / name, 5)
    whole = (tmp_path / "b/002.png").read_bytes()
    for broken in (b"", b"not a picture", whole[: len(whole) // 2]):
        (tmp_path / "b/002.png").write_bytes(broken)
        with pytest.raises(InputError, match=r"b.002\.png cannot be read as an image"):
            load_dataset(str(tmp_path))


def test_picture_folder_errors(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no parquet files and no pictures"):
        load_dataset(str(tmp_path / "empty"))
    write_pictures(tmp_path / "flat", 3)
    with pytest.raises(InputError, match=r"flat holds no pictures in class folders"):
        load_dataset(str(tmp_path / "flat"))
    for name in "ab":
        write_pictures(tmp_path / "set/train" / name, 2)
    write_pictures(tmp_path / "set/test/c", 2)
    with pytest.raises(InputError, match="class 'c' that the training part does not"):
        load_dataset(str(tmp_path / "set"))
    write_pictures(tmp_path / "hole/train/a", 2)
    write_pictures(tmp_path / "hole/test/a", 2)
    (tmp_path / "hole/train/b").mkdir()
    with pytest.raises(InputError, match="Class 'b' has no training images"):
        load_dataset(str(tmp_path / "hole"))
    write_pictures(tmp_path / "one/a", 10)
    with pytest.raises(InputError, match="at least two"):
        load_dataset(str(tmp_path / "one"))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
@pytest.mark.parametrize("kind", ["uint8", "float32", "int64"])
def test_npz_layouts_and_types(tmp_path: Path, pixels: Callable[..., torch.Tensor], layout: str, kind: str) -> None:
    images = pixels(12, 1 if layout == "NHW" else 3, 9, 8)
    array = {"NHWC": images.permute(0, 2, 3, 1), "NCHW": images, "NHW": images[:, 0]}[layout].numpy()
    array = array.astype(np.float32) / 255 if kind == "float32" else array.astype(kind)
    labels = np.arange(12)[:, None] % 3
    np.savez(
        tmp_path / "own.npz",
        x_train=array[:9],
        y_train=labels[:9],
        x_test=array[9:],
        y_test=labels[9:],
        classes=["x", "y", "z"],
    )
    own = load_dataset(str(tmp_path / "own.npz"), whiten="none")
    assert own.classes == ("x", "y", "z")
    assert torch.equal((own.train.whole() * 255).round().to(torch.uint8), images[:9])
    assert own.train.labels.tolist() == labels[:9, 0].tolist()
    assert torch.equal((own.test.whole() * 255).round().to(torch.uint8), images[9:])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 7])
def test_npz_keeps_every_channel(
    tmp_path: Path, pixels: Callable[..., torch.Tensor], layout: str, channels: int
) -> None:
    images = pixels(8, channels, 9, 8)
    array = {"NHWC": images.permute(0, 2, 3, 1), "NCHW": images}[layout].numpy()
    np.savez(tmp_path / "own.npz", x_train=array, y_train=np.arange(8) % 2, x_test=array, y_test=np.arange(8) % 2)
    own = load_dataset(str(tmp_path / "own.npz"), whiten="none")
    assert torch.equal((own.train.whole() * 255).round().to(torch.uint8), images)


@pytest.mark.parametrize("shape", [(8, 8, 16), (16, 8, 8), (8, 8, 8), (3, 8, 3), (1, 1, 64)])
def test_npz_that_could_be_read_both_ways_wants_its_layout(
    tmp_path: Path, pixels: Callable[..., torch.Tensor], shape: tuple[int, int, int]
) -> None:
    images, path = pixels(8, *shape), tmp_path / "own.npz"
    arrays: dict[str, Any] = {
        "images": images.numpy(),
        "labels": np.arange(8) % 2,
        "test_images": images.numpy(),
        "test_labels": [0, 1] * 4,
    }
    np.savez(path, **arrays)
    with pytest.raises(
        InputError, match=r"could be \[N, H, W, C\] or \[N, C, H, W\]; in an \.npz file store layout='NHWC' or"
    ):
        load_dataset(str(path))
    for layout, wanted in (("NHWC", images.permute(0, 3, 1, 2)), ("NCHW", images)):
        np.savez(path, layout=layout, **arrays)
        assert torch.equal((load_dataset(str(path), whiten="none").train.whole() * 255).round().to(torch.uint8), wanted)
    np.savez(path, layout="HWC", **arrays)
    with pytest.raises(InputError, match=r"no layout 'HWC'.*Did you mean 'NHWC'"):
        load_dataset(str(path))


def test_npz_with_28_grey_pixels_is_padded_unless_a_size_is_given(
    tmp_path: Path, pixels: Callable[..., torch.Tensor]
) -> None:
    images, path = pixels(10, 28, 28), tmp_path / "digits.npz"
    np.savez(path, images=images.numpy(), labels=np.arange(10) % 2)
    assert load_dataset(str(path)).shape == (1, 32, 32)
    assert load_dataset(str(path), size=28).shape == (1, 28, 28)
    np.savez(
        path, x_train=images.numpy(), y_train=np.arange(10) % 2, x_test=pixels(4, 30, 30).numpy(), y_test=[0, 1] * 2
    )
    with pytest.raises(InputError, match="28, 28"):
        load_dataset(str(path))


def test_npz_with_one_part(tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> None:
    np.savez(tmp_path / "own.npz", images=pixels(20, 8, 8).numpy(), labels=np.arange(20) % 2)
    own = load_dataset(tmp_path.joinpath("own.npz").as_posix())
    assert (len(own.train), len(own.test), own.classes) == (16, 4, ("0", "1"))


def test_npz_errors(tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> None:
    path, images, labels = tmp_path / "own.npz", pixels(6, 8, 8).numpy(), np.arange(6) % 2

    def refused(sentence: str, **arrays: object) -> None:
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match=sentence):
            load_dataset(str(path))

    refused(r"holds a \(6×8×8, uint8\), b \(2×3, int64\); it needs x_train", a=images, b=np.zeros((2, 3), int))
    refused("6 images but 5 labels", images=images, labels=labels[:5])
    refused(r"have shape \(6, 0, 8\)", images=images[:, :0], labels=labels)
    refused("labels of own.npz, labels are empty", images=images[:0], labels=np.zeros((0, 0), int))
    refused(
        r"lie in \[0, 254\.5\], not in \[0, 1\]; divide them by 255",
        images=np.tile(np.array([0, 254.5], np.float32), (6, 8, 4)),
        labels=labels,
    )
    refused("not in", images=np.full((6, 8, 8), np.nan), labels=labels)
    refused(r"not in \[0, 255\]", images=np.full((6, 8, 8), -1), labels=labels)
    refused(r"not in \[0, 255\]", images=np.full((6, 8, 8), 1 << 16), labels=labels)
    refused(r"have shape \(6, 8\)", images=images[:, 0], labels=labels)
    refused(r"have shape \(6, 8, 8, 0\)", images=images[..., None][..., :0], labels=labels)
    refused("which is no whole number", images=images, labels=labels / 2)
    refused("Label -2", images=images, labels=labels - 2, classes=["a", "b"])
    refused("given twice", images=images, labels=labels, classes=["a", "a"])
    refused("only one of", x_train=images, y_train=labels, x_test=images)
    refused("cannot be read as an .npz file", images=np.array([{}] * 6), labels=labels)
    refused("no images", images=images[:0], labels=labels[:0], classes=["a", "b"])
    np.savez(path, images=images, labels=labels)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"own\.npz cannot be read"):
        load_dataset(str(path))
    with path.open("wb") as file:
        np.save(file, images)
    with pytest.raises(InputError, match=r"own\.npz cannot be read"):
        load_dataset(str(path))
