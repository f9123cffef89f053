"""One small run with everything in its folder, shared by the tests of the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from problems import TINY, TINY_RECIPE, blobs, tiny_experts
from short_methods import AST, with_numbers

from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.evaluation.continual import continual
from astdistill.evaluation.dd_ranking import rank
from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.runner import evaluate_all
from astdistill.experiment.presets import preset
from astdistill.methods.initialisation import ExpertLabels
from astdistill.report.experts import record_experts
from astdistill.runtime.files import write_json
from astdistill.runtime.progress import be_quiet
from astdistill.runtime.status import stage

SOFT = with_numbers(AST, batch_syn=None).replace(name="soft", labels=ExpertLabels(), learn=("images", "targets", "lr"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Here figures are drawn."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("drawn")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of learned labels on three classes, two images each, beside a second store of plain experts."""
    be_quiet(True)
    root = tmp_path_factory.mktemp("runs")
    dataset = blobs(validation=0.25)
    plain = TINY_RECIPE.replace(momentum=0.0)
    tiny_experts(root / "experts", dataset, recipe=plain)
    experts, out = tiny_experts(root / "experts", dataset), root / "small"
    settings = DistillSettings(
        iterations=12,
        lr_img=20.0,
        lr_lr=1e-3,
        lr_init=0.05,
        augmentation="flip_scale",
        validate_every=12,
        validate_epochs=2,
        validate_networks=1,
    )
    with stage("distillation", out):
        synthetic = distill(dataset, experts, method=SOFT, ipc=2, settings=settings, out=out)
    record_experts(experts, out)
    write_json(out / "config.json", {**preset("cifar100-ipc1").to_json(), "name": "small <b>"})
    recipe = MTT_PROTOCOL.replace(epochs=3)
    evaluate_all(synthetic, dataset, recipe, [TINY, "convnet-d2-w4"], 2, ("random", "full"), out, workers=1)
    rank(synthetic, dataset, recipe, TINY, 2, out, workers=1)
    continual(synthetic, dataset, 3, recipe, TINY, 2, ("random",), out, workers=1)
    return out
