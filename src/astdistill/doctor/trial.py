"""The self-check: a miniature distillation from data to images, stopped and resumed."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ..data import load_dataset
from ..distillation import DistillSettings, distill
from ..experts import train_experts
from ..methods import AST
from ..progress import quietly
from ..runs import read_lines
from .findings import Finding

STEPS, STOPPED, ENDS = 24, 9, 6
"""Outer steps, where the second run is stopped, and how many steps are averaged at each end."""
NAME = "self-check"


def trial() -> Iterator[Finding]:
    """Distils digits to ten images on the CPU, once in one go and once in two: the loss must fall, and the bits must agree."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="astdistill-doctor-") as name, quietly():
        folder = Path(name)
        dataset = load_dataset("digits", per_class=30)
        recipe = AST.expert.replace(epochs=6, lr=0.01, clip_epochs=2, batch=64, augmentation="")
        experts = train_experts(dataset, model="convnet-d2-w16", recipe=recipe, count=2, store=folder / "experts", workers=1)
        settings = DistillSettings(iterations=STEPS, inner_steps=8, max_start_epoch=3, lr_img=30.0, lr_init=0.05, augmentation="")
        once = distill(dataset, experts, method=AST, settings=settings, out=folder / "once")
        distill(dataset, experts, method=AST, settings=settings.replace(iterations=STOPPED), out=folder / "twice")
        twice = distill(dataset, experts, method=AST, settings=settings, out=folder / "twice")
        losses = [float(line["loss"]) for line in read_lines(folder / "once" / "metrics.jsonl")]
    seconds = time.perf_counter() - began
    equal = all(torch.equal(getattr(once, part), getattr(twice, part)) for part in ("images", "targets", "lr"))
    yield judged(losses, equal, seconds)


def judged(losses: list[float], equal: bool, seconds: float) -> Finding:
    """The finding: finite losses, lower at the end than at the start, and equal bits after a stop."""
    first, last = statistics.fmean(losses[:ENDS]), statistics.fmean(losses[-ENDS:])
    if not all(map(math.isfinite, losses)):
        fault = "the loss is not finite"
    elif last >= first:
        fault = f"the loss did not fall ({first:.3f} to {last:.3f})"
    elif not equal:
        fault = "a resumed run ended with other bits than one that was not stopped"
    else:
        text = f"ten digits distilled in {seconds:.0f} s: loss {first:.3f} to {last:.3f}, and a resumed run ended bit-equal"
        return Finding(name=NAME, state="good", text=text)
    return Finding(name=NAME, state="bad", text=fault, advice="try ASTDISTILL_ENGINE=eager astdistill doctor, and report what both say")
