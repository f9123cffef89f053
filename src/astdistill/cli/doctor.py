"""`astdistill doctor`: what this machine has, and whether a miniature distillation works on it."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import torch

from ..autodiff.dispatch import EngineName, using
from ..data.loading import load_dataset
from ..distillation.loop import distill
from ..distillation.settings import DistillSettings
from ..experts.training import train_experts
from ..methods.outer_step import TrajectoryMatching
from ..methods.trajectory_matching import AST
from ..runtime.config import PathOrUrl, Record
from ..runtime.files import read_lines
from ..runtime.progress import quietly
from ..runtime.run_dir import RunDir
from ..runtime.terminal import Terminal
from . import doctor_checks as checks
from .commands import command
from .findings import Finding, guarded, table, verdict
from .flags import Word

STEPS, STOPPED, ENDS = 24, 9, 6
"""Outer steps, the step at which the second run is stopped, and the number of steps averaged at each end."""
TRIAL = "self-check"


def trial() -> Iterator[Finding]:
    """Distil digits to ten images on the CPU, once without a stop and once with a stop and a resume. The loss must
    fall, and the results must be bitwise equal."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="astdistill-doctor-") as name, quietly():
        folder = Path(name)
        dataset = load_dataset("digits", per_class=30)
        recipe = AST.recipe.replace(epochs=6, lr=0.01, loss_warmup_epochs=2, batch=64, augmentation="")
        experts = train_experts(
            dataset, model="convnet-d2-w16", recipe=recipe, count=2, store=folder / "experts", workers=1
        )
        method = AST.replace(step=TrajectoryMatching(syn_steps=8, max_start_epoch=3))
        settings = DistillSettings(iterations=STEPS, lr_img=30.0, lr_init=0.05, augmentation="")
        full = distill(dataset, experts, method=method, settings=settings, out=folder / "once")
        distill(dataset, experts, method=method, settings=settings.replace(iterations=STOPPED), out=folder / "twice")
        resumed = distill(dataset, experts, method=method, settings=settings, out=folder / "twice")
        losses = [float(line["loss"]) for line in read_lines(RunDir(folder / "once").metrics)]
    seconds = time.perf_counter() - start
    equal = all(torch.equal(getattr(full, part), getattr(resumed, part)) for part in ("images", "targets", "lr"))
    yield judged(losses, equal, seconds)


def judged(losses: list[float], equal: bool, seconds: float) -> Finding:
    """The finding: good if the losses are finite and fall, and the results after a stop are bitwise equal."""
    first, last = statistics.fmean(losses[:ENDS]), statistics.fmean(losses[-ENDS:])
    if not all(map(math.isfinite, losses)):
        fault = "the loss is not finite"
    elif last >= first:
        fault = f"the loss did not fall ({first:.3f} to {last:.3f})"
    elif not equal:
        fault = "a resumed run does not equal one that was not stopped, to the bit"
    else:
        text = (
            f"ten digits distilled in {seconds:.0f} s: loss {first:.3f} to {last:.3f}, "
            "and a resumed run is equal to the bit"
        )
        return Finding(name=TRIAL, state="good", text=text)
    return Finding(
        name=TRIAL,
        state="bad",
        text=fault,
        advice="try astdistill doctor --engine eager, and report what both say",
    )


class Doctor(Record):
    """Check versions, memory, disks, GPUs, engines, extras and data of this machine, and run a very small distillation:
    half a minute. Exit code 0: it works (– marks what is optional); 1: something must be fixed first."""

    as_json: Annotated[bool, Word(flag="json")] = False
    """Print JSON instead of the table."""
    verify_data: Annotated[tuple[str, ...], Word(metavar="DATA")] = ()
    """Check only these data: read every byte of them and of their cache. A bit error of the disk is found, and the
    cache made again."""
    network: bool = False
    """Also check whether the Hugging Face hub can be reached."""
    engine: EngineName = "auto"
    """How derivatives are computed in the checks; auto takes the fastest."""
    store: PathOrUrl | None = None
    """Check only this folder or address of experts (s3://BUCKET/FOLDER): whether it can be listed and written to."""
    cluster: Annotated[str | None, Word(metavar="auto|HOST:PORT")] = None
    """Check only the nodes of this Ray cluster: versions, engine, instruction set, compiler, shared folder and file
    locks."""


@command("doctor")
def doctor(options: Doctor) -> int:
    """Run the checks, and print the findings. Returns the exit code: 0 if astdistill works on this machine, 1 if
    something must be fixed first."""
    checks_by_name = {
        "versions": checks.versions,
        "memory": checks.memory,
        "disk": checks.disks,
        "GPU": checks.gpus,
        "native engine": checks.kernels,
        "engine": checks.engine,
        "torch.compile": checks.compiler,
        "extras": checks.extras,
        "data": lambda: checks.data(options.network),
        TRIAL: trial,
    }
    if options.verify_data:
        checks_by_name = {f"data {source}": partial(checks.verified, source) for source in options.verify_data}
    if options.store is not None:
        checks_by_name = {"store": partial(checks.store, options.store)}
    if options.cluster is not None:
        checks_by_name = {"cluster": partial(checks.nodes, options.cluster, Path.cwd())}
    findings: list[Finding] = []
    console = Terminal(stderr=True)
    for name, check in checks_by_name.items():
        with console.status(f"looking at: {name}"), using(options.engine):
            findings += guarded(name, check)
    broken = any(finding.state == "bad" for finding in findings)
    if options.as_json:
        print(json.dumps({"works": not broken, "findings": [finding.to_json() for finding in findings]}, indent=2))
    else:
        Terminal(markup=True).print(table(findings))
        Terminal().print(verdict(findings), style="bold", highlight=False)
    return int(broken)
