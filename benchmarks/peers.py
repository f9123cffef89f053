"""The trajectory-matching methods side by side on CIFAR-100's first ten classes, with the same experts' budget and the
same evaluation.

    python benchmarks/peers.py --data path/to/cifar100 --ipc 1 10 --seeds 0 1 2 --json benchmarks/results/NAME.json

Every method gets 5 experts of 15 epochs on 5,000 images; outer steps, T, M and rates are alike, and what it does
otherwise is in METHODS. Every seed draws its own experts, images, plans and evaluation networks. Runs resume; several
processes may share the work, each with other --methods or --seeds, and one with --collect then reads the finished runs
and writes the table. Real images are evaluated once a seed, beside MTT; full data does not depend on any of this
(`table.py cifar100-ten-ipc10`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from table import course, row

from astdistill.evaluation.scores import RowScores, Scores
from astdistill.experiment.config import Experiment
from astdistill.experiment.pipeline import run_experiment
from astdistill.experiment.presets import preset, with_method
from astdistill.methods.initialisation import ExpertLabels, HardLabels
from astdistill.methods.method import Method
from astdistill.methods.segments import GrowingWindow
from astdistill.methods.trajectory_matching import AST, DATM, FTD, MTT, TESLA
from astdistill.runtime.files import read_json, write_json

AVERAGE = 0.99
"""The published 0.999 and 0.9995 average over 1,000 and 2,000 of 5,000 and 10,000 steps; of a few hundred they would
keep the start."""

# fmt: off
METHODS: dict[str, Method] = {
    "mtt":        MTT,
    "ftd":        FTD.replace(ema_decay=AVERAGE),
    "tesla":      TESLA,
    "tesla-hard": TESLA.replace(name="tesla-hard", labels=HardLabels()),
    "datm":       DATM.replace(ema_decay=AVERAGE, sample=GrowingWindow(begins=3, full_by=150)),
    "ast":        AST,
    "ast-soft":   AST.replace(name="ast-soft", labels=ExpertLabels(), learn=("images", "targets", "lr")),
}
STEPS: dict[int, dict[str, Any]] = {
    1:  {"iterations": 1000, "syn_steps": 20},
    10: {"iterations": 400,  "syn_steps": 10},
}
RATES: dict[tuple[str, int], dict[str, float]] = {
    ("ast", 1):        {"lr_init": 1e-3, "lr_lr": 1e-7},
    ("ast-soft", 1):   {"lr_init": 1e-3, "lr_lr": 1e-7},
    ("tesla-hard", 1): {"lr_lr": 1e-7},
}
# fmt: on
"""Where the common rates (η_0 0.01, lr_lr 1e-5) end at once with η near nothing and a loss of no movement. A student of
momentum μ moves by η / (1 − μ), so η_0 (1 − μ) and lr_lr (1 − μ)² are the same rates to it; 1e-7 is what TESLA
publishes for one image per class."""


def cell(options: argparse.Namespace, method: str, ipc: int, seed: int) -> Experiment:
    """One run of the table."""
    whole = preset("cifar100-ten-ipc10")
    step = whole.method.step.replace(syn_steps=STEPS[ipc]["syn_steps"], expert_epochs=2, max_start_epoch=8)
    own = METHODS[method].replace(expert=_budget(whole, METHODS[method]), step=step)
    whole = with_method(whole, "mtt").replace(method=own)
    whole = whole.replace(
        name=f"cifar100-ten-ipc{ipc}-{method}",
        data=whole.data.replace(source=str(options.data)),
        experts=whole.experts.replace(seed=seed, store=options.out / "experts"),
        ipc=ipc,
        seed=seed,
        distill=whole.distill.replace(iterations=STEPS[ipc]["iterations"], **RATES.get((method, ipc), {})),
        evaluation=whole.evaluation.replace(baselines=("random", "kmeans") if method == "mtt" else ()),
        workers=options.workers,
    )
    return whole if options.scale == "full" else _tiny(whole)


def _budget(whole: Experiment, method: Method) -> Any:
    kept = whole.method.expert
    return method.expert.replace(epochs=kept.epochs, batch=kept.batch, augmentation=kept.augmentation)


def _tiny(whole: Experiment) -> Experiment:
    return whole.replace(
        data=whole.data.replace(per_class=12, first_classes=None),
        model="convnet-d2-w4",
        experts=whole.experts.replace(count=2),
        method=whole.method.replace(
            expert=whole.method.expert.replace(epochs=4, batch=16),
            step=whole.method.step.replace(syn_steps=4, max_start_epoch=2 + (whole.method.name == "datm")),
        ),
        distill=whole.distill.replace(iterations=2, lr_img=1.0),
        evaluation=whole.evaluation.replace(
            recipe=whole.evaluation.recipe.replace(epochs=2, full_epochs=1), networks=2
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--ipc", nargs="+", type=int, choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--collect", action="store_true", help="read finished run folders, run nothing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tables = [table(options, ipc) for ipc in options.ipc]
    if options.json:
        write_json(options.json, {"bench": "peers", "scale": options.scale, "tables": tables})


def table(options: argparse.Namespace, ipc: int) -> dict[str, Any]:
    """All rows of one number of images per class, run or read, and printed."""
    entries: dict[str, list[RowScores]] = {}
    settings, courses, origin = {}, {}, {}
    for seed in options.seeds:
        for method in options.methods:
            experiment = cell(options, method, ipc, seed)
            folder = options.out / f"{experiment.name}-{seed}"
            if options.collect and not (folder / "scores.json").exists():
                print(f"{folder.name} is not finished and left out", flush=True)
                continue
            scores = Scores.read(folder) if options.collect else run_experiment(experiment, folder)
            here = read_json(folder / "provenance.json")
            origin = origin or here
            settings[method] = {"method": experiment.method.to_json(), "distill": experiment.distill.to_json()}
            courses[folder.name] = course(folder) | {"commit": here["commit"]}
            found = {method: next(iter(scores.architecture.values())), **scores.baselines}
            for name, entry in found.items():
                entries.setdefault(name, []).append(entry)
            print(f"{folder.name}: " + ", ".join(f"{name} {entry.text}" for name, entry in found.items()), flush=True)
    rows = [row(name, found) for name, found in entries.items()]
    for each in rows:
        spread = "" if each["std"] is None else f" ± {each['std']:.1f}"
        print(f"| {ipc} | {each['row']} | {each['mean']:.1f}{spread} | {each['n']} |", flush=True)
    origin = {name: value for name, value in origin.items() if name not in ("arguments", "resumed")}
    protocol = cell(options, options.methods[0], ipc, 0).evaluation.recipe.to_json()
    return {"ipc": ipc, "provenance": origin, "protocol": protocol, "rows": rows, "runs": courses, "settings": settings}


if __name__ == "__main__":
    main()
