"""A finished run of a published benchmark setting: its row of the results, and its distilled set for publication.

    python benchmarks/published_rows.py runs/NAME --experts experts/DIGEST --label MTT \
        --json benchmarks/results/published-cells-NAME.json --sets docs/sets

The row holds the accuracy of every network, experts and outer steps, hours, threads and memory, and the machine and
commit of the run. A row of the same setting and label is replaced. `--sets` writes the set without the matrix of its
whitening, its scores and its picture.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from astdistill.data.synthetic import load
from astdistill.evaluation.scores import RowScores, Scores
from astdistill.experiment.config import Experiment
from astdistill.experiment.presets import preset
from astdistill.experts.store import TrajectoryStore
from astdistill.report.pictures import save_grid
from astdistill.runtime.files import read_json, read_lines, write_json
from astdistill.runtime.run_dir import RunDir
from astdistill.runtime.tables import deviation

STAGES = "experts", "distillation", "evaluation"
COMPARED = "data.whiten", "model", "method", "ipc", "distill"
"""The settings that define a published benchmark setting; the paths of the data and of the store do not."""


def row(run: RunDir, store: Path, label: str) -> dict[str, Any]:
    """The row of a run. Raises InputError for files that cannot be read."""
    experiment = Experiment.model_validate(read_json(run.config))
    scores, origin, experts = Scores.read(run.folder), read_json(run.provenance), TrajectoryStore.open(store)
    usual = preset(experiment.name)
    clock = list(read_lines(run.clock))
    steps = [line["seconds"] for line in clock if "iteration" in line]
    last = list(read_lines(run.metrics))[-1]
    curves = experts.curves()[: experiment.experts.count]
    accuracies = [curve.test_accuracy[-1] for curve in curves]
    published = usual.published
    return {
        "preset": experiment.name,
        "label": label,
        "changed": changed(usual, experiment),
        "experts": {
            "count": experiment.experts.count,
            "epochs": min(len(curve.test_accuracy) for curve in curves),
            "test_accuracy": {"mean": statistics.fmean(accuracies), "std": deviation(accuracies)},
        },
        "iterations": experiment.distill.iterations,
        "iterations_published": usual.distill.iterations,
        "loss_last": last["loss"],
        "lr_last": last["lr"],
        "seconds": {stage: sum(of(clock, stage, "seconds")) for stage in STAGES if of(clock, stage, "seconds")},
        "seconds_per_step_median": statistics.median(steps),
        "peak_mib": max(of(clock, "distillation", "peak_mib")),
        "machine": origin["machine"],
        "commit": origin["commit"],
        "resumed": [{"commit": each["commit"], "threads": each["machine"]["threads"]} for each in origin["resumed"]],
        "published": published.accuracy if published else None,
        "protocol": scores.recipe.to_json(),
        "distilled": networks(next(iter(scores.architecture.values()))),
        "baselines": {name: networks(entry) for name, entry in scores.baselines.items()},
    }


def of(clock: list[dict[str, Any]], stage: str, name: str) -> list[float]:
    """One number of every call that took part in a stage."""
    return [line[name] for line in clock if line.get("stage") == stage]


def networks(entry: RowScores) -> dict[str, Any]:
    """The accuracies of the networks of one row."""
    return {"final": list(entry.final), "mean": entry.mean, "std": entry.std, "n": entry.n}


def changed(usual: Experiment, experiment: Experiment) -> dict[str, Any]:
    """The values of a run that differ from those of its preset, by their dotted names."""
    actual, expected = (dict(flat(each.to_json())) for each in (experiment, usual))
    return {name: value for name, value in actual.items() if name.startswith(COMPARED) and expected.get(name) != value}


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of nested records, by their names joined by dots."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def publish(run: RunDir, folder: Path, name: str) -> None:
    """Write the set for publication, its scores and its picture."""
    synthetic = load(run.folder)
    synthetic.published().compact().save(folder / f"{name}.safetensors")
    shutil.copyfile(run.scores, folder / f"{name}.scores.json")
    save_grid(synthetic, folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--experts", type=Path, required=True, help="the folder of the store that the run followed")
    parser.add_argument("--label", required=True, help="the name of the method in the table")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sets", type=Path)
    parser.add_argument("--name", help="of the set; that of the preset where it is left out")
    options = parser.parse_args()
    new = row(RunDir(options.run), options.experts, options.label)
    rows = []
    if options.json.exists():
        rows = read_json(options.json)["rows"]
    rows = [each for each in rows if (each["preset"], each["label"]) != (new["preset"], new["label"])]
    write_json(options.json, {"bench": "published-cells", "rows": [*rows, new]})
    if options.sets:
        publish(RunDir(options.run), options.sets, options.name or new["preset"])
    print(json.dumps(new, indent=1))


if __name__ == "__main__":
    main()
