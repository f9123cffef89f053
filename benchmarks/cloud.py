"""Requests, bytes and waiting times of segments read from a store on S3 (served by moto), checked against a folder.

    python benchmarks/cloud.py --json benchmarks/results/NAME.json

Needs 'astdistill[s3]' and 'moto[s3,server]'. Two experts of 51 rows of 320,010 parameters; a segment has three rows.
The server runs in this process. In the second part it waits `--delay` seconds before each answer, and steps of `--step`
seconds read their segments with and without reading ahead.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from astdistill.data.loading import load_dataset
from astdistill.experts.recipe import ExpertCurve
from astdistill.experts.store import TrajectoryStore, describe_store
from astdistill.experts.training import train_experts
from astdistill.methods.trajectory_matching import MTT
from astdistill.runtime.files import save_tensors, write_json
from astdistill.runtime.machine import load
from astdistill.runtime.objects import Objects, Url
from astdistill.runtime.provenance import provenance, without_places

EPOCHS, MATCHED = 50, 2
BUCKET = "bucket"


class Server:
    """Wraps the application of moto: records the bytes of each answer, and waits `delay` seconds before each."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        """Bytes of each answer."""
        self.delay = 0.0

    def __call__(self, app: Callable[..., Any], environment: Any, start: Callable[..., Any]) -> Any:
        time.sleep(self.delay)

        def counted(status: str, headers: list[tuple[str, str]], *extra: Any) -> Any:
            self.sent.append(int(dict(headers).get("Content-Length", 0)))
            return start(status, headers, *extra)

        return app(environment, counted)


@contextmanager
def serving() -> Iterator[Server]:
    """Run an S3 server with one empty bucket in this process, and set the environment variables that point to it."""
    logging.getLogger("werkzeug").disabled = True
    server, recorder = (
        import_module("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False),
        Server(),
    )
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    app = server._server.app
    server._server.app = lambda environment, start: recorder(app, environment, start)
    urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"))
    try:
        yield recorder
    finally:
        server.stop()


def random_store(folder: Path, parameters: int) -> TrajectoryStore:
    """Two experts whose rows are random numbers."""
    digits = load_dataset("digits", per_class=6)
    recipe = MTT.recipe.replace(epochs=1)
    trained = train_experts(digits, model="convnet-d1-w4", recipe=recipe, count=1, store=folder / "one", workers=1)
    identity = trained.identity.replace(recipe=recipe.replace(epochs=EPOCHS), parameters=parameters)
    destination, curve = folder / identity.digest(), [1.0] * EPOCHS
    describe_store(destination, identity, digits.config, digits.preprocessing)
    header = {"identity": identity.to_json(), "curves": vars(ExpertCurve(curve, curve, curve))}
    for expert in range(2):
        rows = torch.randn(EPOCHS + 1, parameters, generator=torch.Generator().manual_seed(expert))
        save_tensors(destination / f"{expert:03d}.safetensors", {"rows": rows}, header, by_row=["rows"])
    return TrajectoryStore.open(destination)


def reads(store: TrajectoryStore, server: Server, size: int) -> list[dict[str, Any]]:
    """The milliseconds, requests and share of bytes of each of five segments of one expert."""
    found = []
    for epoch in (7, 0, 20, 30, 40):
        server.sent.clear()
        began = time.perf_counter()
        store.segment(0, epoch, MATCHED)
        taken = time.perf_counter() - began
        found.append({"ms": 1000 * taken, "requests": len(server.sent), "share_of_bytes": sum(server.sent) / size})
    return found


def waits(store: TrajectoryStore, ahead: bool, steps: int, step: float) -> list[float]:
    """Milliseconds that each of some steps waits for its segment; the headers of both experts are read before."""
    draws, found = [(number % 2, 7 * number % (EPOCHS - MATCHED)) for number in range(steps + 1)], []
    for expert in range(2):
        store.segment(expert, 0, MATCHED)
    for now, following in pairwise(draws):
        began = time.perf_counter()
        store.segment(*now, MATCHED)
        found.append(1000 * (time.perf_counter() - began))
        if ahead:
            store.read_ahead(lambda draw=following: store.segment(*draw, MATCHED))
        time.sleep(step)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=320_010)
    parser.add_argument("--delay", type=float, default=0.1)
    parser.add_argument("--step", type=float, default=0.3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    before = load()
    with tempfile.TemporaryDirectory() as folder, serving() as server:
        os.environ["ASTDISTILL_CACHE"] = str(Path(folder) / "cache")
        local = random_store(Path(folder), options.parameters)
        url = Url("s3:/", BUCKET, "experts", local.folder.name)
        for path in sorted(local.folder.iterdir()):
            Objects(url).put(path.name, path.read_bytes())
        size = local.path(0).stat().st_size

        def opened() -> TrajectoryStore:
            store = TrajectoryStore.open(url)
            assert store.experts() == [0, 1]
            return store

        found: dict[str, Any] = {"segments": reads(opened(), server, size), "bytes": size}
        pairs = [(store.segment(1, 3, MATCHED).checkpoints) for store in (opened(), local)]
        found["equal"] = torch.equal(*pairs)
        server.delay = options.delay
        for name, ahead in (("waits_ms", False), ("waits_ahead_ms", True)):
            found[name] = waits(opened(), ahead, options.steps, options.step)
    row = found | {"delay": options.delay, "step": options.step, "n": options.steps, "load": before}
    for name in ("waits_ms", "waits_ahead_ms"):
        print(f"{name}: median {statistics.median(row[name]):.0f}, most {max(row[name]):.0f}, n = {options.steps}")
    print(row["segments"], f"equal: {row['equal']}")
    if options.json:
        write_json(options.json, {"bench": "cloud", **without_places(provenance()), "rows": [row]})


if __name__ == "__main__":
    main()
