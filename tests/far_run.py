"""Everything once on the CPU and once on the far device: prints as JSON whether they agree, and what the host waited
for."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from far import FAR, far_device, register, uploads, waits
from problems import TINY, TINY_RECIPE, blobs
from torch import Tensor, nn

import astdistill as ad
from astdistill.autodiff.dispatch import using
from astdistill.autodiff.training import Trainee
from astdistill.data.dataset import Dataset
from astdistill.distillation.run import Distillation, StepRecord
from astdistill.distillation.settings import DistillSettings
from astdistill.distillation.state import DistillState
from astdistill.evaluation.protocol import EvalRecipe
from astdistill.evaluation.rows import random_real
from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.training import make_optimiser, train_epoch
from astdistill.methods.estimators import Backprop, Truncated
from astdistill.methods.initialisation import NoiseInit
from astdistill.methods.method import Method
from astdistill.methods.outer import LossThreshold
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.models.registry import build_model
from astdistill.runtime.seeds import to_device

EPOCHS, STEPS = 2, 3
SETTINGS = DistillSettings(iterations=STEPS, lr_img=1.0, checkpoint_seconds=1e9)
STEP = TrajectoryMatching(syn_steps=3, max_start_epoch=1, expert_epochs=1)
FAMILIES = ["mlp", "lenet", "alexnet-w8", "vgg11-w8", "resnet18-w8", "resnet18-w8-ap", "vit", "convnet-d3-w8-batchnorm"]
MTT = ad.methods.MTT.replace(step=STEP)
BACKPROP = MTT.replace(estimator=Backprop(), init=NoiseInit())
CASES: dict[str, tuple[Method, dict[str, Any], DistillSettings]] = {
    **{
        name.lower(): (getattr(ad.methods, name).replace(step=STEP), {}, SETTINGS)
        for name in ("MTT", "AST", "FTD", "TESLA", "DATM", "ATT", "AST_AS_RELEASED")
    },
    "backprop": (BACKPROP, {"whiten": "zca"}, SETTINGS.replace(outer_optimiser="adam", outer_grad_norm=1.0)),
    "truncated": (
        ad.methods.AST.replace(estimator=Truncated(k=2), step=STEP.replace(trajectories=2, batch_syn=2)),
        {"memory": "uint8"},
        SETTINGS,
    ),
    "textures": (MTT, {"memory": "disk", "whiten": "zca"}, SETTINGS.replace(canvas=2)),
    "passed over": (MTT.replace(step_filter=LossThreshold(threshold=1e-6)), {}, SETTINGS),
}
RECIPES = {
    "plain": TINY_RECIPE,
    "penalty": TINY_RECIPE.replace(penalty=1.0, max_grad_norm=5.0, loss_warmup_epochs=3),
    "penalty by pixel": TINY_RECIPE.replace(penalty=1.0, penalty_form="pixel"),
    "gsam": TINY_RECIPE.replace(sam_rho=0.1, surrogate_gap=0.2),
    "adam": TINY_RECIPE.replace(optimiser="adam", lr=0.01),
}
"""One epoch of each alone, to show that the host never waits between its first step and its last."""
MISTAKES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "mixed": lambda far, near: near + far,
    "to numpy": lambda far, near: far.numpy(),
    "mixed gradient": lambda far, near: nn.functional.linear(far.requires_grad_(), near).sum().backward(),
}
"""What a card refuses."""
READINGS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a number": lambda far, near: float(far.sum()),
    "a mask": lambda far, near: far[far > 0],
    "the tensor": lambda far, near: far.cpu(),
    "whether": lambda far, near: bool(far.isfinite().all()),
    "a sum": lambda far, near: far + far,
    "an index of the host": lambda far, near: far[torch.tensor([0])],
    "a slice": lambda far, near: far[:1] * 2,
    "moved": lambda far, near: near.to(FAR),
    "sent": lambda far, near: to_device(near, FAR),
    "copied in": lambda far, near: far.copy_(near),
    "copied there": lambda far, near: far.copy_(far),
}
"""What may make the host wait, or is sent."""


def run(dataset: Dataset, method: Method, settings: DistillSettings, folder: Path) -> dict[str, Any]:
    """The whole way, and how often the host waited in each stage."""
    waits.clear()
    recipe = method.recipe.replace(epochs=EPOCHS, batch=16)
    experts = ad.train_experts(dataset, model=TINY, recipe=recipe, count=1, store=folder / "experts", workers=1)
    counted = {"experts": dict(waits)}
    waits.clear()
    ipc = 10 if method.name == "ast-as-released" else 1
    steps: list[dict[str, int]] = []

    def observe(run: Distillation, state: DistillState, line: StepRecord) -> None:
        """Count from one step's end to the next one's, whatever it was that the host did in between."""
        steps.append(waits + uploads)
        waits.clear()
        uploads.clear()

    synthetic = ad.distill(
        dataset, experts, method=method, ipc=ipc, settings=settings, out=folder / "run", observers=[observe]
    )
    waits.clear()
    scores = ad.evaluate(synthetic, dataset, seeds=1, recipe=EvalRecipe(name="short", epochs=EPOCHS), workers=1)
    counted["evaluation"] = dict(waits)
    return {
        "waits": counted,
        "steps": steps[1:],
        "theta": experts.rows(0, 0, EPOCHS + 1),
        "images": synthetic.images,
        "lr": synthetic.lr,
        "scores": scores.to_json(),
    }


def compared(near: dict[str, Any], far: dict[str, Any]) -> dict[str, Any]:
    """What is the same to the bit, and the waits of the far device."""
    same = {name: bool(torch.equal(near[name].cpu(), far[name].cpu())) for name in ("theta", "images", "lr")}
    return same | {"scores": near["scores"] == far["scores"], "waits": far["waits"], "steps": far["steps"]}


def place(device: str) -> AbstractContextManager[None]:
    """Where `device` can be computed on: each operation of a process that watches for the far device costs more."""
    return {"cpu": nullcontext, FAR: far_device}[device]()


def epoch(recipe: ExpertRecipe) -> dict[str, Any]:
    """One epoch of an expert on either device: whether θ ends the same, and what the host waited for inside."""
    theta: dict[str, torch.Tensor] = {}
    for device in ("cpu", FAR):
        dataset = blobs()
        with place(device):
            trainee = Trainee(build_model(TINY, dataset.shape, 3, seed=1).to(device))
            split, optimiser = dataset.train.to(device), make_optimiser(trainee, recipe, 0)
            waits.clear()
            uploads.clear()
            train_epoch(trainee, optimiser, split, 3, recipe, 0, 5)
            inside = waits + uploads
            theta[device] = trainee.theta.detach().cpu()
    return {"theta": bool(torch.equal(theta["cpu"], theta[FAR])), "waits": inside}


def networks() -> dict[str, bool]:
    """Networks of every family, trained for an epoch on real images on either device: whether they test alike."""
    dataset, recipe = blobs(shape=(3, 32, 32), count=4), EvalRecipe(name="short", epochs=1)
    tested = []
    for device in ("cpu", FAR):
        with place(device):
            each = dataset.to(device)
            scores = ad.evaluate(random_real(each, 2, 0), each, model=FAMILIES, seeds=1, recipe=recipe, workers=1)
        tested.append(scores.architecture)
    near, far = tested
    return {name: entry == far[name] for name, entry in near.items()}


def refusal(mistake: Callable[[Tensor, Tensor], object]) -> str:
    """What the device says of it; nothing if it lets it pass."""
    near = torch.ones(2, 2)
    try:
        mistake(near.to(FAR), near)
    except (RuntimeError, TypeError) as error:
        return str(error)
    return ""


def counted(reading: Callable[[Tensor, Tensor], object]) -> list[int]:
    """How often the host waited for it, and how often it sent something without pinning it."""
    near = torch.ones(2, 2)
    far = to_device(near, FAR)
    waits.clear()
    uploads.clear()
    reading(far, near)
    return [waits.total(), uploads.total()]


def main() -> None:
    torch.set_num_threads(1)
    register()
    found: dict[str, Any] = {}
    with using("eager"), tempfile.TemporaryDirectory() as folder:
        for name, (method, fields, settings) in CASES.items():
            dataset = blobs(count=12, **fields)
            near = run(dataset, method, settings, Path(folder) / name / "near")
            with far_device():
                found[name] = compared(near, run(dataset.to(FAR), method, settings, Path(folder) / name / FAR))
        found["networks"] = networks()
        found["recipes"] = {name: epoch(recipe) for name, recipe in RECIPES.items()}
    with far_device():
        found["mistakes"] = {name: refusal(mistake) for name, mistake in MISTAKES.items()}
        found["readings"] = {name: counted(reading) for name, reading in READINGS.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
