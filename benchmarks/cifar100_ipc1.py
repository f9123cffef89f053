"""CIFAR-100, one image per class, AST: from raw images to evaluated networks, in pieces of less than ten minutes.

    python benchmarks/cifar100_ipc1.py --data path/to/cifar100 --out FOLDER --json benchmarks/results/NAME.json

Run the same command again until it ends with 0: each piece stops by itself before `--seconds` are over (or on SIGTERM),
with code 75, and the next one resumes there. Seconds are counted over all pieces, starts and work lost at a
stop included.

The stages run in a child process, which is killed at the deadline: every stage of the package resumes after a kill.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from pieces import STOPPED, Clock, Watch, piece, write

STAGES = ("start", "experts", "distillation", "evaluation", "baselines", "report")


def counted(out: Path) -> dict[str, int]:
    """The finished units of each stage: expert epochs, outer steps, networks."""
    epochs = sum(len(path.read_bytes().splitlines()) for path in (out / "experts").glob("*/log.jsonl"))
    metrics, scores = out / "run" / "metrics.jsonl", out / "run" / "scores.json"
    found = {"experts": epochs, "distillation": len(metrics.read_bytes().splitlines()) if metrics.exists() else 0}
    if scores.exists():
        rows = json.loads(scores.read_text(encoding="utf-8"))
        found["evaluation"] = sum(row["n"] for row in rows["architecture"].values())
        found["baselines"] = sum(row["n"] for row in rows["baselines"].values())
    return found


def stages(out: Path) -> list[dict[str, Any]]:
    """One row per stage: seconds over all pieces, finished units, seconds per unit, peak memory."""
    spent, done = Clock(out, STAGES).seconds(), counted(out)
    peaks = json.loads((out / "peaks.json").read_text(encoding="utf-8")) if (out / "peaks.json").exists() else {}
    rows = []
    for stage in STAGES:
        units = done.get(stage, 0)
        each = round(spent[stage] / units, 4) if units else None
        rows.append(
            {"stage": stage, "seconds": round(spent[stage], 1), "units": units, "seconds_per_unit": each}
            | peaks.get(stage, {})
        )
    return rows


UNITS = {"experts": "expert epochs", "distillation": "outer steps", "evaluation": "networks", "baselines": "networks"}


def show(out: Path) -> None:
    """Print the table of stages so far."""
    print(f"{'stage':<14} {'seconds':>9} {'done':>7} {'':<14} {'s each':>9} {'peak GPU MB':>12}")
    for row in stages(out):
        each = "" if row["seconds_per_unit"] is None else f"{row['seconds_per_unit']:.4f}"
        peak = "" if row.get("peak_gpu_mb") is None else f"{row['peak_gpu_mb']:.0f}"
        print(
            f"{row['stage']:<14} {row['seconds']:9.1f} {row['units'] or '':>7} {UNITS.get(row['stage'], ''):<14} "
            f"{each:>9} {peak:>12}"
        )
    clock = Clock(out, STAGES)
    print(f"together {sum(clock.seconds().values()):.1f} s in {clock.pieces} piece(s)", flush=True)


def cell(options: argparse.Namespace) -> Any:
    """The preset cifar100-ipc1 with 50 experts, or the same stages at toy size."""
    from astdistill.experiment.presets import preset

    full = preset("cifar100-ipc1")
    full = full.replace(
        device=_device(options.device),
        data=full.data.replace(source=str(options.data)),
        experts=full.experts.replace(count=50, store=options.out / "experts"),
        # Fifty epochs of full data, as the experts have: a thousand, the protocol's epochs on few images, would take
        # longer than the rest.
        evaluation=full.evaluation.replace(
            recipe=full.evaluation.recipe.replace(full_epochs=50), baselines=("random", "kmeans", "full")
        ),
        distill=full.distill.replace(checkpoint_seconds=5.0),
    )
    if options.scale == "full":
        return full
    return full.replace(
        data=full.data.replace(per_class=8),
        model="convnet-d2-w4",
        experts=full.experts.replace(count=2),
        method=full.method.replace(
            expert=full.method.expert.replace(epochs=4, batch=16),
            step=full.method.step.replace(syn_steps=4, expert_epochs=2, max_start_epoch=2),
        ),
        distill=full.distill.replace(iterations=3, lr_img=1.0),
        evaluation=full.evaluation.replace(recipe=full.evaluation.recipe.replace(epochs=2, full_epochs=1), networks=2),
    )


def _device(requested: str | None) -> str:
    import torch

    return requested or ("cuda" if torch.cuda.is_available() else "cpu")


def work(options: argparse.Namespace) -> None:
    """Run every stage in order, each resumed from the files in `out`; write `result.json` at the end."""
    from astdistill.experiment.pipeline import obtain_experts, obtain_scores, obtain_synthetic, prepare

    clock, out = Clock(options.out, STAGES), options.out / "run"
    experiment = cell(options)
    watch = Watch(options.out, experiment.device, STAGES[0])
    dataset = prepare(experiment, out)

    def enter(stage: str) -> None:
        clock.mark(stage)
        watch.enter(stage)

    enter("experts")
    experts = obtain_experts(experiment, dataset)
    quality = expert_quality(experts.curves())
    print(
        "experts: " + "; ".join(f"{name} {value}" for name, value in quality.items() if not isinstance(value, list)),
        flush=True,
    )
    enter("distillation")
    synthetic = obtain_synthetic(experiment, dataset, experts, out)
    enter("evaluation")
    alone = experiment.replace(evaluation=experiment.evaluation.replace(baselines=()))
    scores = obtain_scores(alone, dataset, synthetic, out)
    print(
        f"distilled: {scores.mean:.2f} % of test images, n = {next(iter(scores.architecture.values())).n}", flush=True
    )
    enter("baselines")
    scores = obtain_scores(experiment, dataset, synthetic, out)
    enter("report")
    for name, entry in {experiment.method.name: next(iter(scores.architecture.values())), **scores.baselines}.items():
        print(f"| {name} | {entry.text} | {entry.n} |", flush=True)
    write(options.out / "result.json", record(experiment, scores, quality, out))


def expert_quality(curves: list[Any]) -> dict[str, Any]:
    """Accuracy and smoothness of the experts: medians over experts, with the range over experts or epochs."""
    from statistics import median

    final = [curve.test_accuracy[-1] for curve in curves]
    by_epoch = [median(steps) for steps in zip(*(curve.step_squared for curve in curves), strict=True)]
    return {
        "n": len(final),
        "test_accuracy_median": round(median(final), 2),
        "test_accuracy_range": f"{min(final):.2f} to {max(final):.2f}",
        "step_squared_median": round(median(by_epoch), 4),
        "step_squared_range_over_epochs": f"{min(by_epoch):.4f} to {max(by_epoch):.4f}",
        "test_accuracy_by_epoch": [
            round(median(values), 2) for values in zip(*(curve.test_accuracy for curve in curves), strict=True)
        ],
        "step_squared_by_epoch": [round(value, 5) for value in by_epoch],
    }


def record(experiment: Any, scores: Any, quality: dict[str, Any], out: Path) -> dict[str, Any]:
    """The result without the seconds: machine, versions, commit, settings, experts and rows with n and spread."""
    from astdistill.runtime.files import read_lines
    from astdistill.runtime.provenance import provenance

    origin = provenance(experiment.device)
    origin.pop("arguments")
    rows = [{"row": name} | entry.to_json() for name, entry in {**scores.architecture, **scores.baselines}.items()]
    rows[0] |= {"row": experiment.method.name}
    lines = read_lines(out / "metrics.jsonl")
    course = {"iterations": len(lines), "loss_last": lines[-1]["loss"], "lr_last": lines[-1]["lr"]}
    return {
        "bench": "cifar100-ipc1",
        "machine": origin.pop("machine"),
        "provenance": origin,
        "protocol": scores.recipe.to_json(),
        "distill": experiment.distill.to_json(),
        "distillation": course | {"skipped": sum("skipped" in line for line in lines)},
        "expert_recipe": experiment.method.expert.to_json(),
        "experts": quality,
        "rows": rows,
        "published": experiment.published.to_json(),
    }


def main() -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder of CIFAR-100 as parquet files, or an .npz file"
    )
    parser.add_argument("--out", type=Path, required=True, help="experts, run and clock; the same folder goes on")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--seconds", type=float, default=560.0, help="a piece ends before so many seconds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return _run_child(options)
    options.out.mkdir(parents=True, exist_ok=True)
    before, clock = counted(options.out), Clock(options.out, STAGES)
    (options.out / "result.json").unlink(missing_ok=True)
    code = piece(
        [sys.executable, __file__, *sys.argv[1:], "--child"], clock, options.seconds - min(5.0, options.seconds / 5)
    )
    show(options.out)
    if code == STOPPED:
        note = "" if counted(options.out) != before else " Nothing was finished in this piece: give it more --seconds."
        print(f"Stopped after {time.monotonic() - began:.0f} s; run the same command again to go on.{note}")
    if code == 0 and options.json:
        result = json.loads((options.out / "result.json").read_text(encoding="utf-8"))
        total = {"seconds": round(sum(clock.seconds().values()), 1), "pieces": clock.pieces, "scale": options.scale}
        write(options.json, result | total | {"stages": stages(options.out)})
    return code


def _run_child(options: argparse.Namespace) -> int:
    """Run `work`, print wrong settings and diverged runs as one sentence, and return the exit code."""
    from astdistill.runtime.errors import DivergedError, InputError

    try:
        work(options)
    except (InputError, DivergedError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
