"""Runs with a validation part, side by side: how well networks trained on their sets do on the held-out images.

    python benchmarks/held_out.py runs/A runs/B --json benchmarks/results/NAME.json

A row holds what a run changed of its preset, its experts, the mean accuracies that it measured on the way, and the
accuracy of every network trained on its last set. The networks are those of its own validations, the same for all runs
of one seed, so that runs are compared network by network. Test images are not looked at.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

from published_rows import changed, networks

from astdistill.autodiff.dispatch import computing
from astdistill.data.loading import load_dataset
from astdistill.data.synthetic import load
from astdistill.distillation.loop import validation_scores
from astdistill.experiment.config import Experiment
from astdistill.experiment.presets import preset
from astdistill.runtime.files import read_json, read_lines, write_json
from astdistill.runtime.run_dir import RunDir


def row(run: RunDir) -> dict[str, Any]:
    """The row of a run. Raises SystemExit if the last validation of the run cannot be repeated."""
    experiment, origin = Experiment.model_validate(read_json(run.config)), read_json(run.provenance)
    settings, dataset = experiment.distill, load_dataset(experiment.data)
    lines = list(read_lines(run.metrics))
    measured = {line["iteration"] + 1: line["validation"] for line in lines if "validation" in line}
    synthetic = load(run.folder / "last.safetensors")
    with computing(experiment.engine, origin["machine"]["threads"]):
        last = networks(validation_scores(synthetic, dataset, settings, experiment.seed))
    if not math.isclose(last["mean"], measured[len(lines)], abs_tol=0.001):
        raise SystemExit(
            f"{run.folder} measured {measured[len(lines)]} % after its last step, and now {last['mean']} %"
        )
    steps = [line["seconds"] for line in read_lines(run.clock) if "iteration" in line]
    return {
        "preset": experiment.name,
        "changed": changed(preset(experiment.name), experiment),
        "experts": experiment.experts.count,
        "max_start_epoch": read_json(run.config)["method"]["step"]["max_start_epoch"],
        "lr_img": settings.lr_img,
        "iterations": settings.iterations,
        "validation": measured,
        "last": last,
        "held_out_images": len(dataset.validation or ()),
        "seconds_per_step_median": statistics.median(steps),
        "machine": origin["machine"],
        "commit": origin["commit"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    write_json(options.json, {"bench": "held-out", "rows": [row(RunDir(folder)) for folder in options.runs]})


if __name__ == "__main__":
    main()
