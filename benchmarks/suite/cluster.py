"""Eight experts on two nodes of one core each, compared with two workers of one machine: the overhead of a cluster."""

from __future__ import annotations

import importlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from astdistill.autodiff.dispatch import on_cluster
from astdistill.cli.commands import Command
from astdistill.cli.flags import Word
from astdistill.data.dataset import Dataset
from astdistill.data.loading import load_dataset
from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.training import train_experts
from astdistill.runtime.cluster import imported, used
from astdistill.runtime.config import Record
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import write_json
from astdistill.runtime.machine import load
from astdistill.runtime.parallel import limited
from astdistill.runtime.progress import be_quiet
from astdistill.runtime.provenance import provenance, without_places

EXPERTS, MODEL = 8, "convnet-d3-w32"
GOAL = 0.9
"""The lowest accepted throughput of the cluster, over that of two workers."""


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster on this machine: a head that takes no jobs, and two nodes of one core. Raises InputError
    where Ray is not installed."""
    imported()
    started = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(2):
            started.add_node(num_cpus=1)
        yield started.address
    finally:
        started.shutdown()


def training_seconds(dataset: Dataset, epochs: int, **options: Any) -> float:
    """Seconds of a whole call that trains the experts into a new store, processes included."""
    with tempfile.TemporaryDirectory() as store:
        began = time.perf_counter()
        recipe = ExpertRecipe(epochs=epochs, lr=0.01)
        train_experts(dataset, model=MODEL, recipe=recipe, count=EXPERTS, store=store, **options)
        return time.perf_counter() - began


def measured(dataset: Dataset, epochs: int, n: int) -> dict[str, list[float]]:
    """Seconds by what was timed: `start` (to join and to ask the nodes, once for a command), and the experts by
    `workers` and on the `cluster`, in turns."""
    found: dict[str, list[float]] = {"start": [], "workers": [], "cluster": []}
    with two_nodes() as address:
        for _ in range(n):
            with on_cluster(address):
                began = time.perf_counter()
                active = used()
                assert active is not None
                active.connect()
                found["start"].append(time.perf_counter() - began)
                found["cluster"].append(training_seconds(dataset, epochs))
            found["workers"].append(training_seconds(dataset, epochs, workers=2))
    return found


def summary(found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of the seconds, and of the workers' over the cluster's within a repetition, without and with its
    start."""
    turns = list(zip(found["workers"], found["cluster"], found["start"], strict=True))
    row: dict[str, Any] = {name: statistics.median(values) for name, values in found.items()}
    row["ratio"] = statistics.median(workers / nodes for workers, nodes, _ in turns)
    row["ratio_with_start"] = statistics.median(workers / (nodes + start) for workers, nodes, start in turns)
    return row | {"n": len(turns)}


class ClusterFlags(Record):
    """Eight experts (ConvNet of width 32, scikit-learn's digits) on two nodes of one core each, in turns with two
    workers of this machine."""

    epochs: int = 12
    """Epochs of each expert."""
    n: Annotated[int, Word(flag="-n")] = 3
    """Repetitions."""
    to: Annotated[Path | None, Word(flag="json", metavar="FILE")] = None
    """Write the figures, with machine and versions, to FILE."""


def cluster(arguments: list[str]) -> None:
    """`make bench NAME=cluster`: measure, and show the ratio."""
    command = Command("cluster", lambda flags: _cluster(flags, arguments), ClusterFlags)
    command.prog = "python -m suite cluster"
    with command.make_context("cluster", list(arguments), obj={}) as ctx:
        command.call(ctx)


def _cluster(flags: ClusterFlags, arguments: list[str]) -> None:
    if min(flags.n, flags.epochs) < 1:
        raise InputError("-n or --epochs has a value that is too small; choose 1 or more.")
    be_quiet(True)
    with limited(2):  # shared by two workers: one thread each, as on the nodes
        before, found = load(), measured(load_dataset("digits"), flags.epochs, flags.n)
    row = summary(found) | {"experts": EXPERTS, "epochs": flags.epochs}
    Console().print(
        f"{EXPERTS} experts of {flags.epochs} epochs: two workers {row['workers']:.1f} s, two nodes "
        f"{row['cluster']:.1f} s after a start of {row['start']:.1f} s. Throughput of the nodes over that of the "
        f"workers: {row['ratio']:.2f} (goal: {GOAL}), with the start {row['ratio_with_start']:.2f}; n = {flags.n}, "
        f"load average before: {before:.1f}.",
        highlight=False,
    )
    if flags.to is not None:
        origin = provenance() | {"arguments": without_places(["suite", "cluster", *arguments])}
        write_json(flags.to, {"bench": "cluster", **origin, "load": before, "rows": [row], "seconds": found})
