"""The checks of `astdistill doctor`: engines, compilers, GPUs, versions, memory, disks, data and the nodes of a
cluster."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from torch import Tensor

from ..autodiff.dispatch import VARIABLE, chosen, engine_here, engine_name, engine_of
from ..autodiff.engine import EagerEngine
from ..autodiff.native.build import ADVICE, KernelError, described, lanes, make
from ..autodiff.native.engine import NativeEngine, Workspace
from ..autodiff.native.layout import blocks_of
from ..data.loading import load_dataset
from ..data.sources import HUB
from ..experiment.config import ExpertSettings
from ..experts.cloud import CloudFiles
from ..experts.store import RECIPE, check_root
from ..models.flat import FlatModel
from ..models.registry import build_model
from ..runtime.cluster import Cluster, Site, clustered, differences, facts, folder_visibility, sites
from ..runtime.files import cache_folder
from ..runtime.machine import cores, crowded, free_memory, load
from ..runtime.objects import Objects, Url
from ..runtime.provenance import instructions, version_of
from ..runtime.seeds import rng, seeded
from ..runtime.status import size
from ..runtime.text import many
from .findings import Finding, judged, shortened

SHAPE, CLASSES = (3, 32, 32), 10
LEAST_COSINE = 1 - 1e-6
TIMED = "convnet-d3", 32
"""The network of the published settings, and the images of one call."""


def kernels() -> Iterator[Finding]:
    """Whether the native engine's kernels can be built and compute correct results."""
    advice = f"{ADVICE}; until then torch's own derivatives take several times as long"
    try:
        library = make()
    except KernelError as error:
        yield Finding(name="native engine", state="note", text=f"not available: {error}", advice=advice)
        return
    model, inputs = _problem("convnet-d2-w32", 4)
    module = model.module
    blocks = blocks_of(module, SHAPE)
    assert blocks is not None
    native = NativeEngine(model, blocks, library, Workspace()).directional(*inputs)
    theta, direction, images, targets = (part.double() for part in inputs)
    reference = EagerEngine(FlatModel(module.double())).directional(theta, direction, images, targets)
    cosine = min(_cosine(native.theta, reference.theta), _cosine(native.images, reference.images))
    text = f"{described(library)}, {lanes(library)} channels at once; cosine with torch in float64: {cosine:.8f}"
    advice = f"set {VARIABLE}=eager, and report this with your compiler's version"
    yield judged("native engine", cosine >= LEAST_COSINE, text, advice)


def _devices() -> list[str]:
    """The types of devices that torch can use on this machine."""
    if torch.cuda.is_available():
        return ["cpu", "cuda"]
    return ["cpu"]


def compiler() -> Iterator[Finding]:
    """Whether torch.compile works, on the CPU and on a GPU if there is one."""
    requirements = {"cpu": "a C++ compiler (g++)", "cuda": "triton and a C compiler"}
    for device in _devices():
        name = f"torch.compile, {device}"
        numbers = torch.linspace(0, 1, 64, dtype=torch.float32, device=device)
        try:
            compiled = torch.compile(_curve, fullgraph=True)(numbers)
        except Exception as error:  # the compilers that torch calls raise many unrelated types
            text = f"does not work: {type(error).__name__}: {shortened(str(error))}"
            advice = f"it needs {requirements[device]}; without it --engine compiled runs as eager"
            yield Finding(name=name, state="note", text=text, advice=advice)
            continue
        right, fault = torch.allclose(compiled, _curve(numbers)), "gives other numbers than torch itself"
        yield judged(name, right, "works", "do not use --engine compiled", fault=fault)


def _curve(numbers: Tensor) -> Tensor:
    return (numbers.sin() * 2 + numbers.exp()).cumsum(0)


def gpus() -> Iterator[Finding]:
    """The CUDA devices that torch sees, and their free memory."""
    if not torch.cuda.is_available():
        build = "torch is built without CUDA"
        if torch.version.cuda:
            build = f"torch is built for CUDA {torch.version.cuda}"
        yield Finding(name="GPU", state="note", text=f"none; {build}; everything runs on the CPU")
        return
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        memory_text = f"{size(free)} of {size(total)} free"
        text = f"{torch.cuda.get_device_name(number)}, {memory_text}; use it with --device cuda:{number}"
        yield Finding(name=f"GPU {number}", state="good", text=text)


def engine() -> Iterator[Finding]:
    """The engine that is chosen on each type of device, and its speed."""
    chosen_by = "chosen by auto"
    if os.environ.get(VARIABLE, "auto") != "auto":
        chosen_by = f"set by ${VARIABLE}"
    load_before = load()
    for device in _devices():
        model, (theta, _, images, targets) = _problem(*TIMED, device=device)
        selected = engine_of(model)
        seconds = _fastest(lambda: selected.gradient(theta, images, targets), device)  # noqa: B023  (called at once)
        name = engine_name(model, theta, images)
        text = (
            f"{name} ({chosen_by}): {TIMED[1] / seconds:,.0f} images a second, "
            f"gradient of {TIMED[0]}, 32 px, batch {TIMED[1]}, {torch.get_num_threads()} threads, {instructions()}"
        )
        if device == "cpu" and crowded(load_before):
            text += f", beside other work (load average {load_before:.1f})"
        if name != "eager" or device != "cpu":
            yield Finding(name=f"engine, {device}", state="good", text=text)
            continue
        advice = f"this engine is slow: {ADVICE}"
        if chosen() == "eager":
            advice = "this engine is slow: choose auto"
        yield Finding(name=f"engine, {device}", state="note", text=text, advice=advice)


