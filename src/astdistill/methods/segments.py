"""Which segment an outer step matches, and where its student starts."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from ..experts.store import Segment, TrajectoryStore
from ..models.flat import FlatModel
from ..runtime.config import Component
from ..runtime.errors import InputError
from ..runtime.seeds import rng, to_device
from ..runtime.shapes import Params


class SegmentSampler(Component):
    """Draws one expert and one start epoch for an outer step."""

    def check(self, max_start_epoch: int) -> None:
        """Raise InputError if this sampler cannot draw a start epoch below `max_start_epoch`.

        Args:
            max_start_epoch: Start epochs lie below it.
        """

    def __call__(
        self, experts: TrajectoryStore, iteration: int, max_start_epoch: int, matched_epochs: int, seed: int
    ) -> Segment:
        """The segment of outer step `iteration`.

        Args:
            experts: The store.
            iteration: The outer step, counted from 0.
            max_start_epoch: Start epochs lie below it.
            matched_epochs: M, the length of the segment in epochs.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        raise NotImplementedError


class UniformSampler(SegmentSampler):
    """Any expert, t ~ U{0 … max_start_epoch − 1} (MTT, docs/method.md, section 1, step 1)."""

    def __call__(
        self, experts: TrajectoryStore, iteration: int, max_start_epoch: int, matched_epochs: int, seed: int
    ) -> Segment:
        return _draw_segment(experts, iteration, 0, max_start_epoch, matched_epochs, seed)


class GrowingWindow(SegmentSampler):
    """Any expert, t ~ U{lower … upper − 1}, where `upper` grows evenly from `begins` to max_start_epoch (DATM, arXiv
    2310.05773, section 3.3).

    With max_start_epoch = m: upper(i) = begins + ⌊(m − begins) i / full_by⌋ at outer step i < full_by, and m from there
    on.
    """

    lower: int = Field(default=0, ge=0)
    """Smallest start epoch."""
    begins: int | None = Field(default=None, ge=1)
    """Upper bound of the start epoch at the first outer step, exclusive. It has no effect if full_by is 0. Default:
    max_start_epoch."""
    full_by: int = Field(default=0, ge=0)
    """Outer step from which the upper bound is max_start_epoch. It has no effect without begins."""

    def unread(self) -> tuple[str, ...]:
        idle = {"begins": not self.full_by, "full_by": self.begins is None}
        return tuple(name for name, holds in idle.items() if holds)

    def check(self, max_start_epoch: int) -> None:
        upper = self.upper(0, max_start_epoch)
        if not self.lower < upper <= max_start_epoch:
            raise InputError(
                f"Start epochs from {self.lower} to below {upper}, of at most {max_start_epoch}, were given; choose "
                "--method.sample.lower below --method.sample.begins, and that at most --method.step.max-start-epoch."
            )

    def upper(self, iteration: int, max_start_epoch: int) -> int:
        """The bound of the window at outer step `iteration`; start epochs lie below it.

        Args:
            iteration: The outer step, counted from 0.
            max_start_epoch: The bound of the whole window.
        """
        if self.begins is None or iteration >= self.full_by:
            return max_start_epoch
        return self.begins + (max_start_epoch - self.begins) * iteration // self.full_by

    def __call__(
        self, experts: TrajectoryStore, iteration: int, max_start_epoch: int, matched_epochs: int, seed: int
    ) -> Segment:
        return _draw_segment(
            experts, iteration, self.lower, self.upper(iteration, max_start_epoch), matched_epochs, seed
        )


class Cycle(GrowingWindow):
    """Every expert once in a shuffled order, then all again in a new order (MTT and successors as released, unless they
    load all experts at once); start epochs as in GrowingWindow.

    The released code shuffles files of experts, and the experts within a file; here the whole store is one file.
    """

    def __call__(
        self, experts: TrajectoryStore, iteration: int, max_start_epoch: int, matched_epochs: int, seed: int
    ) -> Segment:
        numbers = experts.experts()
        cycle, position = divmod(iteration, len(numbers))
        order = torch.randperm(len(numbers), generator=rng(seed, "cycle", cycle))
        generator = rng(seed, "segment", iteration)
        epoch = int(torch.randint(self.lower, self.upper(iteration, max_start_epoch), (), generator=generator))
        return experts.segment(numbers[int(order[position])], epoch, matched_epochs)


