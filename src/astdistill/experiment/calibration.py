"""How fast this machine is, from a few timed steps of three small networks, and what an experiment then costs by
counting its work.

A step takes a constant, so much for each number that comes out of a convolution (transforms, norms, activations,
pooling), and so much for each operation of the convolutions. The first grows with neither images nor width, the second
with the width and the third with its square, so that the rate of operations depends on the width as an engine's does.
The three are fitted to three networks for each kind of step and kept in the user's cache.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from datetime import UTC, datetime

import torch
from pydantic import ValidationError

from ..autodiff.dispatch import engine_name
from ..autodiff.native import build as library
from ..autodiff.native.engine import VALUES
from ..data.dataset import DataConfig
from ..distillation.settings import DistillSettings
from ..methods.estimators import Estimator, FirstOrder, Recompute
from ..methods.method import Method
from ..methods.trajectory_matching import AST, MTT
from ..models.flat import FlatModel
from ..models.registry import build_model, parse
from ..runtime.config import Record, digest
from ..runtime.devices import is_there
from ..runtime.errors import InputError
from ..runtime.files import cache_folder, read_json, write_json
from ..runtime.progress import Bar, bar
from ..runtime.provenance import machine, versions
from .config import Experiment
from .probe import Facts, Probe, trained_as
from .work import FIRST_ORDER, PENALISED, RECOMPUTE, TRAIN, Net, Units, convnet_work

FORMAT = 1
KINDS: dict[str, Units] = {"plain": TRAIN, "penalised": PENALISED, "recompute": RECOMPUTE, "first-order": FIRST_ORDER}
"""Training steps without and with a gradient penalty, and inner steps with their share of the walk back."""
ESTIMATORS: dict[type[Estimator], str] = {Recompute: "recompute", FirstOrder: "first-order"}
POINTS = (Net(width=32, depth=2, size=8), 10), (Net(width=32), 25), (Net(width=128), 25)
"""Networks and numbers of images: one that shows what a call costs, a narrow one and a wide one. The last fills an
engine's buffers."""
STEPS = 2
"""Inner steps of a timed unroll."""
ALONE = 0.7
"""The share of a core below which others had the processor, and the measured times are theirs as well."""


class Rate(Record):
    """One kind of step: seconds of a call, of each number out of a convolution and of each operation; bytes of each
    pixel × width."""

    call: float
    plane: float
    operation: float
    bytes: float

    def seconds(self, net: Net, units: Units, images: int) -> float:
        """One step on `images` images."""
        return sum(
            rate * count
            for rate, count in zip((self.call, self.plane, self.operation), _counts(net, units, images), strict=True)
        )


class Calibration(Record):
    """What was measured on one machine with one engine."""

    device: str
    engine: str
    timed: str
    """When, in UTC."""
    rates: dict[str, Rate]
    share: float = 1.0
    """Processor time over time while it was measured, at most 1; on an accelerator always 1."""

    @property
    def disturbed(self) -> bool:
        """Whether other work made the times much too long."""
        return self.share < ALONE

    def seconds(self, kind: str, net: Net, images: int) -> float:
        """One step of a kind on `images` images."""
        return self.rates[kind].seconds(net, KINDS[kind], images)

    def bytes(self, kind: str, net: Net, images: int) -> int:
        """What graphs and the engine's buffers hold; the native engine takes a large batch in parts."""
        values = images * net.size**2 * net.width
        return round(self.rates[kind].bytes * (min(values, VALUES) if self.engine == "native" else values))


class Counted:
    """What steps of an experiment cost by a calibration; where there is none, seconds are not a number and bytes 0.

    Raises InputError for a network whose work is not counted.
    """

    def __init__(self, experiment: Experiment, known: Facts, calibration: Calibration | None) -> None:
        self._net, self._calibration = published_net(experiment.model, known), calibration
        self.parameters = self._net.parameters

    def expert_step(self, method: Method, batch: int, penalty: bool) -> tuple[float, int]:
        """Seconds and bytes of one training step on `batch` images."""
        recipe = trained_as(method, penalty)
        kinds = ["plain"] if not recipe.penalty or recipe.penalty_form == "pixel" else []
        kinds += ["penalised"] if recipe.penalty else []
        return self._cost(kinds, batch, 2 if recipe.sharpness else 1)

    def outer_step(self, experiment: Experiment) -> tuple[float, int]:
        """Seconds and bytes of one trajectory of an outer step."""
        settings, estimator = experiment.distill, type(experiment.method.estimator)
        if estimator not in ESTIMATORS:
            raise InputError(
                f"The work of {estimator.__name__} is not counted; time it with: astdistill run {experiment.name} "
                f"--dry-run"
            )
        count = experiment.ipc * self._net.classes
        batch = min(settings.batch_syn or count, count)
        return self._cost([ESTIMATORS[estimator]], batch, settings.inner_steps)

    def _cost(self, kinds: list[str], images: int, times: int) -> tuple[float, int]:
        found = self._calibration
        if found is None:
            return math.nan, 0
        seconds = times * sum(found.seconds(kind, self._net, images) for kind in kinds)
        return seconds, max(found.bytes(kind, self._net, images) for kind in kinds)


