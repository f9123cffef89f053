"""Everything once on the CPU and once on the far device: prints as JSON whether they agree, and what the host waited for."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from far import FAR, far_device, waits
from problems import TINY, blobs

import astdistill as ad
from astdistill.data import Dataset
from astdistill.distillation import DistillSettings
from astdistill.evaluation import EvalRecipe
from astdistill.evaluation.baselines import random_real
from astdistill.methods import Method
from astdistill.methods.parts import NoiseInit
from astdistill.unroll import Backprop, Truncated

EPOCHS, STEPS = 3, 4
SETTINGS = DistillSettings(iterations=STEPS, inner_steps=3, max_start_epoch=1, matched_epochs=1, lr_img=1.0)
FAMILIES = ["mlp", "lenet", "alexnet-w8", "vgg11-w8", "resnet18-w8", "resnet18-w8-ap", "vit", "convnet-d3-w8-batchnorm"]
BACKPROP = ad.methods.MTT.replace(estimator=Backprop(), init=NoiseInit())
CASES: dict[str, tuple[Method, dict[str, Any], DistillSettings]] = {
    **{
        name.lower(): (getattr(ad.methods, name), {}, SETTINGS) for name in ("MTT", "AST", "FTD", "TESLA", "DATM", "ATT", "AST_AS_RELEASED")
    },
    "backprop": (BACKPROP, {"whiten": "zca"}, SETTINGS.replace(outer_optimiser="adam", outer_grad_norm=1.0)),
    "truncated": (ad.methods.AST.replace(estimator=Truncated(k=2)), {"memory": "uint8"}, SETTINGS.replace(trajectories=2, batch_syn=2)),
    "textures": (ad.methods.MTT, {"memory": "disk", "whiten": "zca"}, SETTINGS.replace(canvas=2)),
}


def run(dataset: Dataset, method: Method, settings: DistillSettings, folder: Path) -> dict[str, Any]:
    """The whole way, and how often the host waited in each stage."""
    waits.clear()
    recipe = method.expert.replace(epochs=EPOCHS, batch=16)
    experts = ad.train_experts(dataset, model=TINY, recipe=recipe, count=1, store=folder / "experts", workers=1)
    counted = {"experts": dict(waits)}
    waits.clear()
    ipc = 10 if method.name == "ast-as-released" else 1
    synthetic = ad.distill(dataset, experts, method=method, ipc=ipc, settings=settings, out=folder / "run")
    counted["distillation"] = dict(waits)
    waits.clear()
    scores = ad.evaluate(synthetic, dataset, seeds=1, recipe=EvalRecipe(name="short", epochs=EPOCHS), workers=1)
    counted["evaluation"] = dict(waits)
    return {
        "waits": counted,
        "theta": experts.rows(0, 0, EPOCHS + 1),
        "images": synthetic.images,
        "lr": synthetic.lr,
        "scores": scores.to_json(),
    }


def compared(near: dict[str, Any], far: dict[str, Any]) -> dict[str, Any]:
    """What is the same to the bit, and the waits of the far device."""
    same = {name: bool(torch.equal(near[name].cpu(), far[name].cpu())) for name in ("theta", "images", "lr")}
    return same | {"scores": near["scores"] == far["scores"], "waits": far["waits"]}


def networks() -> dict[str, bool]:
    """Networks of every family, trained for an epoch on real images on either device: whether they test alike."""
    dataset, recipe = blobs(shape=(3, 32, 32), count=8), EvalRecipe(name="short", epochs=1, batch=4)
    near, far = (
        ad.evaluate(random_real(each, 2, 0), each, model=FAMILIES, seeds=1, recipe=recipe, workers=1).architecture
        for each in (dataset, dataset.to(FAR))
    )
    return {name: entry == far[name] for name, entry in near.items()}


def main() -> None:
    os.environ["ASTDISTILL_ENGINE"] = "eager"
    found: dict[str, Any] = {}
    with far_device(), tempfile.TemporaryDirectory() as folder:
        for name, (method, fields, settings) in CASES.items():
            dataset = blobs(**fields)
            devices = {"near": dataset, FAR: dataset.to(FAR)}
            found[name] = compared(*(run(each, method, settings, Path(folder) / name / where) for where, each in devices.items()))
        found["networks"] = networks()
        print(json.dumps(found))


if __name__ == "__main__":
    main()
