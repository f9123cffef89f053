from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from astdistill.data.dataset import Dataset
from astdistill.data.loading import load_dataset
from astdistill.data.tensors import dataset_from_tensors, dataset_from_torch
from astdistill.runtime.errors import InputError


class Listed(TorchDataset[Any]):
    """A torch data set of any items, with class names as torchvision keeps them."""

    classes = ("x", "y")

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def own(images: Any, labels: Any = None, **more: Any) -> Dataset:
    labels = torch.arange(len(images)) % 2 if labels is None else labels
    return dataset_from_tensors(images, labels, images[:4], labels[:4], **more)


def test_uint8_and_float_tensors_are_the_same_set(pixels: Callable[..., torch.Tensor]) -> None:
    images = pixels(10, 3, 8, 8)
    whole, fractions = own(images, whiten="none"), own(images / 255.0, whiten="none")
    assert whole.fingerprint == fractions.fingerprint
    assert torch.equal((whole.train.whole() * 255).round().to(torch.uint8), images)
    assert (whole.name, whole.classes, whole.config.source) == ("own", ("0", "1"), "tensors:own")
    with pytest.raises(InputError, match="dataset_from_tensors"):
        load_dataset(whole.config)


def test_any_number_of_channels_and_grey(pixels: Callable[..., torch.Tensor]) -> None:
    assert own(pixels(10, 5, 8, 8), whiten="zca").shape == (5, 8, 8)
    assert own(pixels(10, 8, 8)).shape == (1, 8, 8)


def test_the_tensors_given_are_not_changed(pixels: Callable[..., torch.Tensor]) -> None:
    images = pixels(10, 3, 8, 8) / 255.0
    before = images.clone()
    own(images, whiten="standard").train.whole().zero_()
    assert torch.equal(images, before)


def test_fields_and_names(pixels: Callable[..., torch.Tensor]) -> None:
    found = own(
        pixels(12, 3, 8, 8),
        torch.arange(12) % 3,
        classes=["a", "b", "c"],
        first_classes=2,
        per_class=3,
        size=16,
        name="mine",
        validation=0.34,
    )
    assert (found.classes, found.name, found.shape) == (("a", "b"), "mine", (3, 16, 16))
    assert found.validation is not None
    assert (len(found.train), len(found.validation)) == (4, 2)


def test_torch_data_sets_of_every_kind_are_the_same_set(pixels: Callable[..., torch.Tensor]) -> None:
    images, labels = pixels(8, 3, 9, 8), [0, 1] * 4
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    kinds = {
        "tensor": TensorDataset(images / 255.0, torch.tensor(labels)),
        "array": Listed(list(zip(arrays, labels, strict=True))),
        "pillow": Listed(list(zip(map(Image.fromarray, arrays), labels, strict=True))),
    }
    found = {kind: dataset_from_torch(part, part, ["a", "b"], whiten="none") for kind, part in kinds.items()}
    assert {each.fingerprint for each in found.values()} == {found["tensor"].fingerprint}
    assert torch.equal((found["tensor"].train.whole() * 255).round().to(torch.uint8), images)
    assert dataset_from_torch(kinds["array"], kinds["array"]).classes == ("x", "y")
    assert dataset_from_torch(kinds["array"], kinds["array"]).name == "Listed"


def test_grey_arrays_of_a_torch_data_set() -> None:
    grey = Listed([(np.full((8, 8), number, dtype=np.uint8), number % 2) for number in range(4)])
    found = dataset_from_torch(grey, grey, whiten="none")
    assert found.shape == (1, 8, 8)
    assert (found.train.whole()[:, 0, 0, 0] * 255).round().tolist() == [0, 1, 2, 3]


def test_pictures_of_several_sizes() -> None:
    mixed = Listed([(Image.new("RGB", (8 + number, 20)), number % 2) for number in range(4)])
    with pytest.raises(InputError, match=r"image 0 of .*8×20 and image 1 of .*9×20.*--data\.size"):
        dataset_from_torch(mixed, mixed)
    assert dataset_from_torch(mixed, mixed, size=12).shape == (3, 12, 12)


