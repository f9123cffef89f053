"""One entry for each cell of a results table: its settings, the published number, and where that stands."""

from __future__ import annotations

from .data import DataConfig
from .distillation import DistillSettings
from .errors import unknown
from .evaluation import MTT_PROTOCOL
from .experiment import EvaluationSettings, Experiment, ExpertSettings, Published
from .methods import AST, find_method

DIGITS_DSA = "crop_cutout_scale_rotate"
"""DSA without mirrored digits, and without colour operations, which grey digits of one brightness have no use for."""

AST_SETTINGS = (
    "AST (arXiv 2310.10541): settings of its README; its result tables are not available, the peers' best hard-label figure stands in"
)


def _cell(data: str, ipc: int, whiten: str, accuracy: float, **settings: float | int) -> Experiment:
    """One of AST's cells: 100 experts of 50 epochs, ConvNet of depth 3, width 128, η_0 0.01, 5000 iterations."""
    return Experiment(
        name=f"{data}-ipc{ipc}",
        data=DataConfig.model_validate({"source": data, "whiten": whiten}),
        method=AST,
        ipc=ipc,
        distill=DistillSettings.model_validate({"lr_init": 0.01, "iterations": 5000, **settings}),
        published=Published(accuracy=accuracy, source=AST_SETTINGS),
    )


# fmt: off
CELLS = (
    _cell("cifar100",  1, "zca",      26.1, inner_steps=20, matched_epochs=3, max_start_epoch=20, lr_img=1000, lr_lr=1e-5),
    _cell("cifar100", 10, "standard", 44.2, inner_steps=20, matched_epochs=2, max_start_epoch=30, lr_img=1000, lr_lr=1e-5, batch_syn=128),
    _cell("cifar100", 50, "standard", 51.2, inner_steps=80, matched_epochs=2, max_start_epoch=40, lr_img=1000, lr_lr=1e-5, batch_syn=700),
    _cell("cifar10",  10, "zca",      67.7, inner_steps=30, matched_epochs=2, max_start_epoch=20, lr_img=1000, lr_lr=1e-5),
)
# fmt: on

DIGITS = Experiment(
    name="digits-ipc1",
    data=DataConfig(source="digits"),
    model="convnet-d2-w32",
    experts=ExpertSettings(count=4),
    method=AST.replace(expert=AST.expert.replace(epochs=20, lr=0.01, clip_epochs=5, batch=128, augmentation=DIGITS_DSA)),
    ipc=1,
    distill=DistillSettings(
        iterations=300,
        inner_steps=20,
        matched_epochs=2,
        max_start_epoch=10,
        lr_img=10.0,
        lr_lr=1e-6,
        lr_init=0.01,
        augmentation=DIGITS_DSA,
    ),
    evaluation=EvaluationSettings(recipe=MTT_PROTOCOL.replace(epochs=300, full_epochs=30)),
)

CIFAR_TEN = Experiment(
    name="cifar100-ten-ipc10",
    data=DataConfig(source="cifar100", first_classes=10),
    model="convnet-d3-w32",
    experts=ExpertSettings(count=5),
    method=AST.replace(expert=AST.expert.replace(epochs=15)),
    ipc=10,
    distill=DistillSettings(iterations=400, inner_steps=10, matched_epochs=2, max_start_epoch=8, lr_img=1000.0, lr_lr=1e-5),
    evaluation=EvaluationSettings(recipe=MTT_PROTOCOL.replace(epochs=300)),
)

PRESETS: dict[str, Experiment] = {preset.name: preset for preset in (DIGITS, CIFAR_TEN, *CELLS)}


def preset(name: str) -> Experiment:
    """The preset called `name`. Raises InputError with the nearest match."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def with_method(experiment: Experiment, method: str) -> Experiment:
    """The same cell by another method: its decisions, the cell's own expert epochs, batch and augmentation."""
    if find_method(method).name == experiment.method.name:
        return experiment
    found, kept = find_method(method), experiment.method.expert
    expert = found.expert.replace(epochs=kept.epochs, batch=kept.batch, augmentation=kept.augmentation)
    return experiment.replace(method=found.replace(expert=expert))
