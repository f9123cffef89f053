r"""Evaluate finished runs on other networks than their student, with real images: the cross-architecture table.

python benchmarks/architectures.py --runs ast=runs/a0,runs/a1 mtt=runs/m0,runs/m1 --architectures convnet-d3-w32
resnet18-w16 \ --json benchmarks/results/NAME.json

A row is a name and its runs, one per seed; every run gives `--networks` networks of each architecture. The row "random"
draws new real images for every run of the first row. Every evaluation resumes, and several processes may share the
work, each with other --runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from astdistill.data.dataset import Dataset
from astdistill.data.loading import load_dataset
from astdistill.data.synthetic import SyntheticSet, load
from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.rows import random_real
from astdistill.evaluation.runner import evaluate_all
from astdistill.evaluation.scores import Scores
from astdistill.runtime.files import read_json, write_json
from astdistill.runtime.provenance import provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", required=True, help="name=FOLDER[,FOLDER…]")
    parser.add_argument("--architectures", nargs="+", required=True)
    parser.add_argument("--data", help="where the data lies now")
    parser.add_argument("--epochs", type=int, default=MTT_PROTOCOL.epochs)
    parser.add_argument("--networks", type=int, default=1, help="of each architecture on each run")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    named = {
        name: [Path(run) for run in runs.split(",")]
        for name, _, runs in (words.partition("=") for words in options.runs)
    }
    first = load(next(iter(named.values()))[0])
    dataset = load_dataset(first.data if options.data is None else first.data.replace(source=options.data))
    recipe = MTT_PROTOCOL.replace(epochs=options.epochs)
    rows = []
    for name, sets in [*rows_of(named), ("random", real(dataset, first, len(next(iter(named.values())))))]:
        scores = []
        for seed, synthetic in enumerate(sets):
            folder = options.out / f"{name}-{seed}"
            words: dict[str, Any] = {"seed": seed, "workers": options.workers}
            scores.append(
                evaluate_all(synthetic, dataset, recipe, options.architectures, options.networks, (), folder, **words)
            )
        rows.append(row(name, scores))
        print(f"{name}: " + ", ".join(f"{key} {values}" for key, values in rows[-1]["final"].items()), flush=True)
    if options.json:
        commits = {name: [read_json(run / "provenance.json")["commit"] for run in runs] for name, runs in named.items()}
        origin = {name: value for name, value in provenance(dataset.device).items() if name != "arguments"}
        head = {
            "bench": "architectures",
            "machine": origin.pop("machine"),
            "provenance": origin,
            "commits of the sets": commits,
        }
        write_json(options.json, head | {"protocol": recipe.to_json(), "networks": options.networks, "rows": rows})


def rows_of(named: dict[str, list[Path]]) -> Iterator[tuple[str, list[SyntheticSet]]]:
    """Each row's name and distilled sets."""
    return ((name, [load(run) for run in runs]) for name, runs in named.items())


def real(dataset: Dataset, like: SyntheticSet, runs: int) -> list[SyntheticSet]:
    """As many real images as `like` has, drawn separately for each of `runs` runs, with the same augmentation."""
    drawn = (random_real(dataset, len(like.images) // len(like.classes), seed) for seed in range(runs))
    return [replace(images, augmentation=like.augmentation) for images in drawn]


def row(name: str, scores: list[Scores]) -> dict[str, Any]:
    """One row: final accuracies by architecture, of all networks of all runs."""
    final = {
        key: [value for each in scores for value in each.architecture[key].final] for key in scores[0].architecture
    }
    return {"row": name, "runs": len(scores), "final": final}


if __name__ == "__main__":
    main()
