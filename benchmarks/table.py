"""One results table: a preset by several methods and whole-run seeds, with its baselines, as JSON and Markdown.

Every seed draws its own experts, initial images, plans, evaluation networks and baseline images. Runs resume; with
--collect finished run folders are only read. Baselines come from the first method's runs, since they do not depend on
  the method.

    python benchmarks/table.py digits-ipc1 --seeds 0 1 2 --json benchmarks/results/NAME.json
    python benchmarks/table.py cifar100-ten-ipc10 --methods mtt ast ast-as-released --data path/to/cifar100 --json …
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from astdistill.evaluation.scores import RowScores, Scores
from astdistill.experiment.config import EvaluationSettings, Experiment
from astdistill.experiment.pipeline import run_experiment
from astdistill.experiment.presets import preset, with_method
from astdistill.runtime.files import read_json, read_lines, write_json


def experiment(
    name: str, method: str | None, seed: int, data: str | None, experts: Path, baselines: bool
) -> Experiment:
    """The preset by one method and seed; its store of experts depends on the seed too."""
    cell = preset(name)
    cell = with_method(cell, method) if method else cell
    cell = cell.replace(seed=seed, experts=cell.experts.replace(seed=seed, store=experts))
    if data:
        cell = cell.replace(data=cell.data.replace(source=data))
    names = cell.evaluation.baselines if baselines else ()
    return cell.replace(evaluation=EvaluationSettings.model_validate(dict(cell.evaluation) | {"baselines": names}))


def row(name: str, entries: list[RowScores]) -> dict[str, Any]:
    """One row over all networks of all seeds."""
    finals = [value for entry in entries for value in entry.final]
    by_seed = [statistics.fmean(entry.final) for entry in entries]
    return {
        "row": name,
        "mean": statistics.fmean(finals),
        "std": statistics.stdev(finals) if len(finals) > 1 else None,
        "n": len(finals),
        "seeds": len(entries),
        "mean_by_seed": by_seed,
        "final": [list(entry.final) for entry in entries],
        "diverged": sum(entry.diverged for entry in entries),
    }


def course(folder: Path) -> dict[str, Any]:
    """A summary of a distillation: first and last losses, the learned rate, skipped steps."""
    lines = read_lines(folder / "metrics.jsonl")
    losses = [float(line["loss"]) for line in lines]
    tenth = max(1, len(losses) // 10)
    return {
        "iterations": len(lines),
        "loss_first_tenth": statistics.fmean(losses[:tenth]),
        "loss_last_tenth": statistics.fmean(losses[-tenth:]),
        "lr_last": lines[-1]["lr"],
        "skipped": sum("skipped" in line for line in lines),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--methods", nargs="+", default=[None], help="default: the preset's own")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data", help="where the data lies")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--experts", type=Path, default=Path("experts"))
    parser.add_argument("--collect", action="store_true", help="read finished run folders, run nothing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    collected: dict[str, list[RowScores]] = {}
    courses: dict[str, Any] = {}
    origin: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for first, method in zip([True] + [False] * len(options.methods), options.methods, strict=False):
        for seed in options.seeds:
            cell = experiment(options.preset, method, seed, options.data, options.experts, baselines=first)
            folder = options.runs / f"{cell.name}-{cell.method.name}-{seed}"
            began = time.monotonic()
            scores = Scores.read(folder) if options.collect else run_experiment(cell, folder)
            seconds[folder.name] = round(time.monotonic() - began, 1)
            collected.setdefault(cell.method.name, []).extend(scores.architecture.values())
            for name, entry in scores.baselines.items() if first else ():
                collected.setdefault(name, []).append(entry)
            run_origin = read_json(folder / "provenance.json")
            origin = origin or run_origin
            courses[folder.name] = course(folder) | {"commit": run_origin["commit"]}
    rows = [row(name, entries) for name, entries in collected.items()]
    for each in rows:
        spread = "" if each["std"] is None else f" ± {each['std']:.1f}"
        print(f"| {each['row']} | {each['mean']:.1f}{spread} | {each['n']} |")
    if options.json:
        recipe = preset(options.preset).evaluation.recipe.to_json()
        origin = {name: value for name, value in origin.items() if name not in ("arguments", "resumed")}
        settings = preset(options.preset).distill.to_json()
        record = {
            "bench": "table",
            "preset": options.preset,
            "machine": origin.pop("machine"),
            "provenance": origin,
            "protocol": recipe,
        }
        write_json(
            options.json,
            record
            | {
                "distill": settings,
                "rows": rows,
                "runs": courses,
                "wall_seconds_of_this_call": {} if options.collect else seconds,
            },
        )


if __name__ == "__main__":
    main()
