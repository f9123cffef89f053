"""What `astdistill doctor --cluster` looks at: every node of a Ray cluster, compared with this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from ..autodiff.dispatch import chosen, engine_here
from ..runtime.cluster import Cluster, Site, clustered, differences, facts, seen_by, sites
from .findings import Finding, judged

SAID = "Python", "astdistill", "torch", "numpy", "instruction set", "engine", "compiler", "cores"


def nodes(address: str, folder: Path) -> Iterator[Finding]:
    """Each node that takes jobs: what it computes with, and whether it shares `folder` with this process, and its
    locks. Raises InputError where there is no cluster."""
    cluster = Cluster(address, mixed=True, probe=partial(engine_here, chosen()))
    with clustered(cluster):
        cluster.join()
        able = [site for site in sites() if site.places(1, gpu=False)]
        here, told, shared = facts(cluster.probe), cluster.look(able), seen_by(able, folder)
        yield judged("cluster", bool(able), f"{len(able)} nodes that take jobs", "ray start --num-cpus 1", fault="none")
        for site in able:
            yield _computes(site, told[site], here)
            yield _shares(site, shared[site], folder)


def _computes(site: Site, told: Mapping[str, str], here: Mapping[str, str]) -> Finding:
    """Versions, engine, instruction set and compiler of a node."""
    name = f"node {site.number[:8]}"
    if "fault" in told:
        advice = "install the same astdistill there, or take the node out: ray stop"
        return Finding(name=name, state="bad", text=f"{site}: {told['fault']}", advice=advice)
    words = ", ".join(f"{word} {told[word]}" for word in SAID if word in told)
    fault = differences(told, here)
    advice = "give it the same as here, or accept results that depend on the node with --allow-mixed"
    return judged(name, not fault, f"{site}: {words}", advice, fault=f"{site} would compute other bits: {fault}")


def _shares(site: Site, told: Mapping[str, str], folder: Path) -> Finding:
    """Whether a node sees the folder of this process, and a lock in it."""
    name = f"node {site.number[:8]}, folder"
    if told["seen"] != "yes":
        advice = "run in a folder that all nodes share; scores need none, experts do (or --shard)"
        return Finding(name=name, state="note", text=f"{folder} is not shared with {site.host}", advice=advice)
    good = told["locked"] == "yes"
    fault = f"{folder} is shared, but a lock of this process is not seen on {site.host}: {told['locked']}"
    advice = "do not fill one store by two commands at once; one command needs no locks between nodes"
    return judged(name, good, f"{folder} is shared, and locks are seen", advice, "note", fault)