def test_tensor_errors(pixels: Callable[..., torch.Tensor]) -> None:
    images = pixels(6, 3, 8, 8)
    with pytest.raises(InputError, match=r"channels last; give images\.permute"):
        own(images.permute(0, 2, 3, 1))
    with pytest.raises(InputError, match=r"lie in .*undo their normalisation"):
        own(torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(InputError, match="6 images but 5 labels"):
        own(images, torch.tensor([0, 1, 0, 1, 0]))
    with pytest.raises(InputError, match=r"several per image \(multi-label\)"):
        own(images, torch.zeros(6, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="no whole number"):
        own(images, torch.full((6,), 0.5))
    with pytest.raises(InputError, match="Class '1' has no training images"):
        dataset_from_tensors(images, torch.zeros(6, dtype=torch.int64), images, torch.ones(6, dtype=torch.int64))
    with pytest.raises(InputError, match="at least two"):
        own(images, torch.zeros(6, dtype=torch.int64))
    with pytest.raises(InputError, match="give both the same channels and size"):
        dataset_from_tensors(images, torch.arange(6) % 2, images[:, :, :4], torch.arange(6) % 2)
    with pytest.raises(InputError, match="no data setting 'whitten'"):
        own(images, whitten="zca")
    with pytest.raises(InputError, match="give Pillow pictures, arrays or tensors"):
        dataset_from_torch(Listed([("text", 0)]), Listed([("text", 0)]))
    with pytest.raises(InputError, match="holds no images"):
        dataset_from_torch(Listed([]), Listed([]))


@pytest.mark.parametrize(
    "kind", [int, float, bool, np.int64, np.uint8, np.bool_, np.array, torch.tensor, lambda label: np.array([label])]
)
def test_whole_labels_of_a_torch_data_set_may_be_of_any_type(
    pixels: Callable[..., torch.Tensor], kind: Callable[[int], Any]
) -> None:
    part = Listed([(image, kind(number % 2)) for number, image in enumerate(pixels(6, 3, 8, 8))])
    assert dataset_from_torch(part, part).train.labels.tolist() == [0, 1] * 3


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (0.9, "0.9"),
        (1.7, "1.7"),
        (float("inf"), "inf"),
        (np.float32(1.5), r".*1\.5"),
        (torch.tensor(0.5), r"tensor\(0\.5000"),
        ("a", "'a'"),
        ("1", "'1'"),
        (torch.tensor([0, 1]), r"tensor\(\[0, 1\]"),
        (np.array([0, 1]), r"array\(\[0, 1\]"),
    ],
)
def test_a_label_that_is_no_whole_number_is_refused_by_its_image(
    pixels: Callable[..., torch.Tensor], label: Any, shown: str
) -> None:
    good = Listed(list(zip(pixels(4, 3, 8, 8), [0, 1, 0, 1], strict=True)))
    bad = Listed([*good.items[:2], (good.items[2][0], label)])
    with pytest.raises(
        InputError,
        match=rf"label of image 2 of Listed \(test part\) is {shown}\)*; labels are whole numbers 0\.\.K-1, so give",
    ):
        dataset_from_torch(good, bad)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16])
def test_every_channel_of_tensors_and_arrays_is_kept(pixels: Callable[..., torch.Tensor], channels: int) -> None:
    images = pixels(8, channels, 8, 8)
    labels = [0, 1] * 4
    arrays = Listed([(image.permute(1, 2, 0).numpy(), label) for image, label in zip(images, labels, strict=True)])
    tensors = Listed(list(zip(images, labels, strict=True)))
    for found in (
        own(images, whiten="none"),
        *(dataset_from_torch(part, part, whiten="none") for part in (arrays, tensors)),
    ):
        assert torch.equal((found.train.whole() * 255).round().to(torch.uint8), images)


def test_channels_first_arrays_of_a_torch_data_set(pixels: Callable[..., torch.Tensor]) -> None:
    images = pixels(4, 2, 8, 8)
    first = Listed([(image.numpy(), number % 2) for number, image in enumerate(images)])
    found = dataset_from_torch(first, first, whiten="none")
    assert torch.equal((found.train.whole() * 255).round().to(torch.uint8), images)


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 2), (8, 9, 4), (8, 8, 5), (10, 9, 3)])
def test_tensors_with_channels_last_are_refused(
    pixels: Callable[..., torch.Tensor], shape: tuple[int, int, int]
) -> None:
    with pytest.raises(InputError, match=r"channels last; give images\.permute"):
        own(pixels(8, *shape))