def _fastest(step: Any, device: str) -> float:
    durations = []
    for _ in range(4):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    return min(durations[1:])


def _problem(name: str, batch: int, device: str = "cpu") -> tuple[FlatModel, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """A network, and its parameters θ, a random direction, random images and targets."""
    chosen()  # raises InputError for an unknown engine
    with seeded(0, "doctor"):
        model = FlatModel(build_model(name, SHAPE, CLASSES).to(device))
    generator = rng(0, "doctor")
    theta = model.flatten().to(device)
    images = torch.randn(batch, *SHAPE, generator=generator, dtype=torch.float32).to(device)
    targets = torch.nn.functional.one_hot(torch.arange(batch) % CLASSES, CLASSES).float().to(device)
    return model, (theta, torch.randn(len(theta), generator=generator, dtype=torch.float32).to(device), images, targets)


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double().flatten(), other.flatten(), dim=0))


PACKAGE = "astdistill"
SHOWN = ("torch", "numpy", "safetensors", "datasets")


def versions() -> Iterator[Finding]:
    """The installed versions, and whether each required package has an allowed one."""
    try:
        required = _required("")
    except importlib.metadata.PackageNotFoundError:
        text = f"Python {platform.python_version()}; {PACKAGE} is imported from a folder and was not installed"
        yield Finding(
            name="versions", state="note", text=text, advice="pip install -e . in its folder checks what it needs"
        )
        return
    faults = [fault for each in required if (fault := _requirement_fault(each))]
    installed = [f"{name} {version}" for name in (PACKAGE, *SHOWN) if (version := version_of(name))]
    text = ", ".join([f"Python {platform.python_version()}", *installed])
    yield judged("versions", not faults, "; ".join([text, *faults]), f"pip install --upgrade {PACKAGE}")


def extras() -> Iterator[Finding]:
    """Each extra that the package declares: whether all of it is installed."""
    try:
        names = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for name in sorted(names):
        faults = [fault for each in _required(name) if (fault := _requirement_fault(each))]
        packages = ", ".join(f"{each.name} {version_of(each.name)}" for each in _required(name))
        advice = f"pip install '{PACKAGE}[{name}]'"
        yield judged(f"extra {name}", not faults, packages, advice, "note", fault="; ".join(faults))


def _required(extra: str) -> list[Requirement]:
    """The requirements of the extra on this system, or with "" those of the package itself."""
    declared = [Requirement(text) for text in importlib.metadata.requires(PACKAGE) or []]
    core = [each for each in declared if each.marker is None or each.marker.evaluate({"extra": ""})]
    if not extra:
        return core
    others = [each for each in declared if each not in core]
    return [each for each in others if each.marker and each.marker.evaluate({"extra": extra})]


def _requirement_fault(requirement: Requirement) -> str:
    """What is wrong with the installed package, or an empty text."""
    version = version_of(requirement.name)
    if version is None:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is not {requirement.specifier}"


MIN_FREE_BYTES = 10**9
"""Bytes of free memory, and of free disk space, below which even small runs fail."""


def memory() -> Iterator[Finding]:
    """The cores and the free memory that this process may use."""
    free = free_memory()
    if free is None:
        text = f"{many(cores(), 'core')}; this system does not say how much memory is free"
        yield Finding(name="memory", state="note", text=text)
        return
    text = f"{size(free)} free, {many(cores(), 'core')} that this process may use"
    yield judged("memory", free >= MIN_FREE_BYTES, text, "close other programs, or raise the container's limit")


def disks() -> Iterator[Finding]:
    """Free space and permissions where runs, experts and the cache are written."""
    folders = {
        "disk, runs": Path.cwd(),
        "disk, experts": ExpertSettings().store.absolute(),
        "disk, cache": cache_folder().absolute(),
    }
    for name, folder in folders.items():
        yield from disk(name, folder)


