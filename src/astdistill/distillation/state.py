"""The mutable state of a distillation, and its file."""

from __future__ import annotations

import json
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
from ..runtime.files import load_tensors, parse_json, reading, save_tensors
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
    """Steps that the method's threshold passed over, which is not a failure."""
    passed_in_a_row: int = 0
    best: dict[str, float] = field(default_factory=dict)
    """iteration and accuracy of the best set by the validation split."""
    plateau: dict[str, float] = field(default_factory=dict)
    """With `DistillSettings.plateau`: the lowest loss, the steps since then, and how often the rates were halved."""

    def count(self, skipped: bool, passed: bool) -> None:
        """Count one outer step, which failed, was passed over, or was taken."""
        self.iteration += 1
        self.skipped, self.skipped_in_a_row = self.skipped + skipped, (self.skipped_in_a_row + 1) * skipped
        self.passed, self.passed_in_a_row = self.passed + passed, (self.passed_in_a_row + 1) * passed

    def written(self) -> dict[str, Any]:
        """The values for the file; `plateau` is omitted if it is not used."""
        return {name: value for name, value in vars(self).items() if value or name != "plateau"}


@dataclass(frozen=True)
class Snapshot:
    """Everything that a step changes: tensors by their names in the file, the state of the outer step, and the counters
    of the run as they are written."""

    tensors: dict[str, Tensor]
    step: StepState
    counters: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path, key: str) -> None:
        """Write the snapshot; `key` is a digest of everything the run depends on. Without writing, raises DivergedError
        if a number in a tensor is not finite, and InputError for a counter of the outer step that JSON cannot hold."""
        for name, tensor in (self.tensors | dict(self.step.tensors)).items():
            if not bool(tensor.isfinite().all()):
                raise DivergedError(
                    f"'{name}' of the run's state is not finite, so that {path} is left as it is; lower the learning "
                    "rates (--distill.lr-img, --distill.lr-lr, --distill.lr-init) and start in a new folder."
                )
        _check_step_counters(self.step.counters)
        step_tensors = {f"{OF_STEP}{name}": tensor for name, tensor in self.step.tensors.items()}
        header = {"key": key, "counters": self.counters}
        if self.step.counters:
            header["step"] = dict(self.step.counters)
        save_tensors(path, self.tensors | step_tensors, header)