def published_net(model: str, known: Facts) -> Net:
    """The ConvNet of that name as its numbers. Raises InputError for any other network."""
    channels, height, width = known.shape
    name = parse(model)
    options = name.options((height, width))
    if name.family != "convnet" or height != width or (options["norm"], options["pooling"]) != ("instance", "avg"):
        raise InputError(f"The work of '{model}' on images of {height}×{width} is not counted; time it with --dry-run.")
    return Net(options["width"], options["depth"], height, channels, known.classes)


def calibration(device: str, anew: bool = False) -> Calibration | None:
    """The speed of `device` with the engine that is chosen for the ConvNet: from the cache, or timed now, and with
    `anew` always now.

    What was measured beside much other work is not kept, so that the next call measures again. None for CUDA where
    there is none.
    """
    if not is_there(device):
        return None
    engine = _engine(device)
    about = {"format": FORMAT, "engine": engine, "versions": versions(), "machine": machine(device), "points": POINTS}
    if engine == "native":
        about["kernels"] = library.identity()
    path = cache_folder() / "calibration" / f"{digest(about)}.json"
    if path.exists() and not anew:
        with suppress(InputError, ValidationError, TypeError):  # a broken file is as good as none
            return Calibration.model_validate(read_json(path)["calibration"])
    found = _timed(device, engine)
    if not found.disturbed:
        with suppress(OSError):  # a cache that cannot be written costs time only
            write_json(path, {"about": about, "calibration": found.to_json()})
    return found


def _engine(device: str) -> str:
    net, _ = POINTS[-1]
    model = FlatModel(build_model(net.name, net.shape, net.classes))
    return engine_name(model, model.flatten().to(device), torch.zeros(1, *net.shape, device=device))


def _timed(device: str, engine: str) -> Calibration:
    costs: dict[str, list[tuple[float, int]]] = {kind: [] for kind in KINDS}
    began, worked = time.perf_counter(), time.process_time()
    with bar("timing this machine (steps)", len(POINTS) * len(KINDS)) as progress:
        for net, images in POINTS:
            for kind, cost in _probed(net, images, device, progress).items():
                costs[kind].append(cost)
    share = (
        (time.process_time() - worked) / (time.perf_counter() - began) if torch.device(device).type == "cpu" else 1.0
    )
    rates = {kind: fitted(KINDS[kind], found) for kind, found in costs.items()}
    when = datetime.now(UTC).isoformat(" ", "seconds")
    return Calibration(device=device, engine=engine, timed=when, rates=rates, share=min(share, 1.0))


def _probed(net: Net, images: int, device: str, progress: Bar) -> dict[str, tuple[float, int]]:
    """Seconds and bytes of one step of every kind, on random images."""
    found: dict[str, tuple[float, int]] = {}
    experiment = Experiment(
        name="calibration",
        data=DataConfig(),
        model=net.name,
        ipc=-(-images // net.classes),
        distill=DistillSettings(inner_steps=STEPS, batch_syn=images),
        device=device,
    )
    probe = Probe(experiment, Facts(net.shape, net.classes, images, images))
    for kind, method in (("plain", MTT), ("penalised", AST)):
        found[kind] = probe.expert_step(method, images, penalty=True)
        progress.step()
    for estimator, kind in ESTIMATORS.items():
        seconds, held = probe.outer_step(experiment.replace(method=MTT.replace(estimator=estimator())))
        found[kind] = seconds / STEPS, held
        progress.step()
    return found


def fitted(units: Units, costs: list[tuple[float, int]]) -> Rate:
    """The rate that is nearest to the costs at all `POINTS`, by their ratios; no part of it is negative."""
    from scipy.optimize import nnls

    seconds = torch.tensor([taken for taken, _ in costs], dtype=torch.float64)
    counts = torch.tensor([_counts(net, units, images) for net, images in POINTS], dtype=torch.float64)
    scale = counts.amax(dim=0)
    found = (
        torch.from_numpy(nnls((counts / scale / seconds[:, None]).numpy(), torch.ones(len(costs)).numpy())[0]) / scale
    )
    net, images = POINTS[-1]
    call, plane, operation = found.tolist()
    return Rate(call=call, plane=plane, operation=operation, bytes=costs[-1][1] / (images * net.size**2 * net.width))


def _counts(net: Net, units: Units, images: int) -> tuple[float, float, float]:
    """A call, the numbers that come out of its convolutions, its operations."""
    return 1.0, float(images * net.planes), convnet_work(net, units, images).operations
