"""What changes during a distillation, and its file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..autodiff.training import pack, unpack
from ..methods.method import Method
from ..methods.unroll import Variables
from ..runtime.errors import InputError
from ..runtime.files import load_tensors, save_tensors
from ..runtime.shapes import Images, Scalar, Targets
from .settings import DistillSettings

LEARNED = ("images", "targets", "lr")


@dataclass
class Counters:
    """Integers and records that are saved with the tensors."""

    iteration: int = 0
    """Outer steps done, skipped and passed ones included."""
    skipped: int = 0
    """Steps that failed: something was not finite, or the step was refused."""
    skipped_in_a_row: int = 0
    passed: int = 0
    """Steps that the method's threshold passed over, which is no failure."""
    passed_in_a_row: int = 0
    best: dict[str, float] = field(default_factory=dict)
    """iteration and accuracy of the best set by the validation split."""

    def count(self, skipped: bool, passed: bool) -> None:
        """One more outer step, which failed, was passed over, or was taken."""
        self.iteration += 1
        self.skipped, self.skipped_in_a_row = self.skipped + skipped, (self.skipped_in_a_row + 1) * skipped
        self.passed, self.passed_in_a_row = self.passed + passed, (self.passed_in_a_row + 1) * passed


class DistillState:
    """X, Y, φ (see `methods.parts.rate`), the outer optimiser, the moving averages and the counters."""

    def __init__(self, images: Images, targets: Targets, method: Method, settings: DistillSettings) -> None:
        self.method, self.settings = method, settings
        self.images, self.targets = images.detach().clone(), targets.detach().clone()
        self.phi: Scalar = torch.full((), settings.lr_init, device=images.device)
        self.average = {"images": self.images.clone(), "targets": self.targets.clone()}
        self.counters = Counters()
        self._before: dict[str, Tensor] | None = None
        self._untried: dict[str, Tensor] | None = None
        rates = {"images": settings.lr_img, "targets": settings.lr_targets, "lr": settings.lr_lr}
        momenta = {"targets": settings.targets_momentum}
        self.optimiser = outer_optimiser(
            settings.outer_optimiser,
            [(self._learned()[name], rates[name], momenta.get(name, settings.outer_momentum)) for name in method.learn],
        )

    def _learned(self) -> dict[str, Tensor]:
        return {"images": self.images, "targets": self.targets, "lr": self.phi}

    @property
    def lr(self) -> Scalar:
        """η."""
        return self.method.rate.value(self.phi, self.settings.lr_init)

    def attempt(self, gradients: Variables) -> dict[str, Scalar]:
        """Take one outer step along −gradients, on trial until `keep` or `undo`; the scalars, on the device, of which
        `refusal` judges.

        On trial, because whether it is kept can then be read together with everything else about the step.
        """
        slope = self.method.rate.slope(self.phi, self.settings.lr_init)
        bound = self.settings.outer_grad_norm
        slopes = {
            "images": shortened(gradients.images, bound),
            "targets": shortened(gradients.targets, bound),
            "lr": gradients.lr * slope,
        }
        self._untried = {name: tensor.clone() for name, tensor in self._tensors().items()}
        for name in self.method.learn:
            self._learned()[name].grad = slopes[name]
        self.optimiser.step()
        finite = torch.stack([tensor.isfinite().all() for tensor in self._learned().values()]).all()
        return {"new lr": self.lr, "finite set": finite}

    @staticmethod
    def refusal(seen: Mapping[str, float]) -> str:
        """Empty, or why a step cannot be kept; `seen` are the numbers that `attempt` gave."""
        if not 0 < seen["new lr"] < math.inf:
            return (
                f"the step size would become {seen['new lr']:g}; lower --distill.lr-lr, or learn its logarithm "
                f"(--part rate=LogRate)"
            )
        return "" if seen["finite set"] else "the images would stop being finite; lower --distill.lr-img"

    def keep(self) -> None:
        """Keep the step that is on trial."""
        self._average()
        self._before, self._untried = self._untried, None

    def undo(self) -> None:
        """Take back the step that is on trial: everything is as it was before."""
        if self._untried is not None:
            self._put(self._untried)
        self._untried = None

    def roll_back(self) -> None:
        """Undo the last step that was kept: its gradient was finite, so it led from a good state, perhaps into a bad
        one."""
        if self._before is not None:
            self._put(self._before)
        self._before, self.counters.skipped_in_a_row, self.counters.passed_in_a_row = None, 0, 0

    def _average(self) -> None:
        decay = self.method.average
        for name, mean in self.average.items():
            mean.mul_(decay).add_(getattr(self, name), alpha=1 - decay)

    def save(self, path: Path, key: str) -> None:
        """Write the whole state, as it was before a step that is on trial; `key` is a digest of everything the run
        depends on."""
        save_tensors(path, self._untried or self._tensors(), {"key": key, "counters": vars(self.counters)})

    def restore(self, path: Path, key: str) -> None:
        """Read what `save` wrote. Raises InputError when the file belongs to a run of other settings."""
        tensors, header = load_tensors(path)
        if header.get("key") != key:
            raise InputError(
                f"{path} belongs to a run with other data, experts or settings; choose another --out, or delete that "
                f"folder."
            )
        self._put(tensors)
        self.counters = Counters(**_counters(header["counters"]))

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that a step changes."""
        tensors = {"images": self.images, "targets": self.targets, "phi": self.phi} | pack(self.optimiser)
        if self.method.average:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        return tensors

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `_tensors` gave."""
        for name, tensor in (("images", self.images), ("targets", self.targets), ("phi", self.phi)):
            tensor.copy_(tensors[name])
        for name, mean in self.average.items():
            mean.copy_(tensors.get(f"average.{name}", tensors[name]))
        unpack(self.optimiser, tensors)


def _counters(header: dict[str, Any]) -> dict[str, Any]:
    return {name: header[name] for name in vars(Counters()) if name in header}


def outer_optimiser(
    kind: Literal["sgd", "adam"], groups: Sequence[tuple[Tensor, float, float]]
) -> torch.optim.Optimizer:
    """The optimiser of tensors, each with its rate and its momentum (β_1 for Adam)."""
    if kind == "adam":
        return torch.optim.Adam(
            [{"params": [tensor], "lr": rate, "betas": (momentum, 0.999)} for tensor, rate, momentum in groups]
        )
    return torch.optim.SGD(
        [{"params": [tensor], "lr": rate, "momentum": momentum} for tensor, rate, momentum in groups], lr=groups[0][1]
    )


def shortened(gradient: Tensor, bound: float) -> Tensor:
    """`gradient`, no longer than `bound`; 0 means any length."""
    return gradient * (bound / gradient.norm()).clamp_max(1.0) if bound else gradient