def test_pictures_with_other_channels_than_the_first_are_named(pixels: Callable[..., torch.Tensor]) -> None:
    mixed = Listed([(pixels(2, 8, 8), 0), (pixels(3, 8, 8), 1)])
    with pytest.raises(InputError, match=r"image 0 of .* has 2 and image 1 of .* has 3; give all the same number"):
        dataset_from_torch(mixed, mixed)
    grey_too = Listed([(pixels(1, 8, 8), 0), (pixels(3, 8, 8), 1)])
    assert dataset_from_torch(grey_too, grey_too).shape == (3, 8, 8)


def test_pictures_lose_their_transparency_and_arrays_do_not(pixels: Callable[..., torch.Tensor]) -> None:
    array = pixels(8, 8, 4).numpy()
    pictures, arrays = (Listed([(image, 0), (image, 1)]) for image in (Image.fromarray(array), array))
    assert dataset_from_torch(pictures, pictures).shape == (3, 8, 8)
    assert dataset_from_torch(arrays, arrays).shape == (4, 8, 8)


def test_grey_tensors_of_28_pixels_are_padded_unless_a_size_is_given(pixels: Callable[..., torch.Tensor]) -> None:
    images = pixels(8, 28, 28)
    part = TensorDataset(images[:, None], torch.arange(8) % 2)
    for found in (own(images, whiten="none"), dataset_from_torch(part, part, whiten="none")):
        assert found.shape == (1, 32, 32)
        assert torch.equal((found.train.whole()[:, 0, 2:-2, 2:-2] * 255).round().to(torch.uint8), images)
    assert own(images, size=28).shape == (1, 28, 28)
    assert own(pixels(8, 3, 28, 28)).shape == (3, 28, 28)


@pytest.mark.parametrize("classes", [{0: "cat", 1: "dog"}, {"dog": 1, "cat": 0}, np.array(["cat", "dog"])])
def test_classes_may_be_named_by_number(pixels: Callable[..., torch.Tensor], classes: Any) -> None:
    assert own(pixels(8, 3, 8, 8), classes=classes).classes == ("cat", "dog")


def test_classes_without_an_order_are_refused(pixels: Callable[..., torch.Tensor]) -> None:
    for classes, sentence in (({"cat", "dog"}, "has no order"), ({5: "cat", 7: "dog"}, r"does not number them 0\.\.1")):
        with pytest.raises(InputError, match=sentence):
            own(pixels(8, 3, 8, 8), classes=classes)


@pytest.mark.parametrize("shape", [(20, 32, 64, 5), (20, 64, 32, 12), (20, 9, 10, 4), (20, 5, 32, 64), (20, 3, 8, 9)])
def test_arrays_in_memory_have_the_channels_that_they_have_in_a_file(
    pixels: Callable[..., torch.Tensor], tmp_path: Path, shape: tuple[int, ...]
) -> None:
    images, labels = pixels(*shape).numpy(), np.arange(20) % 2
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images[:4], y_test=labels[:4])
    found, stored = own(images, labels, whiten="none"), load_dataset(tmp_path / "own.npz", whiten="none")
    assert found.fingerprint == stored.fingerprint
    assert found.shape[0] == min(shape[1:])
    unsure = shape[-1] in (5, 12)
    assert len(found.summary.guessed) == unsure
    if unsure:
        height, width, channels = shape[1:]
        assert f"height {height}, width {width}, channels {channels}" in found.summary.guessed[0]


def test_axes_that_could_be_meant_otherwise_are_said(pixels: Callable[..., torch.Tensor]) -> None:
    deep = pixels(6, 16, 8, 8)
    for images, otherwise in (
        (deep.numpy(), r"transpose\(0, 3, 1, 2\)"),
        (pixels(6, 12, 32, 8), r"permute\(0, 3, 1, 2\)"),
    ):
        found = own(images, torch.arange(6) % 2, whiten="none")
        assert found.shape == tuple(images.shape[1:])
        assert re.search(rf"channels {images.shape[1]}, height .*otherwise: give {otherwise}", found.summary.guessed[0])
    assert own(deep).summary.guessed == ()


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA", "LA", "L", "1", "RGB", "I;16"])
def test_pictures_in_a_list_are_read_as_those_of_a_torch_data_set(
    pixels: Callable[..., torch.Tensor], mode: str
) -> None:
    arrays = pixels(6, 8, 9, 3).numpy()
    pictures = [Image.fromarray(array).convert(mode) for array in arrays]
    if mode == "I;16":
        pictures = [Image.fromarray(array[:, :, 0].astype(np.uint16) * 4) for array in arrays]
    found = own(pictures, [0, 1] * 3, whiten="none", background="black")
    part = list(zip(pictures, [0, 1] * 3, strict=True))
    wanted = dataset_from_torch(part, part[:4], whiten="none", background="black")
    assert (found.fingerprint, found.summary) == (wanted.fingerprint, wanted.summary)
    assert found.shape[0] == (1 if mode in ("LA", "L", "1", "I;16") else 3)


