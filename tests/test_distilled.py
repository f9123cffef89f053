"""A distilled set in use: any network is trained as evaluation trains its own, and misuse is one sentence."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from problems import TINY, blobs, tiny_experts
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

import astdistill as ad
from astdistill.data.dataset import Dataset, Split
from astdistill.data.synthetic import SyntheticSet, one_hot
from astdistill.evaluation.training import TensorExamples, train_network
from astdistill.runtime.seeds import rng, seeded

PROTOCOL = ad.PROTOCOLS["mtt"]


def dataset() -> Dataset:
    return blobs(whiten="zca")


def distilled(**changes: Any) -> ad.Distilled:
    """The first two real images of each class, in the place of distilled ones."""
    data = dataset()
    chosen = torch.cat([data.train.of_class(label)[:2] for label in range(3)])
    made = SyntheticSet(
        images=data.train.batch(chosen),
        targets=one_hot(data.train.labels[chosen], 3),
        lr=torch.tensor(0.02),
        classes=data.classes,
        preprocessing=data.preprocessing,
        data=data.config,
        model=TINY,
        augmentation="flip_scale",
    )
    return replace(ad.Distilled.of(made), **changes)


def texture(**changes: Any) -> ad.Distilled:
    canvases = torch.randn(6, 1, 16, 16, generator=rng(0, "canvases"))
    return distilled(images=canvases, canvas=2, canvas_samples=3, **changes)


def soft(**changes: Any) -> ad.Distilled:
    return distilled(labels="soft", targets=torch.randn(6, 3, generator=rng(0, "targets")), **changes)


def network(*, norm: bool = False, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with seeded(0, "network"):
        between = [nn.BatchNorm2d(4)] if norm else []
        return nn.Sequential(nn.Conv2d(1, 4, 3), *between, nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)).to(dtype)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("make", [distilled, soft, texture], ids=["hard", "soft", "textures"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch norm"])
def test_training_is_that_of_the_evaluation(make: Any, norm: bool) -> None:
    """Which is compared with SGD written out in test_eval_training."""
    synthetic, own, theirs = make(), network(norm=norm, dtype=torch.float64), network(norm=norm, dtype=torch.float64)
    assert synthetic.train(own, epochs=7, seed=5) is own
    recipe = PROTOCOL.replace(epochs=7).augmented("flip_scale")
    examples = TensorExamples(
        synthetic.images.double(), synthetic.probabilities.double(), float(synthetic.lr), synthetic.texture
    )
    tested = Split(torch.zeros(1, 1, 8, 8, dtype=torch.float64), torch.tensor([0]))
    train_network(theirs, examples, recipe, tested, lambda epoch: rng(5, "train", epoch))
    assert same(own, theirs)
    assert not same(own, network(norm=norm, dtype=torch.float64))
    assert not own.training


def test_the_papers_network_learns_by_its_engine_and_reads_the_test_images() -> None:
    synthetic, test = distilled(augmentation=""), dataset().test
    photos = dataset().preprocessing.invert(test.whole())
    fresh = ad.build_model(TINY, (1, 8, 8), 3)
    before = synthetic.accuracy(fresh, photos, test.labels)
    trained = synthetic.train(copy.deepcopy(fresh), epochs=60)
    assert synthetic.accuracy(trained, photos, test.labels) > max(60, before)  # chance is 33
    assert same(synthetic.train(copy.deepcopy(fresh), epochs=60), trained)
    assert not same(synthetic.train(copy.deepcopy(fresh), epochs=60, seed=1), trained)


def test_the_rate_and_the_recipe_can_be_ones_own() -> None:
    recipe = PROTOCOL.replace(epochs=3, augmentation="", lr=0.5)
    given = distilled().train(network(), recipe=recipe)
    assert same(given, distilled().train(network(), recipe=recipe.replace(epochs=9, lr=0.1), epochs=3, lr=0.5))
    assert not same(given, distilled().train(network(), recipe=recipe.replace(lr=0.1)))
    assert not same(given, distilled().train(network(), recipe=recipe.replace(augmentation=None)))


def test_accuracy_counts_whitened_images_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astdistill.autodiff.training.BATCH", 7)
    synthetic, model = distilled(), network(norm=True).double()
    photos = torch.rand(30, 1, 8, 8, generator=rng(0, "photos"))
    labels = torch.randint(3, (30,), generator=rng(0, "labels"))
    white = synthetic.preprocessing
    assert white.mean is not None
    assert white.eigenvalues is not None
    assert white.eigenvectors is not None
    vectors = white.eigenvectors.double()
    matrix = vectors @ torch.diag((white.eigenvalues.double().clamp(min=0) + white.eps) ** -0.5) @ vectors.T
    reference = copy.deepcopy(model).eval()
    right = 0
    for photo, label in zip(photos.double(), labels.tolist(), strict=True):
        seen = ((photo.flatten() - white.mean.double()) @ matrix).view(1, 1, 8, 8)
        right += int(reference(seen).argmax()) == label
    model.train()
    assert synthetic.accuracy(model, photos, labels) == pytest.approx(100 * right / 30)
    assert model.training
    assert same(model, reference)


def test_a_trained_network_owns_its_parameters(tmp_path: Path) -> None:
    trained = distilled().train(network(), epochs=2)
    save_file(trained.state_dict(), tmp_path / "network.safetensors")
    parts = list(trained.parameters())
    assert len({part.untyped_storage().data_ptr() for part in parts}) == len(parts)
    assert all(part.grad is None for part in parts)
    optimiser = torch.optim.SGD(parts, lr=0.1)
    trained(torch.zeros(1, 1, 8, 8)).sum().backward()
    optimiser.step()


def test_frozen_parameters_stay_and_the_callers_generator_too() -> None:
    own = network()
    own[0].requires_grad_(False)
    state = torch.random.get_rng_state()
    distilled().train(own, epochs=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(cast(Tensor, own[0].weight), cast(Tensor, network()[0].weight))
    assert not torch.equal(cast(Tensor, own[3].weight), cast(Tensor, network()[3].weight))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (nn.Flatten(), "Flatten has no trainable parameter"),
        (network().requires_grad_(False), "Sequential has no trainable parameter"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 5)),
            r"gives logits of shape \[2, 5\] for 2 images, and the set has 3 classes",
        ),
        (nn.Conv2d(3, 3, 3), r"Conv2d does not take images of shape \(1, 8, 8\)"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 3).double()),
            "on several devices or of several dtypes",
        ),
        (nn.Sequential(nn.Flatten(), nn.LSTM(64, 3)), "gives a tuple"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_untouched(wrong: nn.Module, sentence: str) -> None:
    before = copy.deepcopy(wrong.state_dict())
    with pytest.raises(ad.InputError, match=sentence):
        distilled().train(wrong)
    assert wrong.training
    assert all(torch.equal(wrong.state_dict()[name], value) for name, value in before.items())


def test_a_loss_that_is_not_finite_is_told() -> None:
    images = distilled().images.clone()
    images[0] = torch.nan
    with pytest.raises(
        ad.DivergedError, match=r"stopped being finite at learning rate 0\.02; .* train\(network, lr=0\.002\)"
    ):
        distilled(images=images).train(network(), epochs=1)
    with pytest.raises(ad.InputError, match="learning rate is -1"):
        distilled(lr=torch.tensor(-1.0)).train(network(), epochs=1)


def test_epochs_that_cannot_be_are_one_sentence() -> None:
    with pytest.raises(ad.InputError, match="epochs=0 was given; give 1 or more"):
        distilled().train(network(), epochs=0)
    with pytest.raises(ad.InputError, match="epochs=5 was given, but the recipe RaT-BPTT counts 3000 steps"):
        distilled().train(network(), epochs=5, recipe=ad.PROTOCOLS["rat"])


@pytest.mark.parametrize(
    ("photos", "labels", "sentence"),
    [
        (
            torch.rand(2, 3, 8, 8),
            torch.tensor([0, 1]),
            r"Images of shape \(2, 3, 8, 8\) were given; give \[N, 1, 8, 8\] in \[0, 1\]",
        ),
        (torch.rand(0, 1, 8, 8), torch.tensor([]), "Images of shape"),
        (255 * torch.ones(2, 1, 8, 8), torch.tensor([0, 1]), r"reach from 255 to 255; .*images / 255"),
        (torch.rand(2, 1, 8, 8), torch.tensor([0]), r"Labels of shape \(1,\) were given for 2 images"),
        (torch.rand(2, 1, 8, 8), torch.tensor([0, 3]), "one class number from 0 to 2"),
    ],
)
def test_photos_that_do_not_fit_are_refused(photos: Tensor, labels: Tensor, sentence: str) -> None:
    with pytest.raises(ad.InputError, match=sentence):
        distilled().accuracy(network(), photos, labels)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # where there is one core
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [distilled, soft, texture], ids=["hard", "soft", "textures"])
def test_a_data_loader_reads_the_set(make: Any, workers: int) -> None:
    synthetic = make()
    items = synthetic.torch_dataset()
    images, targets = next(iter(DataLoader(items, batch_size=len(items), num_workers=workers)))
    samples = synthetic.canvas_samples
    assert images.shape == (6 * samples, 1, 8, 8)
    expected = synthetic.hard_labels if synthetic.labels == "hard" else synthetic.probabilities
    assert torch.equal(targets, torch.cat([expected] * samples))
    if synthetic.canvas == 1:
        assert torch.equal(images, synthetic.images)


def test_items_are_images_with_numbers_or_distributions() -> None:
    synthetic = distilled()
    items = synthetic.torch_dataset(pixels=True)
    assert len(items) == 6
    image, label = items[3]
    assert (type(label), label) == (int, 1)
    assert torch.equal(image, synthetic.pixels()[3])
    assert torch.equal(items[-1][0], items[5][0])
    assert items.classes == synthetic.classes
    for number in (6, -7):
        with pytest.raises(IndexError, match=r"Index -?[67] is out of range for 6 images"):
            items[number]
    target = soft().torch_dataset()[3][1]
    assert isinstance(target, Tensor)
    assert float(target.sum()) == pytest.approx(1)
    smoothed = distilled(targets=0.9 * synthetic.targets + 0.1 / 3).torch_dataset()[0][1]
    assert isinstance(smoothed, Tensor)


def test_crops_of_textures_lie_on_the_torus_and_change_with_the_epoch() -> None:
    synthetic = texture()
    items = synthetic.torch_dataset(seed=4)
    assert len(items) == 18
    first = [items[number][0] for number in range(18)]
    for number, crop in enumerate(first):
        canvas = synthetic.images[number % 6]
        windows = [canvas.roll((-row, -column), (1, 2))[:, :8, :8] for row in range(16) for column in range(16)]
        assert any(torch.equal(crop, window) for window in windows)
    assert all(torch.equal(items[number][0], crop) for number, crop in enumerate(first))
    assert not torch.equal(first[0], first[6])
    items.set_epoch(1)
    assert any(not torch.equal(items[number][0], crop) for number, crop in enumerate(first))


def test_what_the_package_gives_has_its_uses(tmp_path: Path) -> None:
    data = dataset()
    store = tiny_experts(tmp_path / "experts", data, count=1)
    method = ad.methods.MTT.replace(step=ad.methods.TrajectoryMatching(syn_steps=2, max_start_epoch=1))
    settings = ad.DistillSettings(iterations=1)
    made = ad.distill(data, store, method=method, settings=settings, out=tmp_path / "run")
    found = ad.load(tmp_path / "run")
    for each in (made, found, ad.Distilled.load(tmp_path / "run")):
        assert type(each) is ad.Distilled
        assert torch.equal(each.images, made.images)
    folder = found.export("mtt", tmp_path / "mtt")
    back = ad.import_set(folder, data, model=TINY)
    assert type(back) is ad.Distilled
    assert torch.equal(back.images, made.images)


def test_every_module_keeps_its_own_mode() -> None:
    model, photos, labels = network(norm=True), torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    model.train()[1].eval()
    distilled().accuracy(model, photos, labels)
    assert [part.training for part in model] == [True, False, True, True, True]
    model[4] = nn.Linear(144, 4)
    with pytest.raises(ad.InputError, match="classes"):
        distilled().train(model)
    assert [part.training for part in model] == [True, False, True, True, True]


def test_a_network_without_parameters_has_an_accuracy() -> None:
    photos, labels = torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64)
    assert distilled().accuracy(nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(3)), photos, labels) >= 0


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_differentiates_wherever_it_is_called(context: Any) -> None:
    wanted = distilled().train(network(), epochs=2)
    found = network()
    with context():
        distilled().train(found, epochs=2)
    assert same(found, wanted)


def test_a_training_that_is_interrupted_leaves_the_parameters_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("astdistill.interop.distilled.train_epochs", interrupted)
    model = network()
    with pytest.raises(KeyboardInterrupt):
        distilled().train(model)
    assert len({part.untyped_storage().data_ptr() for part in model.parameters()}) == len(list(model.parameters()))
    assert all(part.grad is None for part in model.parameters())


def test_a_batch_size_that_depends_on_the_set_is_resolved() -> None:
    recipe = PROTOCOL.replace(epochs=2)
    wanted = distilled().train(network(), recipe=recipe.replace(batch=2))
    assert same(distilled().train(network(), recipe=recipe.replace(batches=((1, 2),))), wanted)


@pytest.mark.parametrize(
    "changes", [{"epochs": 1.5}, {"epochs": True}, {"lr": "0.1"}, {"seed": None}, {"recipe": "mtt"}]
)
def test_arguments_of_another_kind_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ad.InputError, match=r"^train\("):
        distilled().train(network(), **changes)
