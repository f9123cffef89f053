"""What of a run is logged, and when: experts' curves, every outer step, pictures and distributions now and then, the scores."""

from __future__ import annotations

import statistics

import numpy as np
from torch import Tensor

from .devices import read
from .distillation.run import Distillation, Line
from .distillation.state import DistillState
from .evaluation import Scores
from .experts import ExpertCurve, TrajectoryStore
from .logs import Log
from .report import sheet
from .synthetic import SyntheticSet

PICTURES = 50
"""Pictures and distributions of a whole run; the first steps, where most moves, give some more."""
EARLY = (0, 1, 2, 5, 10, 20, 50, 100)
MOST = 100_000
"""Values that a distribution is made from; of more, evenly spaced ones."""


class Recorder:
    """Logs what is worth it; with a log that nobody keeps it does nothing. It never changes what it is told of, and draws no numbers.

    Groups: `experts` (steps: epochs), `distillation` (outer steps), `scores` (outer steps of the set).
    """

    def __init__(self, log: Log) -> None:
        self.log = log

    def experts(self, store: TrajectoryStore) -> None:
        """Log means over the experts and, as a distribution, what each of them reached, for every epoch from 1."""
        if not self.log:
            return
        curves = store.curves()
        for name in ExpertCurve.__dataclass_fields__:
            for epoch, values in enumerate(zip(*(getattr(curve, name) for curve in curves), strict=False), start=1):
                self.log.scalars("experts", {name: statistics.fmean(values)}, epoch)
                self.log.histogram("experts", f"{name} of each", np.array(values), epoch)

    def __call__(self, run: Distillation, state: DistillState, line: Line) -> None:
        """Log one outer step; an observer of `distill`."""
        if not self.log:
            return
        step = int(line["iteration"])
        values = {name: float(line[name]) for name in ("loss", "lr", "validation") if name in line}
        counts = {"skipped": float(state.counters.skipped), "passed": float(state.counters.passed)}
        gradients = {} if "skipped" in line or "passed" in line else _gradients(state)
        norms = read({f"gradient norm of {name}": gradient.norm() for name, gradient in gradients.items()}) if gradients else {}
        self.log.scalars("distillation", values | counts | norms, step)
        if step in EARLY or step % max(10, run.settings.iterations // PICTURES) == 0 or step + 1 == run.settings.iterations:
            self._look(run.result(state), gradients, step)

    def _look(self, synthetic: SyntheticSet, gradients: dict[str, Tensor], step: int) -> None:
        pixels = synthetic.pixels()
        self.log.image("distillation", "images", sheet(pixels, synthetic.ipc), step)
        spreads = {"pixels": pixels, "preprocessed pixels": synthetic.images, "targets": synthetic.targets}
        spreads |= {f"gradient of {name}": gradient for name, gradient in gradients.items() if gradient.numel() > 1}
        for name, values in spreads.items():
            self.log.histogram("distillation", name, _some(values), step)

    def scores(self, scores: Scores, iterations: int) -> None:
        """Log the mean and the spread of every row."""
        for table in (scores.architecture, scores.baselines):
            for name, entry in table.items():
                spread = {} if entry.std is None else {f"{name} deviation": entry.std}
                self.log.scalars("scores", {f"{name} mean": entry.mean, **spread}, iterations)


def _gradients(state: DistillState) -> dict[str, Tensor]:
    """The meta-gradient of each learned thing, as the step has just followed it."""
    learned = {"images": state.images, "targets": state.targets, "lr": state.phi}
    return {name: tensor.grad for name, tensor in learned.items() if tensor.grad is not None}


def _some(values: Tensor) -> np.ndarray:
    flat = values.detach().flatten()
    return flat[:: -(-len(flat) // MOST)].float().cpu().numpy()
