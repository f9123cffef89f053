"""Which segment an outer step imitates, and where its student starts."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from ...experts import Segment, TrajectoryStore
from ...models import FlatModel
from ...records import Part
from ...seeds import rng, sent
from ...shapes import Params


class Sample(Part):
    """Draws one expert and one start epoch for an outer step."""

    def __call__(self, experts: TrajectoryStore, iteration: int, max_start_epoch: int, matched_epochs: int, seed: int) -> Segment:
        """The segment of outer step `iteration`."""
        raise NotImplementedError


class UniformSample(Sample):
    """Any expert, t ~ U{0 … max_start_epoch − 1} (MTT, METHOD §1.1)."""

    def __call__(self, experts: TrajectoryStore, iteration: int, max_start_epoch: int, matched_epochs: int, seed: int) -> Segment:
        generator = rng(seed, "segment", iteration)
        numbers = experts.experts()
        expert = numbers[int(torch.randint(len(numbers), (), generator=generator))]
        epoch = int(torch.randint(max_start_epoch, (), generator=generator))
        return experts.segment(expert, epoch, matched_epochs)


class Perturb(Part):
    """Changes the student's start; the identity here (MTT)."""

    def __call__(self, start: Params, model: FlatModel, generator: torch.Generator) -> Params:
        """The perturbed start, `[P]`."""
        return start


class WeightPerturbation(Perturb):
    """AST, METHOD §2 part 6, sound: θ'_l = θ_l + α ‖θ_l‖_F · d/‖d‖_F with d ~ N(0, I), for convolution kernels only."""

    alpha: float = Field(default=0.01, ge=0)
    """α: the relative size of the change of every kernel; 0.01 is what the released form comes to (0.3 to 1.7 %)."""

    def __call__(self, start: Params, model: FlatModel, generator: torch.Generator) -> Params:
        changed = start.clone()
        for kernel in model.kernels:
            weights = start[kernel]
            direction = sent(torch.randn(len(weights), generator=generator), start.device).to(start)
            changed[kernel] = weights + self.change(weights, direction)
        return changed

    def change(self, weights: Tensor, direction: Tensor) -> Tensor:
        """What is added to the weights of one kernel."""
        return self.alpha * weights.norm() * direction / direction.norm()


class WeightPerturbationAsReleased(WeightPerturbation):
    """AST, METHOD §2 part 6, as released: θ'_l = θ_l + α (d/‖d‖_F) ∘ θ_l, which changes a kernel by 0.3 to 1.7 %."""

    alpha: float = Field(default=1.0, ge=0)

    def change(self, weights: Tensor, direction: Tensor) -> Tensor:
        return self.alpha * direction / direction.norm() * weights


class InnerWeight(Part):
    """The factor on the student's loss as a function of the start epoch; 1 here (MTT)."""

    def __call__(self, epoch: int, max_start_epoch: int) -> float:
        """w(t) for t = `epoch`."""
        return 1.0


class BalancedWeight(InnerWeight):
    """AST, METHOD §2 part 4, sound: w = log_a(t − h + 8) for t ≥ h, else 1/log_a(h − t + 8), with h = max_start_epoch / 2 and a = 8."""

    base: float = Field(default=8.0, gt=1)
    """a: with 8 the weight is continuous at h."""

    def __call__(self, epoch: int, max_start_epoch: int) -> float:
        return _balance(epoch - max_start_epoch / 2, self.base)


class BalancedWeightAsReleased(InnerWeight):
    """AST, METHOD §2 part 4, as released: a = 5 and h = max_start_epoch // 2, which jumps from 0.73 to 1.29 at h."""

    base: float = Field(default=5.0, gt=1)

    def __call__(self, epoch: int, max_start_epoch: int) -> float:
        return _balance(epoch - max_start_epoch // 2, self.base)


def _balance(offset: float, base: float) -> float:
    logarithm = math.log(abs(offset) + 8, base)
    return logarithm if offset >= 0 else 1 / logarithm
