"""Measure this package on a graphics card: agreement with float64, seconds and memory compared with the published way,
and waits of the host.

    python benchmarks/gpu.py --json OUT.json                              # a few minutes on one card
    python benchmarks/gpu.py --device cpu --scale tiny --json OUT.json    # the same code in seconds, anywhere

`benchmarks/gpu.sh` calls it. Times are of the device: one call is warmed up (compiled), then each repetition is timed
from an idle device to an idle device. Variants take turns within a repetition, so that ratios hold on a card whose
clock changes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from suite import published
from suite.task import Net
from suite.unroll import ESTIMATORS, MOMENTUM, Case, Problem, problem
from torch.nn.functional import cosine_similarity, one_hot

from astdistill.autodiff.compiled import CompiledEngine
from astdistill.autodiff.dispatch import using
from astdistill.autodiff.engine import EagerEngine
from astdistill.autodiff.training import Trainee
from astdistill.data.dataset import Split
from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.training import make_optimiser, train_epoch
from astdistill.methods.matching import Matching
from astdistill.methods.unroll import InnerLoop, Plan, Variables
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.files import write_json
from astdistill.runtime.provenance import provenance
from astdistill.runtime.seeds import rng

Tensors = tuple[torch.Tensor, ...]


def synchronised(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Wall-clock seconds of `work`, from an idle device to an idle device."""
    synchronised(device)
    began = time.perf_counter()
    work()
    synchronised(device)
    return time.perf_counter() - began


def in_turn(device: torch.device, variants: dict[str, Callable[[], object]], n: int) -> dict[str, dict[str, Any]]:
    """For each variant: the seconds of its first call (compiling included), then the median and range of `n`, and peak
    memory."""
    rows = {}
    for name, work in variants.items():
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            idle = torch.cuda.memory_allocated(device)
        first = seconds(device, work)
        rows[name] = {"first_seconds": round(first, 3), "seconds": [], "peak_mb": None}
        if device.type == "cuda":
            rows[name]["peak_mb"] = round((torch.cuda.max_memory_allocated(device) - idle) / 2**20, 1)
        print(f"  {name}: first call {first:.2f} s", flush=True)
    for _ in range(n):
        for name, work in variants.items():
            rows[name]["seconds"].append(seconds(device, work))
    for row in rows.values():
        found = row.pop("seconds")
        row |= {"n": n, "median_seconds": statistics.median(found), "range_seconds": max(found) - min(found)}
    return rows


# Agreement ----------------------------------------------------------------------------------------------------------


def agreement(device: torch.device, net: Net, batch: int, quick: bool) -> dict[str, Any]:
    """For each engine and each derivative: relative error and cosine, against torch's double backward in float64 on the
    same device."""
    model = FlatModel(build_model(net.name, net.shape, net.classes).to(device))
    theta = FlatModel(build_model(net.name, net.shape, net.classes)).flatten().to(device)
    generator = rng(0, "agreement")
    images = torch.randn(batch, *net.shape, generator=generator).to(device)
    targets = one_hot(torch.arange(batch) % net.classes, net.classes).float().to(device)
    direction = torch.randn(len(theta), generator=generator).to(device)
    exact = _derivatives(EagerEngine(model), *(part.double() for part in (theta, direction, images, targets)))
    rows = {}
    engines: dict[str, Callable[[], Any]] = {
        "eager float32": lambda: EagerEngine(model),
    }
    if not quick:
        engines |= {
            "compiled float32": lambda: CompiledEngine(model, precision="float32"),
            "compiled tf32": lambda: CompiledEngine(model, precision="tf32"),
            "compiled bfloat16": lambda: CompiledEngine(model, precision="bfloat16"),
        }
    for name, make in engines.items():
        found = _derivatives(make(), theta, direction, images, targets)
        rows[name] = {
            part: {
                "error": float((value.double() - exact[part]).norm() / exact[part].norm()),
                "one_minus_cosine": 1
                - float(cosine_similarity(value.double().flatten(), exact[part].flatten(), dim=0)),
            }
            for part, value in found.items()
        }
        print(f"  {name}: " + ", ".join(f"{part} {row['error']:.1e}" for part, row in rows[name].items()), flush=True)
    return rows