def disk(name: str, path: Path) -> Iterator[Finding]:
    """Free space and permissions at a path, which may not exist yet."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    text = f"{size(free)} free at {path}"
    if name == "disk, cache" and path.is_dir():
        text += f"; the cache holds {size(_folder_size(path))}"
    if not existing.is_dir():
        yield Finding(name=name, state="bad", text=f"{existing} is a file, not a folder", advice="move it away")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(name=name, state="bad", text=f"{existing} cannot be written to", advice=_space_advice(name))
    else:
        yield judged(name, free >= MIN_FREE_BYTES, text, _space_advice(name))


def store(root: Path) -> Iterator[Finding]:
    """Whether experts can be read from and written to a folder or an address."""
    check_root(root)
    if not isinstance(root, Url):
        yield from disk("disk, experts", root.absolute())
        return
    start = time.perf_counter()
    Objects(root).check_writable()
    seconds = time.perf_counter() - start
    stores = CloudFiles(root).stores(RECIPE)
    text = f"{root} can be listed and written to, with conditional writes ({1000 * seconds:.0f} ms per request)"
    yield Finding(name="store", state="good", text=f"{text}; it holds {len(stores)} kinds of experts")


def _space_advice(name: str) -> str:
    advice = {
        "disk, cache": "set ASTDISTILL_CACHE to a folder elsewhere",
        "disk, experts": "name one elsewhere with --experts.store FOLDER",
    }
    return advice.get(name, "free some space, or name one elsewhere with --out FOLDER")


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def data(network: bool) -> Iterator[Finding]:
    """The data sets in the folder `ASTDISTILL_DATA`, and with `network` whether the Hugging Face hub answers."""
    root = os.environ.get("ASTDISTILL_DATA")
    if not root:
        advice = "set ASTDISTILL_DATA to a folder with cifar100/ and others in it, or use the hub"
        yield Finding(name="data", state="note", text="ASTDISTILL_DATA is not set; digits need nothing", advice=advice)
    elif not (folder := Path(os.path.expanduser(root))).is_dir():
        text = f"ASTDISTILL_DATA names {folder}, which is no folder"
        yield Finding(name="data", state="bad", text=text, advice="correct it, or unset it to use the hub")
    else:
        names = *HUB, "imagenet"
        sets = ", ".join(name for name in names if (folder / name).is_dir())
        fault = f"none of {', '.join(names)} is in {folder}"
        yield judged("data", bool(sets), f"{sets} in {folder}", "", "note", fault)
    if network:
        yield _check_hub()


def _check_hub() -> Finding:
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(HUB["cifar10"], timeout=10)
    except Exception as error:  # huggingface_hub and its HTTP client raise a dozen unrelated types
        text = f"the Hugging Face hub does not answer ({type(error).__name__}: {shortened(str(error), 120)})"
        return Finding(
            name="network", state="note", text=text, advice="use local copies: --data FOLDER, or ASTDISTILL_DATA"
        )
    return Finding(name="network", state="good", text="the Hugging Face hub answers")


def verified(source: str) -> Iterator[Finding]:
    """Read every byte of a source and of its cache entry, which is rebuilt if it is damaged or incomplete."""
    dataset = load_dataset(source, memory="uint8", verify=True)
    text = f"every byte read: {len(dataset.train):,} training images, fingerprint {dataset.fingerprint}"
    yield Finding(name=f"data {source}", state="good", text=text)


NODE_FACTS = "Python", "astdistill", "torch", "numpy", "instruction set", "engine", "compiler", "cores"


def nodes(address: str, folder: Path) -> Iterator[Finding]:
    """Each node that takes jobs: its software, and whether `folder` and its file locks are shared with this process.
    Raises InputError if there is no cluster."""
    cluster = Cluster(address, mixed=True, probe=partial(engine_here, chosen()))
    with clustered(cluster):
        cluster.join()
        usable = [site for site in sites() if site.places(1, gpu=False)]
        local, remote, shared = facts(cluster.probe), cluster.look(usable), folder_visibility(usable, folder)
        yield judged(
            "cluster", bool(usable), f"{len(usable)} nodes that take jobs", "ray start --num-cpus 1", fault="none"
        )
        for site in usable:
            yield _check_software(site, remote[site], local)
            yield _check_shared_folder(site, shared[site], folder)


def _check_software(site: Site, remote: Mapping[str, str], local: Mapping[str, str]) -> Finding:
    """Versions, engine, instruction set and compiler of a node."""
    name = f"node {site.number[:8]}"
    if "fault" in remote:
        advice = "install the same astdistill there, or take the node out: ray stop"
        return Finding(name=name, state="bad", text=f"{site}: {remote['fault']}", advice=advice)
    listed = ", ".join(f"{fact} {remote[fact]}" for fact in NODE_FACTS if fact in remote)
    fault = differences(remote, local)
    advice = "give it the same as here, or accept results that depend on the node with --allow-mixed"
    return judged(
        name, not fault, f"{site}: {listed}", advice, fault=f"{site} would not compute the same bits: {fault}"
    )


def _check_shared_folder(site: Site, remote: Mapping[str, str], folder: Path) -> Finding:
    """Whether a node sees the folder of this process, and a lock in it."""
    name = f"node {site.number[:8]}, folder"
    if remote["seen"] != "yes":
        advice = "run in a folder that all nodes share, which experts need (or --shard) and evaluation does not"
        return Finding(name=name, state="note", text=f"{folder} is not shared with {site.host}", advice=advice)
    good = remote["locked"] == "yes"
    fault = f"{folder} is shared, but its locks are not shared with {site.host}: {remote['locked']}"
    advice = "do not train into one store by two commands at once; one command needs no shared locks"
    return judged(name, good, f"{folder} is shared, and locks are seen", advice, "note", fault)
