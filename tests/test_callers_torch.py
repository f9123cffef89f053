"""What a caller has set in torch: another default dtype or device, or no derivatives. The public functions compute the same bits,
in whatever package they are looked up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from problems import TINY_RECIPE, float64_by_default, same_set, same_store

import astdistill as ad
from astdistill.data import dataset_from_tensors, dataset_from_torch, load_dataset
from astdistill.data.synthetic import SyntheticSet
from astdistill.distillation import DistillSettings, distill
from astdistill.evaluation import PROTOCOLS, evaluate, evaluate_all, random_real
from astdistill.evaluation.scores import RowScores
from astdistill.experts import TrajectoryStore, train_experts
from astdistill.methods.distribution_matching import DM
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.methods.trajectory_matching import AST
from astdistill.runtime.seeds import rng
from astdistill.runtime.trust import trust_modules

SET_BY_CALLERS = {
    "float64": float64_by_default,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "another device": lambda: torch.device("meta"),  # as torch.set_default_device does; it computes nothing
}
NETWORK, RECIPE = "convnet-d1-w4", TINY_RECIPE.replace(epochs=3, penalty=0.01, sam_rho=0.05)
METHOD = AST.replace(expert=RECIPE, step=TrajectoryMatching(syn_steps=2, expert_epochs=1, max_start_epoch=1))
Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
Caller = Callable[[], AbstractContextManager[object]]


@pytest.fixture(params=SET_BY_CALLERS)
def caller(request: pytest.FixtureRequest) -> Caller:
    return SET_BY_CALLERS[request.param]


@pytest.fixture(scope="module")
def images() -> Parts:
    """What `dataset_from_tensors` takes, made where nothing is set."""
    labels = torch.arange(36) % 3
    pictures = 0.4 * torch.rand(36, 1, 8, 8, generator=rng(0, "images")) + 0.2 * labels[:, None, None, None]
    return pictures, labels, pictures[:12], labels[:12]


def tiny(images: Parts, folder: Path, engine: str) -> tuple[TrajectoryStore, SyntheticSet]:
    """An expert and a set of it, in `folder`."""
    dataset = dataset_from_tensors(*images, validation=0.2)
    store = train_experts(dataset, model=NETWORK, recipe=RECIPE, count=1, store=folder, engine=engine)
    settings = DistillSettings(iterations=2, lr_img=1.0, validate_every=1, validate_epochs=2, validate_networks=1)
    return store, distill(dataset, store, method=METHOD, ipc=2, settings=settings, out=folder / "run", engine=engine)


@pytest.mark.parametrize("engine", ["native", "eager"])
def test_experts_and_sets_are_the_same(engine: str, caller: Caller, images: Parts, tmp_path: Path) -> None:
    wanted_store, wanted = tiny(images, tmp_path / "wanted", engine)
    with caller():
        store, found = tiny(images, tmp_path / "found", engine)
        resumed = tiny(images, tmp_path / "wanted", engine)[1]
    assert same_store(store, wanted_store)
    assert same_set(found, wanted)
    assert same_set(resumed, wanted)


@pytest.mark.parametrize("whiten", ["standard", "zca", "rat"])
@pytest.mark.parametrize("memory", ["float32", "uint8", "disk"])
def test_data_are_the_same(whiten: str, memory: str, caller: Caller, images: Parts) -> None:
    wanted = dataset_from_tensors(*images, whiten=whiten, memory=memory)
    with caller():
        found = dataset_from_tensors(*images, whiten=whiten, memory=memory)
    assert found.fingerprint == wanted.fingerprint
    first = found.train.images[:4]
    assert torch.equal(first, wanted.train.images[:4])
    assert not first.is_inference(), "a network of the user's own could not be trained on it"
    assert not found.train.labels.is_inference()


@pytest.mark.parametrize("source", ["digits", "torch"])
def test_every_way_to_data_gives_tensors_to_train_with(source: str, caller: Caller, images: Parts) -> None:
    with caller():
        if source == "digits":
            found = load_dataset("digits")
        else:
            train, test = (list(zip(*part, strict=True)) for part in (images[:2], images[2:]))
            found = dataset_from_torch(train, test)
        chosen = random_real(found, 1, 0)
    for tensor in (found.train.images[:1], chosen.images, chosen.lr):
        assert tensor.dtype == torch.float32
        assert not tensor.is_inference()
        assert tensor.is_cpu


@pytest.mark.parametrize("model", [NETWORK, "mlp-w8", "resnet18-w4", "vit-w8", "problems:dropout_net"])
def test_scores_are_the_same(model: str, caller: Caller, images: Parts) -> None:
    trust_modules(["problems"])
    dataset, recipe = dataset_from_tensors(*images), PROTOCOLS["mtt"].replace(epochs=3, full_epochs=2, augmentation="")
    settings = DistillSettings(iterations=1, lr_img=1.0)
    synthetic = distill(dataset, method=DM, model=NETWORK, ipc=2, settings=settings)

    def rows() -> list[RowScores]:
        scores = evaluate_all(synthetic, dataset, recipe, model, 2, ("random", "full"), workers=1)
        return [*scores.architecture.values(), *scores.baselines.values()]

    wanted = rows()
    with caller():
        assert rows() == wanted
        assert evaluate(synthetic, dataset, recipe=recipe, model=model, seeds=2).architecture[model] == wanted[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_protocols_are_the_same(protocol: str, caller: Caller, images: Parts) -> None:
    dataset, recipe = dataset_from_tensors(*images), PROTOCOLS[protocol]
    settings = DistillSettings(iterations=1, lr_img=1.0)
    synthetic = ad.distill(dataset, method=DM, model=NETWORK, ipc=2, settings=settings)
    changes = {"steps": tuple(range(1, len(recipe.steps) + 1))} if recipe.steps else {"epochs": 3}
    recipe = recipe.replace(**changes, temperature=0.0)

    def trained() -> torch.Tensor:
        network = synthetic.train(ad.build_model(NETWORK, dataset.shape, 3), recipe=recipe)
        return torch.cat([part.detach().flatten() for part in network.parameters()])

    wanted = trained()
    with caller():
        assert torch.equal(trained(), wanted)
