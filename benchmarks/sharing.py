"""Seconds of an outer step of four trajectories, in one process and shared by two workers of one thread each.

    python benchmarks/sharing.py --data path/to/cifar100 -n 3 --json benchmarks/results/NAME.json

MTT, T 10, M 2, ConvNet-D3 of width 128, ten images of 32 × 32; runs in turn, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from astdistill.data.dataset import Dataset
from astdistill.data.loading import load_dataset
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.experts.store import TrajectoryStore
from astdistill.experts.training import train_experts
from astdistill.methods.method import Method
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.methods.trajectory_matching import MTT
from astdistill.runtime.files import read_lines, write_json
from astdistill.runtime.machine import load
from astdistill.runtime.provenance import provenance, without_places
from astdistill.runtime.run_dir import RunDir

WORKERS = (1, 2)
FIRST = 2
"""Outer steps at the beginning that are not counted, as workers start and memory is touched for the first time."""


def step_seconds(dataset: Dataset, experts: TrajectoryStore, method: Method, workers: int, steps: int) -> float:
    """The median of the outer steps of one run, by `workers` workers of one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        settings = DistillSettings(iterations=FIRST + steps, lr_img=10.0, snapshots=False)
        out = Path(folder) / "run"
        distill(dataset, experts, method=method, ipc=1, settings=settings, out=out, workers=workers, threads=workers)
        seconds = [line["seconds"] for line in read_lines(RunDir(out).clock) if "iteration" in line]
    return statistics.median(seconds[FIRST:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="such as CIFAR-100")
    parser.add_argument("--classes", type=int, default=10, help="the first classes, which are used")
    parser.add_argument("-n", type=int, default=3, help="runs of each")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--model", default="convnet-d3")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(options.data, first_classes=options.classes, per_class=30)
    step = TrajectoryMatching(syn_steps=10, expert_epochs=2, max_start_epoch=2, trajectories=4)
    recipe = MTT.recipe.replace(epochs=4)
    before, seconds = load(), dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as store:
        experts = train_experts(dataset, model=options.model, recipe=recipe, count=2, store=store, workers=1)
        for _ in range(options.n):
            for workers in WORKERS:
                taken = step_seconds(dataset, experts, MTT.replace(step=step), workers, options.steps)
                seconds.setdefault(str(workers), []).append(taken)
    one, two = (seconds[str(workers)] for workers in WORKERS)
    row: dict[str, Any] = {"seconds_by_workers": seconds, "n": options.n, "steps": options.steps, "load": before}
    row |= {"model": options.model, "ratio": [a / b for a, b in zip(one, two, strict=True)]}
    print(row)
    if options.json:
        write_json(options.json, {"bench": "sharing", **without_places(provenance()), "rows": [row]})


if __name__ == "__main__":
    main()
