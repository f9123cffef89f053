"""One entry for each cell of a results table: its settings, the published number, and where that stands."""

from __future__ import annotations

from .data import DataConfig
from .distillation import DistillSettings
from .errors import unknown
from .evaluation import MTT_PROTOCOL
from .experiment import EvaluationSettings, Experiment, ExpertSettings, Published
from .methods import AST, DATM, FTD, MTT, TESLA, Method, find_method
from .methods.parts import GrowingWindow, LossThreshold

DIGITS_DSA = "crop_cutout_scale_rotate"
"""DSA without mirrored digits, and without colour operations, which grey digits of one brightness have no use for."""

SOURCES = {
    "ast": "AST (arXiv 2310.10541): settings of its README; its tables are not available, the peers' best hard-label figure stands in",
    "mtt": "MTT (arXiv 2203.11932), as given by FTD and DATM",
    "ftd": "FTD (arXiv 2211.11004); the rates are those of MTT's CIFAR-100 cells",
    "tesla": "TESLA (arXiv 2211.10586), as quoted by ATT, PAD and NCFM",
    "datm": "DATM (arXiv 2310.05773), learned soft labels",
}


def _cell(
    method: Method, data: str, ipc: int, whiten: str, accuracy: float | None, steps: tuple[int, int, int], **settings: float | int
) -> Experiment:
    """One published cell: 100 experts, ConvNet of depth 3, width 128, η_0 0.01, 5000 iterations where the settings say no other.

    `steps` are T, M and the bound of start epochs.
    """
    inner_steps, matched_epochs, max_start_epoch = steps
    settings = {"inner_steps": inner_steps, "matched_epochs": matched_epochs, "max_start_epoch": max_start_epoch, **settings}
    return Experiment(
        name=f"{data}-ipc{ipc}" + ("" if method.name == AST.name else f"-{method.name}"),
        data=DataConfig.model_validate({"source": data, "whiten": whiten}),
        method=method,
        ipc=ipc,
        distill=DistillSettings.model_validate({"lr_init": 0.01, "iterations": 5000, **settings}),
        published=Published(accuracy=accuracy, source=SOURCES[method.name]),
    )


def _datm(
    data: str,
    ipc: int,
    accuracy: float | None,
    steps: tuple[int, int, int, int],
    grows: tuple[int | None, int],
    average: float,
    threshold: float,
    **settings: float | int,
) -> Experiment:
    """One of DATM's cells: 10000 iterations; `steps` are T, M and the window of start epochs, `grows` its first bound and its last step."""
    inner_steps, matched_epochs, lower, upper = steps
    sample = GrowingWindow(lower=lower, begins=grows[0], full_by=grows[1])
    method = DATM.replace(sample=sample, accept=LossThreshold(threshold=threshold), average=average)
    return _cell(method, data, ipc, "zca", accuracy, (inner_steps, matched_epochs, upper), iterations=10000, **settings)


WHOLE = None, 0
"""A window of start epochs that does not grow."""

# fmt: off
CELLS = (
    _cell(AST,   "cifar100",  1, "zca",      26.1, (20, 3, 20), lr_img=1000, lr_lr=1e-5),
    _cell(AST,   "cifar100", 10, "standard", 44.2, (20, 2, 30), lr_img=1000, lr_lr=1e-5, batch_syn=128),
    _cell(AST,   "cifar100", 50, "standard", 51.2, (80, 2, 40), lr_img=1000, lr_lr=1e-5, batch_syn=700),
    _cell(AST,   "cifar10",  10, "zca",      67.7, (30, 2, 20), lr_img=1000, lr_lr=1e-5),
    _cell(MTT,   "cifar100",  1, "zca",      24.3, (20, 3, 20), lr_img=1000, lr_lr=1e-5),
    _cell(MTT,   "cifar100", 50, "zca",      47.7, (80, 2, 40), lr_img=1000, lr_lr=1e-5, batch_syn=125),
    _cell(FTD,   "cifar100", 10, "zca",      43.4, (20, 2, 40), lr_img=1000, lr_lr=1e-5),
    _cell(TESLA, "cifar10",   1, "zca",      48.5, (50, 2, 5),  lr_img=1000, lr_lr=1e-7),
    _cell(TESLA, "cifar100", 50, "zca",      47.9, (80, 2, 40), lr_img=1000, lr_lr=1e-5, batch_syn=125),
    _datm("cifar10",     1, 46.9, (80,  2, 0,  4),  WHOLE,      0.995,  1.1, lr_img=100,  lr_targets=5,  lr_lr=1e-7, batch_syn=10),
    _datm("cifar10",    10, 66.8, (80,  2, 0,  20), (10, 1000), 0.9995, 1.0, lr_img=100,  lr_targets=2,  lr_lr=1e-5, batch_syn=100),
    _datm("cifar10",    50, 76.1, (80,  2, 0,  40), (20, 2000), 0.995,  1.0, lr_img=1000, lr_targets=2,  lr_lr=1e-5, batch_syn=500),
    _datm("cifar10",   500, None, (40,  2, 40, 60), WHOLE,      0.995,  1.0, lr_img=50,   lr_targets=10, lr_lr=1e-5, batch_syn=1000),
    _datm("cifar10",  1000, None, (100, 2, 40, 60), WHOLE,      0.995,  1.0, lr_img=50,   lr_targets=10, lr_lr=1e-5, batch_syn=1000),
    _datm("cifar100",    1, 27.9, (40,  3, 0,  20), (10, 1000), 0.9995, 1.0, lr_img=1000, lr_targets=10, lr_lr=1e-5, batch_syn=1000),
    _datm("cifar100",   10, 47.2, (80,  2, 0,  50), (30, 2000), 0.9995, 1.0, lr_img=1000, lr_targets=10, lr_lr=1e-5, batch_syn=1000),
    _datm("cifar100",   50, 55.0, (80,  2, 20, 70), WHOLE,      0.9995, 1.0, lr_img=1000, lr_targets=10, lr_lr=1e-5, batch_syn=1000),
    _datm("cifar100",  100, None, (80,  2, 30, 70), WHOLE,      0.9995, 1.0, lr_img=50,   lr_targets=10, lr_lr=1e-5, batch_syn=1000),
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