class Perturbation(Component):
    """Changes the student's start; the identity here (MTT)."""

    def __call__(self, start: Params, model: FlatModel, generator: torch.Generator) -> Params:
        """The perturbed start, `[P]`.

        Args:
            start: θ*_t `[P]`.
            model: The network, for the positions of its kernels in θ.
            generator: CPU generator of all random draws.
        """
        return start


class WeightPerturbation(Perturbation):
    """AST, docs/method.md, section 2, part 6, corrected: θ'_l = θ_l + α ‖θ_l‖_F · d/‖d‖_F with d ~ N(0, I), for
    convolution kernels only."""

    alpha: float = Field(default=0.01, ge=0)
    """α, the size of the perturbation relative to the norm of each kernel. The released form amounts to 0.003 to
    0.017."""

    def __call__(self, start: Params, model: FlatModel, generator: torch.Generator) -> Params:
        changed = start.clone()
        for kernel in model.kernels:
            weights = start[kernel]
            direction = to_device(torch.randn(len(weights), generator=generator, dtype=torch.float32), start.device).to(
                start
            )
            changed[kernel] = weights + self.change(weights, direction)
        return changed

    def change(self, weights: Tensor, direction: Tensor) -> Tensor:
        """The perturbation that is added to the weights of one kernel.

        Args:
            weights: Weights of the kernel, as one vector.
            direction: d ~ N(0, I), of the same length.
        """
        return self.alpha * weights.norm() * direction / direction.norm()


class WeightPerturbationAsReleased(WeightPerturbation):
    """AST, docs/method.md, section 2, part 6, as released: θ'_l = θ_l + α (d/‖d‖_F) ∘ θ_l, which changes a kernel by
    0.3 to 1.7 %."""

    alpha: float = Field(default=1.0, ge=0)
    """α, the size of the perturbation of each kernel as in the released code, where 1 changes a kernel by 0.3 to
    1.7 %."""

    def change(self, weights: Tensor, direction: Tensor) -> Tensor:
        return self.alpha * direction / direction.norm() * weights


class InnerWeight(Component):
    """The factor on the student's loss as a function of the start epoch; 1 here (MTT)."""

    def __call__(self, epoch: int, max_start_epoch: int) -> float:
        """w(t) for t = `epoch`.

        Args:
            epoch: t, the start epoch of the segment, counted from 0.
            max_start_epoch: Start epochs lie below it.
        """
        return 1.0


class BalancedWeight(InnerWeight):
    """AST, docs/method.md, section 2, part 4, corrected: w = log_a(t − h + 8) for t ≥ h, else 1/log_a(h − t + 8), with
    h = max_start_epoch / 2 and a = 8."""

    base: float = Field(default=8.0, gt=1)
    """Base a of the logarithm, above 1. With 8 the weight is continuous at h = max_start_epoch / 2."""

    def __call__(self, epoch: int, max_start_epoch: int) -> float:
        return _balance(epoch - max_start_epoch / 2, self.base)


class BalancedWeightAsReleased(InnerWeight):
    """AST, docs/method.md, section 2, part 4, as released: a = 5 and h = max_start_epoch // 2, which jumps from 0.73 to
    1.29 at h."""

    base: float = Field(default=5.0, gt=1)
    """Base a of the logarithm, above 1. With 5 the weight jumps at h = max_start_epoch // 2."""

    def __call__(self, epoch: int, max_start_epoch: int) -> float:
        return _balance(epoch - max_start_epoch // 2, self.base)


def _balance(offset: float, base: float) -> float:
    logarithm = math.log(abs(offset) + 8, base)
    return logarithm if offset >= 0 else 1 / logarithm


def _draw_segment(experts: TrajectoryStore, iteration: int, lower: int, upper: int, length: int, seed: int) -> Segment:
    """Draw any expert, and any start epoch from `lower` up to but not including `upper`."""
    generator = rng(seed, "segment", iteration)
    expert = experts.drawn(generator)
    return experts.segment(expert, int(torch.randint(lower, upper, (), generator=generator)), length)