def test_pictures_in_a_list_beside_arrays_and_of_several_sizes(pixels: Callable[..., torch.Tensor]) -> None:
    images, labels = pixels(6, 3, 16, 16), [0, 1] * 3
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    found = dataset_from_tensors(pictures, labels, images.int() * 257, labels, whiten="none", white_level=65535)
    assert torch.equal(found.train.whole(), found.test.whole())
    mixed = [picture.resize((20 + row, 24)) for row, picture in enumerate(pictures)]
    assert dataset_from_tensors(mixed, labels, pictures, labels, size=12).shape == (3, 12, 12)
    with pytest.raises(InputError, match=r"image 0 of own \(training part\) is 20×24 and image 1 .* is 21×24"):
        dataset_from_tensors(mixed, labels, pictures, labels)
    with pytest.raises(InputError, match=r"own \(training part\) holds 1 Pillow pictures among 2 images; give all"):
        dataset_from_tensors([pictures[0], np.asarray(pictures[1])], labels[:2], pictures, labels)
    dark = [Image.fromarray(np.full((8, 8), number, np.uint8)) for number in range(4)]
    assert "the largest value is 3, and 255 is white" in own(dark, [0, 1, 0, 1]).summary.guessed[0]


@pytest.mark.parametrize(
    ("change", "largest", "white"),
    [
        (lambda images: images / 255.0 / 255.0, "0.00392157", "1"),
        (lambda images: (images // 16 + 1).double(), "16", "255"),
        (lambda images: images // 4, "63", "255"),
        (lambda images: images.to(torch.int64) // 4, "63", "255"),
    ],
)
def test_dark_images_of_every_kind_are_said(
    pixels: Callable[..., torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor], largest: str, white: str
) -> None:
    images = pixels(20, 3, 8, 8)
    found = own(change(images))
    assert found.summary.guessed == (
        f"images: the largest value is {largest}, and {white} is white (otherwise: --data.white-level)",
    )
    assert own(images).summary.guessed == own(images / 255.0).summary.guessed == ()
    named = own(change(images), white_level=float(largest), whiten="none")
    assert float(named.train.whole().max()) == 1.0
    assert (named.summary.guessed, named.summary.read) == ((), (f"images: {float(largest):g} is white",))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda images: images.to_sparse(), r"are a tensor of layout sparse_coo; give the dense one: to_dense\(\)"),
        (
            lambda images: (images / 255).to(torch.float8_e4m3fn),
            r"are of type float8_e4m3fn; give floats .*: float\(\)",
        ),
        (
            lambda images: torch.quantize_per_tensor(images / 255, 1 / 255, 0, torch.quint8),
            r"are a quantized tensor; give its floats: dequantize\(\)",
        ),
        (lambda images: images.to("meta"), "on the meta device, which holds no values"),
        (lambda images: torch.nested.nested_tensor(list(images / 255)), "are a nested tensor; give a list"),
        (lambda images: images.to(torch.complex64), "are complex64"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # what torch thinks of its own kinds of tensors
def test_tensors_that_are_no_plain_numbers_are_refused(
    pixels: Callable[..., torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor], sentence: str
) -> None:
    images = pixels(6, 3, 8, 8)
    with pytest.raises(InputError, match=sentence):
        dataset_from_tensors(change(images), [0, 1] * 3, images, [0, 1] * 3)


def test_labels_of_pandas_and_of_half_floats(pixels: Callable[..., torch.Tensor]) -> None:
    images = pixels(6, 3, 8, 8)
    column = pd.Series(["cat", None, "dog", "cat", "dog", "cat"], dtype="string")
    found = dataset_from_tensors(images, column, images[:2], ["cat", "dog"], whiten="none")
    assert (found.classes, found.train.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1, 0])
    assert found.summary.left_out == ("1 images of the training part, which have no label",)
    assert own(images, torch.tensor([0, 1] * 3, dtype=torch.bfloat16)).train.labels.tolist() == [0, 1] * 3