def _derivatives(
    engine: Any, theta: torch.Tensor, direction: torch.Tensor, images: torch.Tensor, targets: torch.Tensor
) -> dict[str, Any]:
    along = engine.directional(theta, direction, images, targets)
    return {
        "gradient": engine.gradient(theta, images, targets).theta,
        "directional θ": along.theta,
        "directional x": along.images,
        "penalised": engine.penalised(theta, images, targets, 2.0).theta,
    }


# An outer step ------------------------------------------------------------------------------------------------------


def moved(inputs: Problem, device: torch.device) -> Problem:
    """The same problem on the device."""
    variables = Variables(
        *(part.to(device) for part in (inputs.variables.images, inputs.variables.targets, inputs.variables.lr))
    )
    plan = Plan(
        inputs.plan.indices.to(device),
        tuple(each.to(device) for each in inputs.plan.augmentation),
        tuple(each.to(device) for each in inputs.plan.crops),
    )
    return Problem(inputs.start.to(device), inputs.goal.to(device), variables, plan)


def outer_step(device: torch.device, case: Case, n: int, with_published: bool) -> dict[str, Any]:
    """Seconds and memory of one meta-gradient, by the published double backward and by ours."""
    inputs = moved(problem(case), device)
    model = FlatModel(build_model(case.net.name, case.net.shape, case.net.classes).to(device))
    goal = Matching((inputs.plan.steps,), inputs.goal[None], (1 / (inputs.goal - inputs.start).square().sum())[None])

    def ours(estimator: str, engine: str) -> Callable[[], object]:
        def work() -> object:
            with using(engine):  # type: ignore[arg-type]
                return ESTIMATORS[estimator](
                    InnerLoop(model, inputs.plan, MOMENTUM), inputs.start, inputs.variables, goal
                )

        return work

    network = published.convnet(case.net).to(device)
    variants = {"recompute, auto": ours("recompute", "auto"), "first-order, auto": ours("first-order", "auto")}
    if with_published:
        variants["published"] = lambda: published.meta_gradient(
            network, inputs.start, inputs.goal, inputs.variables, inputs.plan, MOMENTUM
        )
        variants["recompute, eager"] = ours("recompute", "eager")
    return in_turn(device, variants, n)


def launches(device: torch.device, case: Case) -> dict[str, float]:
    """Operations that the host issues in one outer step, and the time that the host spends on them."""
    inputs = moved(problem(case), device)
    model = FlatModel(build_model(case.net.name, case.net.shape, case.net.classes).to(device))
    goal = Matching((inputs.plan.steps,), inputs.goal[None], (1 / (inputs.goal - inputs.start).square().sum())[None])
    inner = InnerLoop(model, inputs.plan, MOMENTUM)
    for _ in range(2):
        ESTIMATORS["recompute"](inner, inputs.start, inputs.variables, goal)
    synchronised(device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        ESTIMATORS["recompute"](inner, inputs.start, inputs.variables, goal)
        synchronised(device)
    events = {event.key: event.count for event in profile.key_averages()}
    kernels = sum(event.count for event in profile.key_averages() if str(event.device_type).endswith("CUDA"))
    busy = (
        sum(event.self_device_time_total for event in profile.key_averages() if str(event.device_type).endswith("CUDA"))
        / 1e6
    )
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25), flush=True)
    issued = {
        name: count
        for name, count in events.items()
        if name.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy"))
    }
    return {"kernels": kernels, "device_busy_seconds": busy, **issued}


# Experts ------------------------------------------------------------------------------------------------------------


