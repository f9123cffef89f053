"""Rates that `astdistill tune` finds from ones that are wrong by 100 times, and those chosen by hand, as JSON.

The folders are only read; they come from commands such as these, the last two of which share seeds and experts:

    astdistill tune digits-ipc1 --distill.lr-init 1 --distill.lr-lr 1e-4 --distill.lr-img 1000 --out up
    astdistill run --config up/tuned.yaml --seeds 3 --out tuned
    astdistill run digits-ipc1 --seeds 3 --out hand
    python benchmarks/tune.py --search up --tuned tuned --hand hand --json benchmarks/results/NAME.json
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from astdistill.report.tuning import Tuning
from astdistill.runtime.files import read_json, write_json
from astdistill.runtime.provenance import provenance

RATES = ("lr_init", "lr_lr", "lr_img")


def search(folder: Path) -> dict[str, Any]:
    """The start and the result of a search."""
    tuning = Tuning.read(folder)
    if tuning is None or tuning.winner is None:
        raise SystemExit(f"{folder} holds no search with a winner")
    outcomes = [trial.outcome for trial in tuning.trials]
    return {
        "start": {name: tuning.experiment["distill"][name] for name in RATES},
        "found": tuning.winner.values,
        "held_out_accuracy": tuning.winner.judged,
        "held_out_images": tuning.held_out,
        "trials": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        "steps": tuning.steps,
        "outer_steps_of_all_trials": sum(trial.last_step for trial in tuning.trials),
        "seconds_of_all_trials": round(sum(trial.seconds or 0.0 for trial in tuning.trials)),
        "validation": {name: tuning.experiment["distill"][f"validate_{name}"] for name in ("epochs", "networks")},
    }


def runs(folder: Path) -> dict[str, Any]:
    """Test accuracies of whole runs with several seeds, or of one."""
    folders = sorted(folder.glob("seed-*")) or [folder]
    finals = [next(iter(read_json(each / "scores.json")["architecture"].values()))["final"] for each in folders]
    means = [statistics.fmean(each) for each in finals]
    config = read_json(folders[0] / "config.json")
    spread = None
    if len(means) > 1:
        spread = statistics.stdev(means)
    return {
        "rates": {name: config["distill"][name] for name in RATES},
        "iterations": config["distill"]["iterations"],
        "validation": config["data"]["validation"],
        "experts": config["experts"]["count"],
        "mean": statistics.fmean(means),
        "std_over_runs": spread,
        "mean_by_seed": means,
        "final": finals,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", nargs="+", type=Path, required=True)
    parser.add_argument("--tuned", type=Path, help="whole runs with what was found")
    parser.add_argument("--hand", type=Path, help="whole runs with the rates by hand")
    parser.add_argument("--hand-search", type=Path, help="a search of one trial, which is of the rates by hand")
    parser.add_argument("--note", default="")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    readers = {
        "tuned": (runs, options.tuned),
        "hand": (runs, options.hand),
        "hand_search": (search, options.hand_search),
    }
    origin = provenance()
    del origin["arguments"]
    tuning = Tuning.read(options.search[0])
    assert tuning is not None, "search() has read it"
    write_json(
        options.json,
        {
            "bench": "tune",
            "preset": tuning.experiment["name"],
            "model": tuning.experiment["model"],
            "note": options.note,
            "searches": [search(folder) for folder in options.search],
            **{name: read(folder) for name, (read, folder) in readers.items() if folder is not None},
            **origin,
        },
    )


if __name__ == "__main__":
    main()
