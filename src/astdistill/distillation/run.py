"""One distillation run: its components, its initial state, one outer step, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import Dataset
from ..data.synthetic import SyntheticSet
from ..experts.store import TrajectoryStore
from ..methods.initialisation import Initial
from ..methods.method import Method
from ..methods.outer_step import OuterStep, Setup, StepState, Terms, one_after_another
from ..methods.unroll import MetaGradient, Variables
from ..models.flat import FlatModel
from ..runtime.config import digest
from ..runtime.devices import read
from ..runtime.errors import InputError
from ..runtime.files import read_lines, rewrite_lines
from ..runtime.progress import phase
from ..runtime.provenance import provenance
from ..runtime.run_dir import RunDir, sound_metric
from ..runtime.shapes import Images, Targets
from .settings import DistillSettings, first_written
from .snapshots import StartMap
from .state import DistillState

StepRecord = dict[str, float | int | str]
"""What is logged about one outer step."""


@dataclass(frozen=True)
class Distillation:
    """One run: its data, method and settings, and the folder to which it writes (none if `out` is None)."""

    dataset: Dataset
    experts: TrajectoryStore | None
    method: Method
    ipc: int
    settings: DistillSettings
    out: Path | None
    seed: int
    model: FlatModel
    network: str = ""
    """Name of the student network; that of the experts, if there are any."""
    compute_terms: Callable[[OuterStep, Setup, Variables, int, int], Terms] = one_after_another
    """Computes the terms of an outer step (see `sharing.shared`)."""

    @property
    def setup(self) -> Setup:
        """What all outer steps of the run share."""
        network = self.network or (self.experts.identity.model if self.experts else "")
        return Setup(self.dataset, self.experts, network, self.model, self.method, self.settings, self.compute_terms)

    @property
    def step_setup(self) -> Setup:
        """The setup that outer steps receive, in which the sub-images of slots are separate images."""
        if self.settings.factor == 1:
            return self.setup
        return replace(self.setup, settings=self.settings.replace(factor=1))

    def _decoded(self, stored: Variables) -> Variables:
        """The variables that a step receives: each sub-image of a slot is a separate image, with the target of its
        slot."""
        texture = self.settings.texture
        return stored.replace(images=texture.decoded(stored.images), targets=texture.for_each(stored.targets))

    def _encoded(self, gradient: MetaGradient, stored: Variables) -> MetaGradient:
        """The derivatives with respect to the stored variables, from those with respect to the output of `_decoded`.
        Raises InputError for a derivative that no learned tensor can follow."""
        self._check_gradient(gradient, stored)
        texture, changes = self.settings.texture, {}
        if texture.factor == 1:
            return gradient
        if "images" in gradient:
            changes["images"] = texture.encoded_gradient(stored.images, gradient.images)
        if "targets" in gradient:
            changes["targets"] = gradient.targets.unflatten(0, (-1, texture.per_slot)).sum(dim=1)
        return gradient.replace(**changes)

    def _check_gradient(self, gradient: MetaGradient, stored: Variables) -> None:
        """Raise InputError for a derivative of an unknown name, and for one of another shape or type than the learned
        tensor as the step received it."""
        step = type(self.method.step).__name__
        for name in gradient:
            if name not in stored:
                raise InputError(
                    f"{step} gives a derivative with respect to '{name}', but the variables of this run are "
                    f"{', '.join(stored)}; let its MetaGradient have these names."
                )
        for name in self.method.learn:
            if name not in gradient:
                continue
            found, expected = gradient[name], self._shape_given(name, stored[name])
            if list(found.shape) != expected or found.dtype != stored[name].dtype:
                raise InputError(
                    f"{step} gives a derivative of shape {list(found.shape)} as {found.dtype} with respect to "
                    f"'{name}', which has shape {expected} as {stored[name].dtype}; let the two agree."
                )

    def _shape_given(self, name: str, stored: Tensor) -> list[int]:
        """The shape in which a step receives a stored variable: with a row for each sub-image of a slot."""
        if name not in ("images", "targets"):
            return list(stored.shape)
        return [len(stored) * self.settings.texture.per_slot, *stored.shape[1:]]

    @property
    def key(self) -> str:
        """A digest of everything that the images depend on, so that only an equal run is resumed."""
        return self._key({}, self._source_identity)

    @property
    def _accepted_keys(self) -> set[str]:
        """The key, and those that earlier versions wrote: with settings that the step does not read, and, for steps
        that read experts to their end, without the number of epochs."""
        assert self.out is not None, "only a run folder holds a state"
        former, learned_from = RunDir(self.out).former_settings, self._source_identity
        experts = learned_from.get("experts", {})
        without = learned_from
        if not self.method.reads_trained and "epochs" in experts:
            without = {"experts": {name: value for name, value in experts.items() if name != "epochs"}}
        return {self.key, self._key(former, learned_from), self._key({}, without), self._key(former, without)}

    def _key(self, former: Mapping[str, Any], learned_from: Mapping[str, Any]) -> str:
        """The key of a run; `former` are settings that an earlier version wrote and that its step does not read."""
        method, settings = first_written(self.method, self.settings, former)
        for excluded in ("iterations", "checkpoint_seconds", "max_skips", "max_passes", "snapshots"):
            settings.pop(excluded)
        return digest({"method": method, "settings": settings, "ipc": self.ipc, "seed": self.seed, **learned_from})

    @property
    def _source_identity(self) -> dict[str, Any]:
        """The experts, which identify their data and network; or data and network, if there are no experts."""
        if self.experts is None:
            return {"data": self.dataset.fingerprint, "model": self.network}
        experts = {"store": self.experts.identity.digest(), "numbers": self.experts.experts()}
        reads_last_epoch = self.method.reads_trained or self.method.step.last_epoch is None
        if reads_last_epoch and self.experts.epochs < self.experts.identity.recipe.epochs:
            experts["epochs"] = self.experts.epochs
        return {"experts": experts}

    def start(self) -> DistillState:
        """The saved state, if there is one; otherwise the initial state."""
        saved = RunDir(self.out).state if self.out else None
        classes, texture = len(self.dataset.classes), self.settings.texture
        if saved and saved.exists():
            state = DistillState.read(saved, self._accepted_keys, self.method, self.settings, self.device)
            if state.counters.iteration > self.settings.iterations:
                raise InputError(
                    f"{self.out} has {state.counters.iteration} iterations already, {self.settings.iterations} were "
                    "asked for; ask for more, or choose another --out."
                )
            self._keep_metrics(state.counters.iteration)
            return state
        self._keep_metrics(0)
        with phase("choosing the first images and targets"):
            cells = self.method.init(self.dataset, self.experts, self.model, self.ipc * texture.cells, self.seed)
            _, height, width = self.dataset.shape
            images = self.method.init.laid_out(cells.images, texture, (height, width))
            initial = Initial(images, cells.labels[:: texture.cells])
            targets = self.method.labels(initial, self.experts, self.setup.classifier, classes, self.seed)
        if self.out and self.settings.snapshots and cells.clusters:
            StartMap.of(cells.clusters).save(self.out)
        return self._initial_state(initial.images, targets)

    def _initial_state(self, images: Images, targets: Targets) -> DistillState:
        """The state before the first outer step, with the further tensors that the step learns and the state that it
        keeps."""
        setup, step, seed = self.step_setup, self.method.step, self.seed
        initial = torch.full((), self.settings.lr_init, dtype=torch.float32, device=images.device)
        first = Variables(images, targets, self.method.synthetic_lr.value(initial, self.settings.lr_init))
        first = self._decoded(first)
        further = step.further(setup, first.clone(), seed)
        if further.keys() != step.rates().keys():
            raise InputError(
                f"{type(step).__name__} gives rates for {sorted(step.rates())} and begins with {sorted(further)}; let "
                f"its `rates` and `further` have the same names."
            )
        step_state = step.begin(setup, first.replace(**further).clone(), seed)
        return DistillState(images, targets, self.method, self.settings, further, step_state)

    def _keep_metrics(self, iterations: int) -> None:
        """Drop metrics that were logged after the state was saved: those steps are repeated."""
        metrics = RunDir(self.out).metrics if self.out else None
        if metrics and metrics.exists():
            rewrite_lines(
                metrics, [line for line in read_lines(metrics, sound_metric) if line["iteration"] < iterations]
            )

    @property
    def device(self) -> torch.device:
        return self.dataset.device

    def gradient(self, state: DistillState) -> MetaGradient:
        """The meta-gradient of outer step `state.counters.iteration`: a pure function of the state and the seed."""
        return self.attempted(state)[0]

    def attempted(self, state: DistillState) -> tuple[MetaGradient, StepState]:
        """The meta-gradient, and the state that the outer step keeps if the gradient is followed."""
        stored = state.variables
        gradient, step_state = self.method.step.advance(
            self.step_setup, self._decoded(stored), state.step.clone(), state.counters.iteration, self.seed
        )
        return self._encoded(gradient, stored), step_state.clone()

    def _further_gradient(self, part: Callable[[Variables], MetaGradient], stored: Variables) -> MetaGradient:
        """One of the further gradients of an outer step, at the current stored variables."""
        return self._encoded(part(self._decoded(stored)), stored)

    def advance(
        self, state: DistillState, confirmed: Callable[[DistillState], None] = lambda state: None
    ) -> StepRecord:
        """Take one outer step; returns what is logged about it. `confirmed` is called, with the state before the step,
        once its gradient is accepted, and may save it.

        The host waits for the device once: the step is taken on trial, and all numbers that decide about it are read
        together.
        """
        counters, step_filter = state.counters, self.method.step_filter
        gradient, step_state = self.attempted(state)
        measured = step_filter.measures(gradient) | {"lr": state.lr}
        parts = self.method.step.then(self.step_setup, counters.iteration, self.seed)
        further = [partial(self._further_gradient, part) for part in parts]
        values = read(
            measured | state.attempt(gradient, step_state, partial(self.method.step.project, self.setup), further)
        )
        refused = step_filter(values)
        passed = None if refused else step_filter.passes(values)
        if not refused:
            confirmed(state)
        if not refused and not passed:
            refused = state.refusal(values)
        if refused or passed:
            state.undo()
            halved = False
        else:
            state.keep()
            halved = state.settle(values["loss"])
        line: StepRecord = {
            "iteration": counters.iteration,
            "loss": values["loss"],
            "lr": values["lr" if refused or passed else "new lr"],
        }
        line |= {
            label: reason for label, reason in (("skipped", refused), ("passed", passed), ("halved", halved)) if reason
        }
        counters.count(bool(refused), bool(passed))
        return line

    def result(self, state: DistillState) -> SyntheticSet:
        """The set as it would be saved now: the moving averages, or X and Y themselves if the method does not
        average."""
        variables, iteration = state.averaged, state.counters.iteration
        images, targets = variables.images, variables.targets
        if iteration:
            targets = self.method.step.targets(self.setup, variables.clone(), iteration - 1, self.seed)
        count, classes = len(images), len(self.dataset.classes)
        if list(targets.shape) != [count, classes] or not targets.is_floating_point():
            raise InputError(
                f"{type(self.method.step).__name__} gives targets of shape {list(targets.shape)} as {targets.dtype} "
                f"for {count} stored images and {classes} classes; let its `targets` give floating-point numbers "
                f"of shape [{count}, {classes}]."
            )
        return SyntheticSet(
            images=images,
            targets=targets.detach().clone(),
            lr=state.lr.clone(),
            classes=self.dataset.classes,
            preprocessing=self.dataset.preprocessing,
            data=self.dataset.config,
            model=self.setup.network,
            labels=self.method.labels.kind,
            augmentation=self.settings.augmentation,
            momentum=self.method.momentum,
            method=self.method.name,
            canvas=self.settings.canvas,
            canvas_samples=self.settings.canvas_samples,
            factor=self.settings.factor,
            fingerprint=self.dataset.fingerprint,
            provenance=provenance(self.device)
            | {
                "iteration": state.counters.iteration,
                "skipped": state.counters.skipped,
                "passed": state.counters.passed,
                "seed": self.seed,
                "step": self.method.step.to_json(),
                "learn": list(self.method.learn),
                "settings": self.settings.to_json(),
            },
        )