def expert_epoch(
    device: torch.device, net: Net, images: int, batch: int, n: int, with_published: bool
) -> dict[str, Any]:
    """Seconds and memory of an epoch of one expert, with and without the gradient penalty, by ours and by a
    DataLoader."""
    split = Split(
        torch.randn(images, *net.shape, generator=rng(0, "images")).to(device),
        torch.arange(images, device=device) % net.classes,
    )
    variants: dict[str, Callable[[], object]] = {}

    def ours(penalty: float) -> Callable[[], object]:
        recipe = ExpertRecipe(
            batch=batch, lr=1e-4, momentum=0.9, penalty=penalty, max_grad_norm=5.0 if penalty else 0.0
        )
        trainee = Trainee(build_model(net.name, net.shape, net.classes).to(device))
        optimiser = make_optimiser(trainee, recipe, 0)
        return lambda: train_epoch(trainee, optimiser, split, net.classes, recipe, 0, 0)

    def as_published(penalty: float) -> Callable[[], object]:
        network = published.convnet(net).to(device)
        optimiser = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)

        def work() -> object:
            batches = published.loader(split.whole(), split.labels, batch, True)
            return published.train_epoch(network, optimiser, batches, "", penalty, rng(0, "epoch"))

        return work

    variants = {"ours": ours(0.0), "ours, penalty": ours(2.0)}
    if with_published:
        variants |= {
            "published, without augmentation": as_published(0.0),
            "published, penalty, without augmentation": as_published(2.0),
        }
    return in_turn(device, variants, n)


def waits(device: torch.device, net: Net) -> str:
    """Whether an epoch and an outer step make the host wait for the device, as torch reports it."""
    if device.type != "cuda":
        return "not measured: no CUDA device"
    split = Split(torch.randn(64, *net.shape).to(device), torch.arange(64, device=device) % net.classes)
    recipe = ExpertRecipe(batch=32)
    trainee = Trainee(build_model(net.name, net.shape, net.classes).to(device))
    optimiser = make_optimiser(trainee, recipe, 0)
    train_epoch(trainee, optimiser, split, net.classes, recipe, 0, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_epoch(trainee, optimiser, split, net.classes, recipe, 1, 1)
    except RuntimeError as error:
        return f"an epoch waits: {error}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none inside an epoch"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("-n", type=int, default=5, help="repetitions of each variant")
    parser.add_argument(
        "--quick", action="store_true", help="leave out the published way, and the agreement of what must be compiled"
    )
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    device, tiny = torch.device(options.device), options.scale == "tiny"
    net = Net(width=16) if tiny else Net()
    cases = [Case(4, 3, net)] if tiny else [Case(10, 50, net), Case(100, 20, net._replace(classes=100))]
    origin = provenance(options.device)
    origin.pop("arguments")
    result: dict[str, Any] = {
        "bench": "gpu",
        "machine": origin.pop("machine"),
        "provenance": origin,
        "scale": options.scale,
    }
    parts: list[tuple[str, Callable[[], Any]]] = []
    for case in cases:
        parts.append(
            (f"outer step {case.name}", lambda case=case: outer_step(device, case, options.n, not options.quick))
        )
    parts.append((f"launches {cases[0].name}", lambda: launches(device, cases[0])))
    epoch = (64, 16) if tiny else (12800, 256)
    parts.append(
        (
            "expert epoch",
            lambda: expert_epoch(device, net, *epoch, 2 if options.quick else options.n, not options.quick),
        )
    )
    parts.append(("waits", lambda: waits(device, net)))
    # Last, because it compiles every derivative in three precisions.
    parts.append(("agreement", lambda: agreement(device, net, 8 if tiny else 64, options.quick)))
    failed = False
    for name, work in parts:
        began = time.perf_counter()
        print(name, flush=True)
        try:
            result[name] = work()
        except Exception as error:  # the failure of one part must not stop the others
            failed, result[name] = True, f"failed: {type(error).__name__}: {error}"
            print(f"  {result[name]}", flush=True)
        print(f"  {time.perf_counter() - began:.1f} s", flush=True)
        write_json(options.json, result)
    print(
        json.dumps(
            {name: value for name, value in result.items() if name not in ("provenance", "agreement")},
            indent=1,
            ensure_ascii=False,
        )
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
