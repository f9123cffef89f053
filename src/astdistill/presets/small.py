"""Experiments of our own, small enough for two cores: digits, and ten classes of CIFAR-100."""

from __future__ import annotations

from ..data import DataConfig
from ..distillation import DistillSettings
from ..evaluation import MTT_PROTOCOL
from ..experiment import EvaluationSettings, Experiment, ExpertSettings
from ..methods import AST

DIGITS_DSA = "crop_cutout_scale_rotate"
"""DSA without mirrored digits, and without colour operations, which grey digits of one brightness have no use for."""

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