class DistillState:
    """The learned tensors, by name, with φ (see `methods.outer`) in place of η; the outer optimiser, the moving
    averages, the state of the outer step, and the counters.

    `further` holds tensors that are learned besides images, targets and η, and `step` the state of the outer step.
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
        phi = torch.full((), settings.lr_init, dtype=torch.float32, device=images.device)
        initial = {"images": images, "targets": targets, "lr": phi, **(further or {})}
        self.learned = {name: tensor.detach().clone() for name, tensor in initial.items()}
        self.average = {name: tensor.clone() for name, tensor in self.learned.items() if name != "lr"}
        self.step, self.counters = step or StepState(), Counters()
        self._before_last_step: Snapshot | None = None
        self._before_trial: Snapshot | None = None
        self._next_step = self.step
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
        """A copy of the tensors at which a meta-gradient is taken, which an outer step may write into."""
        return Variables(**self.learned | {"lr": self.lr}).clone()

    @property
    def averaged(self) -> Variables:
        """A copy of the moving averages, or of the variables if the method does not average, and of η."""
        return Variables(**self.average, lr=self.lr).clone()

    def attempt(
        self,
        gradients: Mapping[str, Tensor],
        step: StepState | None = None,
        project: Callable[[Mapping[str, Tensor]], None] = lambda learned: None,
        then: Sequence[Callable[[Variables], MetaGradient]] = (),
    ) -> dict[str, Scalar]:
        """Take one outer step along −gradients, on trial until `keep` or `undo`; returns the scalars, on the device,
        that `refusal` evaluates. `step` is the new state of the outer step; `project` changes the learned tensors in
        place after the step of the optimiser (see `OuterStep.project`). Each function of `then` returns a further
        gradient at the current variables, which the optimiser follows too; the returned `loss` is then the sum of all
        losses.

        The step is on trial so that the numbers which decide about it can be read together with everything else about
        the step.
        """
        self._before_trial, self._next_step = self._copy(), step or self.step
        self._optimiser_step(gradients)
        losses = [gradients.loss] if isinstance(gradients, MetaGradient) else []
        for further_gradient in then:
            gradient = further_gradient(self.variables)
            self._optimiser_step(gradient)
            losses.append(gradient.loss)
        self._project(project)
        loss = {"loss": torch.stack(losses).sum()} if then else {}
        checked = {
            "set is finite": self.learned,
            "step is finite": self._next_step.tensors,
            "optimiser is finite": self._optimiser_tensors(),
        }
        finite = {
            label: torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).all()
            for label, tensors in checked.items()
            if tensors
        }
        return {"new lr": self.lr} | loss | finite

    def _project(self, project: Callable[[Mapping[str, Tensor]], None]) -> None:
        """Let `project` change the learned tensors in place. Raises InputError if it assigned others to their names,
        which would never be moved: the optimiser holds these very tensors."""
        given = dict(self.learned)
        project(given)
        for name, tensor in self.learned.items():
            if given.get(name) is not tensor:
                raise InputError(
                    f"The outer step's project assigned another tensor to learned['{name}']; change the tensor in "
                    f"place, for example: learned['{name}'].clamp_(min=0)."
                )

    def _optimiser_step(self, gradients: Mapping[str, Tensor]) -> None:
        """Take one step of the optimiser; tensors without a gradient get a gradient of zero."""
        slope = self.method.synthetic_lr.slope(self.phi, self.settings.lr_init)
        for name in self.method.learn:
            tensor = self.learned[name]
            gradient = gradients.get(name, torch.zeros_like(tensor))
            tensor.grad = gradient * slope if name == "lr" else shortened(gradient, self.settings.outer_grad_norm)
        self.optimiser.step()

    def _optimiser_tensors(self) -> dict[str, Tensor]:
        """Tensors of the optimiser on the device of the set; its counts may lie elsewhere."""
        optimiser_tensors = pack(self.optimiser)
        return {name: tensor for name, tensor in optimiser_tensors.items() if tensor.device == self.images.device}

    @staticmethod
    def refusal(seen: Mapping[str, float]) -> str:
        """Empty, or the reason why a step cannot be kept; `seen` holds the numbers that `attempt` returned."""
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
        self._update_averages()
        self.step = self._next_step
        self._before_last_step, self._before_trial = self._before_trial, None

    def settle(self, loss: float) -> bool:
        """Halve the learning rates if, with the loss of this kept step, a plateau has lasted long enough (as torch's
        ReduceLROnPlateau does). Returns whether they were halved."""
        if not self.settings.plateau:
            return False
        plateau = {"lowest": math.inf, "since": 0, "halved": 0} | self.counters.plateau
        if loss < plateau["lowest"] * (1 - FLAT):
            self.counters.plateau = plateau | {"lowest": loss, "since": 0}
            return False
        exceeded = plateau["since"] + 1 > self.settings.plateau
        self.counters.plateau = plateau | {
            "since": (plateau["since"] + 1) * (not exceeded),
            "halved": plateau["halved"] + exceeded,
        }
        self._set_rates()
        return exceeded

    def _set_rates(self) -> None:
        """Set the learning rates to those of the settings, halved as often as counted."""
        factor = 0.5 ** self.counters.plateau.get("halved", 0)
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = factor * rate

    def undo(self) -> None:
        """Undo the step that is on trial: everything is restored."""
        if self._before_trial is not None:
            self._restore(self._before_trial)
        self._before_trial = None

    def roll_back(self) -> None:
        """Undo the last step that was kept: its gradient was finite, so the state before it was good, while that after
        it may not be. Its contribution to the count of a plateau is undone too."""
        if self._before_last_step is not None:
            self._restore(self._before_last_step)
            self.counters.plateau = dict(self._before_last_step.counters.get("plateau", {}))
            self._set_rates()
        self._before_last_step, self.counters.skipped_in_a_row, self.counters.passed_in_a_row = None, 0, 0

    def _update_averages(self) -> None:
        decay = self.method.ema_decay
        for name, mean in self.average.items():
            mean.mul_(decay).add_(self.learned[name], alpha=1 - decay)

    def latest(self) -> Snapshot:
        """The whole state, sharing its memory; or, while a step is on trial, a copy of the state before it."""
        return self._before_trial or self._current()

    @staticmethod
    def read(
        path: Path, keys: Collection[str], method: Method, settings: DistillSettings, device: torch.device
    ) -> DistillState:
        """Read what `save` wrote with one of `keys`. Raises InputError if the file belongs to a run with other
        settings."""
        written, header = load_tensors(path, mend="delete that folder and run the same command again")
        if header.get("key") not in keys:
            raise InputError(
                f"{path} belongs to a run with other data, experts or settings; choose another --out, or delete that "
                f"folder."
            )
        with reading(path, "the state of a run", "delete that folder, and run the same command again"):
            tensors = {name: tensor.to(device) for name, tensor in written.items()}
            step = StepState(_with_prefix(tensors, OF_STEP), header.get("step", {}))
            further = _with_prefix(tensors, OF_FURTHER)
            state = DistillState(tensors["images"], tensors["targets"], method, settings, further, step)
            state._restore(Snapshot(written, step))
            state.counters = Counters(**_check_counters(header["counters"]))
            state._set_rates()
        return state

    def _current(self) -> Snapshot:
        """Everything that a step changes, sharing its memory."""
        tensors = {_name_in_file(name): tensor for name, tensor in self.learned.items()} | pack(self.optimiser)
        if self.method.ema_decay:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        return Snapshot(tensors, self.step, self.counters.written())

    def _copy(self) -> Snapshot:
        """A copy of everything that a step changes."""
        current = self._current()
        return replace(current, tensors={name: tensor.clone() for name, tensor in current.tensors.items()})

    def _restore(self, snapshot: Snapshot) -> None:
        """Restore what `_current` returned."""
        for name, tensor in self.learned.items():
            tensor.copy_(snapshot.tensors[_name_in_file(name)])
        for name, mean in self.average.items():
            mean.copy_(snapshot.tensors.get(f"average.{name}", snapshot.tensors[_name_in_file(name)]))
        unpack(self.optimiser, snapshot.tensors)
        self.step = snapshot.step


FLAT = 1e-4
"""Relative amount by which a loss must be below the lowest one to end a plateau."""
OF_FURTHER, OF_STEP = "learned.", "step."
"""Prefixes, in the file, of the names of tensors that are learned besides images, targets and η, and of those of the
state of the outer step."""
FIRST_THREE = {"images": "images", "targets": "targets", "lr": "phi"}
"""The names that three of the learned tensors have in the file."""


def _name_in_file(name: str) -> str:
    return FIRST_THREE.get(name, OF_FURTHER + name)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with `prefix`, by their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_counters(header: dict[str, Any]) -> dict[str, Any]:
    counters = {name: header[name] for name in vars(Counters()) if name in header}
    counts = {name: value for name, value in counters.items() if name not in ("best", "plateau")}
    invalid = [name for name, value in counts.items() if type(value) is not int or value < 0]
    plateau = counters.get("plateau") or {"halved": 0, "since": 0, "lowest": 0.0}
    if not all(math.isfinite(plateau[name]) for name in ("halved", "since", "lowest")):
        invalid.append("plateau")
    if invalid:
        raise ValueError(f"{invalid[0]} is no count")
    return counters


def _check_step_counters(counters: Mapping[str, Any]) -> None:
    """Raise InputError for a counter of an outer step that could not be read back from the file."""
    for name, value in counters.items():
        try:
            parse_json(json.dumps(value))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"The outer step keeps {str(value)[:40]} as its counter '{name}', which JSON cannot hold ({error}), so "
                "that the state of the run is not saved; keep finite numbers, texts, lists and dictionaries in "
                "`counters`, and tensors in `tensors`."
            ) from error


def outer_optimiser(
    kind: Literal["sgd", "adam", "adamw"], decay: float, groups: Sequence[tuple[Tensor, float, float]]
) -> torch.optim.Optimizer:
    """The optimiser of tensors, each with its learning rate and its momentum (β_1 for Adam); `decay` is the weight
    decay of AdamW. Without tensors it is an optimiser that changes nothing."""
    if not groups:
        return torch.optim.SGD([torch.zeros((), dtype=torch.float32)], lr=0.0)
    if kind != "sgd":
        parameter_groups = [
            {"params": [tensor], "lr": rate, "betas": (momentum, 0.999)} for tensor, rate, momentum in groups
        ]
        if kind == "adam":
            return torch.optim.Adam(parameter_groups)
        return torch.optim.AdamW(parameter_groups, weight_decay=decay)
    return torch.optim.SGD(
        [{"params": [tensor], "lr": rate, "momentum": momentum} for tensor, rate, momentum in groups], lr=groups[0][1]
    )


def shortened(gradient: Tensor, bound: float) -> Tensor:
    """`gradient`, scaled down to a norm of at most `bound`; 0 means no bound."""
    return gradient * (bound / gradient.norm()).clamp_max(1.0) if bound else gradient
