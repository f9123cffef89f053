"""Slots of several sub-images: what a network sees of them, where they start, their file, and every use of the set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import TINY, blobs
from torch import Tensor
from torch.autograd import gradcheck

from astdistill.cli.main import main
from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet, load, one_hot
from astdistill.data.textures import TextureSpec
from astdistill.distillation.loop import distill
from astdistill.distillation.run import Distillation
from astdistill.distillation.settings import DistillSettings, check_canvas
from astdistill.evaluation.protocol import EvalRecipe
from astdistill.evaluation.rows import content, synthetic_row
from astdistill.evaluation.runner import evaluate
from astdistill.evaluation.scores import caption
from astdistill.evaluation.training import TensorExamples
from astdistill.interop.distilled import Distilled
from astdistill.interop.exporters import export
from astdistill.methods.distribution_matching import DM, DistributionMatching
from astdistill.methods.gradient_matching import IDC
from astdistill.methods.initialisation import FileInit
from astdistill.methods.tgdd import TGDD
from astdistill.methods.unroll import Variables
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import rng

SLOTS = TextureSpec(factor=2)
SETTINGS = DistillSettings(factor=2, iterations=2, lr_img=1.0, augmentation="flip")
METHOD = DM.replace(step=DistributionMatching(batch_real=5))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs()


@pytest.fixture(scope="module")
def made(dataset: Dataset) -> SyntheticSet:
    return distill(dataset, method=METHOD, model=TINY, ipc=2, settings=SETTINGS)


def slots(count: int = 3) -> Tensor:
    return torch.randn(count, 2, 6, 8, generator=rng(0, "slots"), dtype=torch.float64)


def enlarged(small: Tensor) -> Tensor:
    """Bilinear, pixel by pixel: (i + ½) / 2 − ½ between the two nearest rows and columns, which end at the border."""
    channels, height, width = small.shape
    found = torch.zeros(channels, 2 * height, 2 * width, dtype=small.dtype)
    for row in range(2 * height):
        for column in range(2 * width):
            for line in range(height):
                for place in range(width):
                    y, x = ((number + 0.5) / 2 - 0.5 for number in (row, column))
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    share = max(0.0, 1 - abs(y - line)) * max(0.0, 1 - abs(x - place))
                    found[:, row, column] += share * small[:, line, place]
    return found


def test_each_quarter_is_enlarged_to_an_image() -> None:
    images, found = slots(), SLOTS.decoded(slots())
    assert found.shape == (12, 2, 6, 8)
    for number, image in enumerate(images):
        for part, (top, left) in enumerate([(0, 0), (0, 4), (3, 0), (3, 4)]):
            wanted = enlarged(image[:, top : top + 3, left : left + 4])
            torch.testing.assert_close(found[4 * number + part], wanted, rtol=1e-12, atol=1e-12)
    assert gradcheck(SLOTS.decoded, (slots(1).requires_grad_(),))
    assert torch.equal(TextureSpec().decoded(images), images)


def test_a_slot_starts_from_real_images_made_smaller(dataset: Dataset) -> None:
    run = Distillation(dataset, None, METHOD, 2, SETTINGS, None, 0, FlatModel(build_model(TINY, (1, 8, 8), 3)), TINY)
    state = run.start()
    real = METHOD.init(dataset, None, run.model, 8, 0).images
    assert state.images.shape == (6, 1, 8, 8)
    small = real.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(SLOTS.cut(state.images), small)
    assert torch.equal(state.targets.argmax(1), torch.arange(3).repeat_interleave(2))


def test_the_gradient_of_a_slot_is_that_of_its_images(dataset: Dataset) -> None:
    """Also that of its target, which several images share."""
    run = Distillation(dataset, None, METHOD, 2, SETTINGS, None, 0, FlatModel(build_model(TINY, (1, 8, 8), 3)), TINY)
    state = run.start()
    seen = Variables(SLOTS.decoded(state.images), SLOTS.for_each(state.targets), state.lr)
    step = METHOD.step(run.step_setup, seen, 0, 0)
    images = state.images.clone().requires_grad_()
    (SLOTS.decoded(images) * step.images).sum().backward()
    torch.testing.assert_close(run.gradient(state).images, images.grad)
    assert len(seen.images) == len(seen.targets) == 24
    shared = run._encoded(step.replace(targets=torch.ones(24, 3)), state.variables).targets
    assert torch.equal(shared, torch.full((6, 3), 4.0))


def test_the_file_knows_its_factor_and_others_do_not_mention_it(made: SyntheticSet, tmp_path: Path) -> None:
    made.save(tmp_path / "synthetic.safetensors")
    found = load(tmp_path / "synthetic.safetensors")
    assert (found.factor, found.ipc, found.seen, len(found.images)) == (2, 2, 24, 6)
    assert found.header()["factor"] == 2
    ordinary = found.decoded()
    assert "factor" not in ordinary.header()
    assert (ordinary.ipc, ordinary.seen, ordinary.stored_bytes) == (8, 24, 4 * found.stored_bytes)
    assert ordinary.decoded() is ordinary
    assert "factor" not in DistillSettings().to_json()
    assert TextureSpec().digest() != SLOTS.digest()
    assert content(found) not in (content(ordinary), content(replace(found, factor=1)))


def test_stored_bytes_count_soft_labels(made: SyntheticSet) -> None:
    pixels = 6 * 64 * 4
    assert made.stored_bytes == pixels
    assert replace(made, labels="soft").stored_bytes == pixels + 6 * 3 * 4


def test_an_evaluation_trains_on_every_sub_image(made: SyntheticSet, dataset: Dataset) -> None:
    examples = TensorExamples.of(made, None, torch.device("cpu"))
    assert (len(examples), examples.images_per_epoch) == (24, 24)
    assert torch.equal(examples.images, SLOTS.decoded(made.images))
    assert torch.equal(examples.targets, one_hot(torch.arange(3).repeat_interleave(8), 3))
    recipe = EvalRecipe(name="short", epochs=2)
    assert synthetic_row(TINY, made, recipe).images == 24
    scores = evaluate(made, dataset, recipe=recipe, seeds=1)
    assert scores.subject is not None
    assert (scores.subject.per_slot, scores.subject.ipc, scores.subject.stored_bytes) == (4, 2, 6 * 64 * 4)
    assert "4 images in each of 2 slots per class (1.5 kB)" in caption(scores)


def test_uses_decode(made: SyntheticSet, tmp_path: Path) -> None:
    own = Distilled.of(made)
    items = own.torch_dataset()
    assert len(items) == 24
    assert torch.equal(torch.stack([items[place][0] for place in range(24)]), SLOTS.decoded(made.images))
    assert [items[place][1] for place in range(24)] == [label for label in range(3) for _ in range(8)]
    with np.load(export(made, "npz", tmp_path / "npz") / "synthetic.npz") as arrays:
        assert np.array_equal(arrays["images"], SLOTS.decoded(made.images).numpy())
    assert len(torch.load(export(made, "mtt", tmp_path / "mtt") / "images_best.pt")) == 24
    assert len(list((export(made, "png", tmp_path / "png") / "clipped").iterdir())) == 24
    folder = export(made, "huggingface", tmp_path / "hub")
    assert load(folder / "synthetic.safetensors").factor == 2
    assert "a slot of 2 × 2 sub-images" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_run_starts_from_the_slots_of_another(made: SyntheticSet, dataset: Dataset, tmp_path: Path) -> None:
    made.save(tmp_path / "synthetic.safetensors")
    method = METHOD.replace(init=FileInit(path=tmp_path / "synthetic.safetensors"))
    network = FlatModel(build_model(TINY, (1, 8, 8), 3))
    same = Distillation(dataset, None, method, 2, SETTINGS, None, 0, network, TINY).start()
    assert torch.equal(same.images, made.images)
    whole = Distillation(dataset, None, method, 8, SETTINGS.replace(factor=1), None, 0, network, TINY).start()
    torch.testing.assert_close(whole.images, SLOTS.decoded(made.images))


@pytest.mark.parametrize(
    ("fields", "whiten", "words"),
    [
        ({"factor": 3}, "standard", "--distill.factor 3 was given, but images of 8 × 8 pixels do not divide"),
        ({"factor": 2}, "zca", "--distill.factor 2 was given with ZCA whitening"),
        ({"factor": 2, "canvas": 2}, "standard", "an image is either a texture or a slot"),
        ({"outer_decay": 0.1}, "standard", "the outer sgd has no weight decay"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, float], whiten: str, words: str) -> None:
    settings = DistillSettings.model_validate({"iterations": 1, **fields})
    with pytest.raises(InputError, match=words):
        distill(blobs(whiten=whiten), method=METHOD, model=TINY, ipc=1, settings=settings)


def test_a_whitened_canvas_is_refused_by_methods_that_cut_pixels() -> None:
    settings = DistillSettings(iterations=1, canvas=2)
    for method in (TGDD, IDC):
        with pytest.raises(InputError, match=f"ZCA whitening, but method '{method.name}' clips pixels"):
            check_canvas("zca", method, settings)
        check_canvas("standard", method, settings)
    check_canvas("zca", DM, settings)


def test_a_dry_run_refuses_slots_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "digits-ipc1", "--method", "dm", "--data.whiten", "standard", "--dry-run", "--distill.factor"]
    assert main([*words, "3"]) != 0
    told = capsys.readouterr()
    assert "--distill.factor 3 was given, but images of 8 × 8 pixels do not divide into 3" in told.err
    assert "Time" not in told.out
