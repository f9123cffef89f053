"""Time and peak memory of one meta-gradient: the published double backward through the unroll, and the constant-memory walk.

Every (case, variant, repetition) runs in a process of its own, variants interleaved, so that ratios hold on a noisy machine and peaks
are true. Memory is the peak resident size above that of the same process just before the first unroll.

    python benchmarks/unroll.py --json benchmarks/results/unroll-NAME-YYYYMM.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from astdistill.augment import STRATEGY
from astdistill.models import FlatModel, build_model
from astdistill.runs import provenance, write_json
from astdistill.seeds import rng
from astdistill.unroll import Backprop, Estimator, FirstOrder, InnerLoop, Matching, Recompute, Variables, draw_plan

CASES = {f"b50-t{steps}": (50, steps) for steps in (5, 10, 20, 40)} | {"b10-t20": (10, 20), "b100-t10": (100, 10)}
VARIANTS: dict[str, Estimator] = {
    "backprop": Backprop(),
    "recompute": Recompute(),
    "recompute-forward": Recompute(form="forward"),
    "first-order": FirstOrder(),
}


def problem(batch: int, steps: int) -> tuple[InnerLoop, torch.Tensor, Variables, Matching]:
    """A 320,010-parameter ConvNet, `batch` random images of ten classes, momentum 0.9, full DSA."""
    model = FlatModel(build_model("convnet-d3", (3, 32, 32), 10))
    start, generator = model.flatten(), rng(0, "bench")
    images = torch.randn(batch, 3, 32, 32, generator=generator)
    targets = torch.nn.functional.one_hot(torch.arange(batch) % 10, 10).float()
    plan = draw_plan(steps, batch, None, STRATEGY, (3, 32, 32), generator)
    goal = start + 0.01 * torch.randn(len(start), generator=generator)
    scale = 1 / (goal - start).square().sum()
    return InnerLoop(model, plan, 0.9), start, Variables(images, targets, torch.tensor(0.01)), Matching((steps,), goal[None], scale[None])


def peak_mb() -> float:
    """The highest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(case: str, variant: str) -> dict[str, float]:
    """One meta-gradient in this process, after a warm-up of one tiny unroll that loads the kernels."""
    warm = problem(2, 1)
    VARIANTS[variant](*warm)
    batch, steps = CASES[case]
    inner, start, variables, goal = problem(batch, steps)
    idle, began = peak_mb(), time.perf_counter()
    found = VARIANTS[variant](inner, start, variables, goal)
    return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb() - idle, "norm": float(found.images.norm())}


def cosine(case: str, variant: str) -> float:
    """Cosine between the gradient in float32 and back-propagation in float64, over X and η together."""
    inner, start, variables, goal = problem(*CASES[case])
    found = VARIANTS[variant](inner, start, variables, goal)
    double = Variables(variables.images.double(), variables.targets.double(), variables.lr.double())
    goal64 = Matching(goal.at, goal.targets.double(), goal.scales.double())
    exact = Backprop()(inner, start.double(), double, goal64)
    ours, true = (torch.cat([g.images.flatten().double(), g.lr.double().view(1)]) for g in (found, exact))
    return float(torch.nn.functional.cosine_similarity(ours, true, dim=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="default: b50-t5, b50-t10, b50-t20")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="default: backprop, recompute")
    parser.add_argument("-n", type=int, default=5, help="repetitions, each in a process of its own")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    cases, variants = options.case or ["b50-t5", "b50-t10", "b50-t20"], options.variant or ["backprop", "recompute"]
    taken: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(options.n):
        for case in cases:
            for variant in variants:
                words = [sys.executable, __file__, "--one", case, variant]
                result = subprocess.run(words, capture_output=True, text=True, check=True)
                taken.setdefault((case, variant), []).append(json.loads(result.stdout))
    rows = [row(case, variant, runs) for (case, variant), runs in taken.items()]
    print(f"{'case':<10} {'variant':<18} {'seconds':>8} {'spread':>7} {'peak MB':>8} {'cosine':>10}  n")
    for r in rows:
        print(
            f"{r['case']:<10} {r['variant']:<18} {r['seconds']:8.2f} {r['spread']:7.2f} {r['peak_mb']:8.0f} {r['cosine']:10.7f}  {r['n']}"
        )
    if options.json:
        record = provenance() | {"arguments": sys.argv[1:]}
        write_json(options.json, {"bench": "unroll", "machine": record.pop("machine"), "provenance": record, "rows": rows})


def row(case: str, variant: str, runs: list[dict[str, float]]) -> dict[str, float | str]:
    """Median seconds, their range, median peak, and the cosine with the exact gradient."""
    seconds = [run["seconds"] for run in runs]
    return {
        "case": case,
        "variant": variant,
        "seconds": statistics.median(seconds),
        "spread": max(seconds) - min(seconds),
        "peak_mb": statistics.median(run["peak_mb"] for run in runs),
        "n": len(runs),
        "cosine": cosine(case, variant),
    }


if __name__ == "__main__":
    main()
