"""What changes during a distillation, and its file."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..autodiff.training import pack, unpack
from ..methods.method import Method
from ..methods.outer_step import StepState
from ..methods.unroll import MetaGradient, Variables
from ..runtime.errors import DivergedError, InputError
from ..runtime.files import load_tensors, reading, save_tensors
from ..runtime.shapes import Images, Scalar, Targets
from .settings import DistillSettings


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
    plateau: dict[str, float] = field(default_factory=dict)
    """With `DistillSettings.plateau`: the lowest loss, the steps since then, and how often the rates were halved."""

    def count(self, skipped: bool, passed: bool) -> None:
        """One more outer step, which failed, was passed over, or was taken."""
        self.iteration += 1
        self.skipped, self.skipped_in_a_row = self.skipped + skipped, (self.skipped_in_a_row + 1) * skipped
        self.passed, self.passed_in_a_row = self.passed + passed, (self.passed_in_a_row + 1) * passed

    def written(self) -> dict[str, Any]:
        """For the file; what only a plateau needs is written for one alone."""
        return {name: value for name, value in vars(self).items() if value or name != "plateau"}


@dataclass(frozen=True)
class Snapshot:
    """Everything that a step changes: tensors by their names in the file, what the outer step keeps, and the counters
    of the run as they are written."""

    tensors: dict[str, Tensor]
    step: StepState
    counters: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path, key: str) -> None:
        """Write it; `key` is a digest of everything the run depends on. Raises DivergedError, with nothing written,
        where a number of it is not finite."""
        for name, tensor in (self.tensors | dict(self.step.tensors)).items():
            if not bool(tensor.isfinite().all()):
                raise DivergedError(
                    f"'{name}' of the run's state is not finite, so that {path} is left as it is; lower the learning "
                    "rates (--distill.lr-img, --distill.lr-lr, --distill.lr-init) and start in a new folder."
                )
        own = {f"{OF_STEP}{name}": tensor for name, tensor in self.step.tensors.items()}
        header = {"key": key, "counters": self.counters}
        if self.step.counters:
            header["step"] = dict(self.step.counters)
        save_tensors(path, self.tensors | own, header)


class DistillState:
    """What is learned, by name, with φ (see `methods.outer`) in place of η; the outer optimiser, the moving averages,
    what the outer step keeps, and the counters.

    `further` is learned besides images, targets and η, and `step` is what the outer step keeps.
    """

    def __init__(
        self,
        images: Images,
        targets: Targets,
        method: Method,
        settings: DistillSettings,
        further: Mapping[str, Tensor] | None = None,
        step: StepState | None = None,
    ) -> None:
        self.method, self.settings = method, settings
        phi = torch.full((), settings.lr_init, device=images.device)
        begun = {"images": images, "targets": targets, "lr": phi, **(further or {})}
        self.learned = {name: tensor.detach().clone() for name, tensor in begun.items()}
        self.average = {name: tensor.clone() for name, tensor in self.learned.items() if name != "lr"}
        self.step, self.counters = step or StepState(), Counters()
        self._before: Snapshot | None = None
        self._untried: Snapshot | None = None
        self._next = self.step
        rates = {"images": settings.lr_img, "targets": settings.lr_targets, "lr": settings.lr_lr, **method.step.rates()}
        momenta = {"targets": settings.targets_momentum}
        self.optimiser = outer_optimiser(
            settings.outer_optimiser,
            settings.outer_decay,
            [(self.learned[name], rates[name], momenta.get(name, settings.outer_momentum)) for name in method.learn],
        )
        self._rates = [group["lr"] for group in self.optimiser.param_groups]

    @property
    def images(self) -> Images:
        """X."""
        return self.learned["images"]

    @property
    def targets(self) -> Targets:
        """Y."""
        return self.learned["targets"]

    @property
    def phi(self) -> Scalar:
        """φ."""
        return self.learned["lr"]

    @property
    def lr(self) -> Scalar:
        """η."""
        return self.method.synthetic_lr.value(self.phi, self.settings.lr_init)

    @property
    def variables(self) -> Variables:
        """What a meta-gradient is taken at."""
        return Variables(**self.learned | {"lr": self.lr})

    @property
    def averaged(self) -> Variables:
        """The moving averages, which are the variables themselves where the method does not average, and η."""
        return Variables(**self.average, lr=self.lr)

    def attempt(
        self,
        gradients: Mapping[str, Tensor],
        step: StepState | None = None,
        project: Callable[[Mapping[str, Tensor]], None] = lambda learned: None,
        then: Sequence[Callable[[Variables], MetaGradient]] = (),
    ) -> dict[str, Scalar]:
        """Take one outer step along −gradients, on trial until `keep` or `undo`; the scalars, on the device, of which
        `refusal` judges. `step` is what the outer step is to keep then; `project` changes what is learned in place once
        the optimiser has moved it (see `OuterStep.project`). Each of `then` gives a further gradient, at the variables
        of that moment, which the optimiser follows too; the scalars then have the sum of all `loss`es.

        On trial, because whether it is kept can then be read together with everything else about the step.
        """
        self._untried, self._next = self._snapshot(), step or self.step
        self._move(gradients)
        losses = [gradients.loss] if isinstance(gradients, MetaGradient) else []
        for part in then:
            gradient = part(self.variables)
            self._move(gradient)
            losses.append(gradient.loss)
        project(self.learned)
        loss = {"loss": torch.stack(losses).sum()} if then else {}
        judged = {
            "set is finite": self.learned,
            "step is finite": self._next.tensors,
            "optimiser is finite": self._averages(),
        }
        finite = {
            what: torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).all()
            for what, tensors in judged.items()
            if tensors
        }
        return {"new lr": self.lr} | loss | finite

    def _move(self, gradients: Mapping[str, Tensor]) -> None:
        """One step of the optimiser; what has no gradient has a zero one."""
        slope = self.method.synthetic_lr.slope(self.phi, self.settings.lr_init)
        for name in self.method.learn:
            tensor = self.learned[name]
            gradient = gradients.get(name, torch.zeros_like(tensor))
            tensor.grad = gradient * slope if name == "lr" else shortened(gradient, self.settings.outer_grad_norm)
        self.optimiser.step()

    def _averages(self) -> dict[str, Tensor]:
        """What the optimiser keeps, where the set lies; its counts may lie elsewhere."""
        kept = pack(self.optimiser)
        return {name: tensor for name, tensor in kept.items() if tensor.device == self.images.device}

    @staticmethod
    def refusal(seen: Mapping[str, float]) -> str:
        """Empty, or why a step cannot be kept; `seen` are the numbers that `attempt` gave."""
        if not 0 < seen["new lr"] < math.inf:
            return (
                f"the learning rate would become {seen['new lr']:g}; lower --distill.lr-lr, or learn its logarithm "
                f"(--part synthetic_lr=LogSyntheticLr)"
            )
        if not seen["set is finite"]:
            return "the images would stop being finite; lower --distill.lr-img"
        if not seen.get("optimiser is finite", True):
            return "the outer optimiser's averages would stop being finite; lower --distill.outer-grad-norm"
        if not seen.get("step is finite", True):
            return "what the outer step keeps would stop being finite; lower the rates in --method.step"
        return ""

    def keep(self) -> None:
        """Keep the step that is on trial."""
        self._average()
        self.step = self._next
        self._before, self._untried = self._untried, None

    def settle(self, loss: float) -> bool:
        """Halve the learning rates where the loss of a kept step says that a plateau has lasted long enough (as
        torch's ReduceLROnPlateau does); whether that was done."""
        if not self.settings.plateau:
            return False
        seen = {"lowest": math.inf, "since": 0, "halved": 0} | self.counters.plateau
        if loss < seen["lowest"] * (1 - FLAT):
            self.counters.plateau = seen | {"lowest": loss, "since": 0}
            return False
        late = seen["since"] + 1 > self.settings.plateau
        self.counters.plateau = seen | {"since": (seen["since"] + 1) * (not late), "halved": seen["halved"] + late}
        self._set_rates()
        return late

    def _set_rates(self) -> None:
        """The learning rates of the settings, as often halved as was counted."""
        share = 0.5 ** self.counters.plateau.get("halved", 0)
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = share * rate

    def undo(self) -> None:
        """Take back the step that is on trial: everything is as it was before."""
        if self._untried is not None:
            self._put(self._untried)
        self._untried = None

    def roll_back(self) -> None:
        """Undo the last step that was kept: its gradient was finite, so it led from a good state, perhaps into a bad
        one. What it has counted towards a plateau is undone with it."""
        if self._before is not None:
            self._put(self._before)
            self.counters.plateau = dict(self._before.counters.get("plateau", {}))
            self._set_rates()
        self._before, self.counters.skipped_in_a_row, self.counters.passed_in_a_row = None, 0, 0

    def _average(self) -> None:
        decay = self.method.ema_decay
        for name, mean in self.average.items():
            mean.mul_(decay).add_(self.learned[name], alpha=1 - decay)

    def latest(self) -> Snapshot:
        """The whole state, in memory that changes with it; or, while a step is on trial, as it was before, in memory
        of its own."""
        return self._untried or self._now()

    @staticmethod
    def read(
        path: Path, keys: Collection[str], method: Method, settings: DistillSettings, device: torch.device
    ) -> DistillState:
        """What `save` wrote with one of `keys`. Raises InputError when the file belongs to a run of other settings."""
        written, header = load_tensors(path, mend="delete that folder and run the same command again")
        if header.get("key") not in keys:
            raise InputError(
                f"{path} belongs to a run with other data, experts or settings; choose another --out, or delete that "
                f"folder."
            )
        with reading(path, "the state of a run", "delete that folder, and run the same command again"):
            tensors = {name: tensor.to(device) for name, tensor in written.items()}
            step = StepState(_named(tensors, OF_STEP), header.get("step", {}))
            further = _named(tensors, OF_FURTHER)
            state = DistillState(tensors["images"], tensors["targets"], method, settings, further, step)
            state._put(Snapshot(written, step))
            state.counters = Counters(**_counters(header["counters"]))
            state._set_rates()
        return state

    def _now(self) -> Snapshot:
        """Everything that a step changes."""
        tensors = {_in_file(name): tensor for name, tensor in self.learned.items()} | pack(self.optimiser)
        if self.method.ema_decay:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        return Snapshot(tensors, self.step, self.counters.written())

    def _snapshot(self) -> Snapshot:
        """The same in memory of its own."""
        now = self._now()
        return replace(now, tensors={name: tensor.clone() for name, tensor in now.tensors.items()})

    def _put(self, taken: Snapshot) -> None:
        """Take over what `_now` gave."""
        for name, tensor in self.learned.items():
            tensor.copy_(taken.tensors[_in_file(name)])
        for name, mean in self.average.items():
            mean.copy_(taken.tensors.get(f"average.{name}", taken.tensors[_in_file(name)]))
        unpack(self.optimiser, taken.tensors)
        self.step = taken.step


FLAT = 1e-4
"""The share by which a loss must be below the lowest one to end a plateau."""
OF_FURTHER, OF_STEP = "learned.", "step."
"""What precedes, in the file, the names of what is learned besides images, targets and η, and of what the outer step
keeps."""
FIRST_THREE = {"images": "images", "targets": "targets", "lr": "phi"}
"""The names that three of the learned tensors have in the file."""


def _in_file(name: str) -> str:
    return FIRST_THREE.get(name, OF_FURTHER + name)


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _counters(header: dict[str, Any]) -> dict[str, Any]:
    counted = {name: header[name] for name in vars(Counters()) if name in header}
    plain = {name: value for name, value in counted.items() if name not in ("best", "plateau")}
    wrong = [name for name, value in plain.items() if type(value) is not int or value < 0]
    plateau = counted.get("plateau") or {"halved": 0, "since": 0, "lowest": 0.0}
    if not all(math.isfinite(plateau[name]) for name in ("halved", "since", "lowest")):
        wrong.append("plateau")
    if wrong:
        raise ValueError(f"{wrong[0]} is no count")
    return counted


def outer_optimiser(
    kind: Literal["sgd", "adam", "adamw"], decay: float, groups: Sequence[tuple[Tensor, float, float]]
) -> torch.optim.Optimizer:
    """The optimiser of tensors, each with its learning rate and its momentum (β_1 for Adam); `decay` is that of
    AdamW. Of none, it is one that never has anything to move."""
    if not groups:
        return torch.optim.SGD([torch.zeros(())], lr=0.0)
    if kind != "sgd":
        own = [{"params": [tensor], "lr": rate, "betas": (momentum, 0.999)} for tensor, rate, momentum in groups]
        if kind == "adam":
            return torch.optim.Adam(own)
        return torch.optim.AdamW(own, weight_decay=decay)
    return torch.optim.SGD(
        [{"params": [tensor], "lr": rate, "momentum": momentum} for tensor, rate, momentum in groups], lr=groups[0][1]
    )


def shortened(gradient: Tensor, bound: float) -> Tensor:
    """`gradient`, no longer than `bound`; 0 means any length."""
    return gradient * (bound / gradient.norm()).clamp_max(1.0) if bound else gradient
