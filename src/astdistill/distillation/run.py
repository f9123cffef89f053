"""One distillation: what it is made of, its start, one outer step of it, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

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
    """One run: what it is made of, and where it writes (nowhere if `out` is None)."""

    dataset: Dataset
    experts: TrajectoryStore | None
    method: Method
    ipc: int
    settings: DistillSettings
    out: Path | None
    seed: int
    model: FlatModel
    network: str = ""
    """The student's name, which is that of the experts where there are some."""
    compute_terms: Callable[[OuterStep, Setup, Variables, int, int], Terms] = one_after_another
    """Computes the terms of an outer step (see `sharing.shared`)."""

    @property
    def setup(self) -> Setup:
        """What every outer step is told."""
        network = self.network or (self.experts.identity.model if self.experts else "")
        return Setup(self.dataset, self.experts, network, self.model, self.method, self.settings, self.compute_terms)

    @property
    def seen(self) -> Setup:
        """The same for a step that is given the sub-images of slots as images of their own, as steps are."""
        if self.settings.factor == 1:
            return self.setup
        return replace(self.setup, settings=self.settings.replace(factor=1))

    def _decoded(self, stored: Variables) -> Variables:
        """The variables as a step sees them: each sub-image of a slot by itself, with the target of its slot."""
        texture = self.settings.texture
        return stored.replace(images=texture.decoded(stored.images), targets=texture.for_each(stored.targets))

    def _encoded(self, gradient: MetaGradient, stored: Variables) -> MetaGradient:
        """The derivatives with respect to what is stored, from those of `_decoded`."""
        texture, changes = self.settings.texture, {}
        if texture.factor == 1:
            return gradient
        if "images" in gradient:
            changes["images"] = texture.encoded_gradient(stored.images, gradient.images)
        if "targets" in gradient:
            changes["targets"] = gradient.targets.unflatten(0, (-1, texture.per_slot)).sum(dim=1)
        return gradient.replace(**changes)

    @property
    def key(self) -> str:
        """A digest of everything that the images depend on, so that only an equal run is resumed."""
        return self._key({}, self._learned_from)

    @property
    def _keys(self) -> set[str]:
        """The same, and what earlier versions wrote: for settings that the step does not read, and for steps that read
        experts to their end, without the number of epochs."""
        assert self.out is not None, "only a run folder holds a state"
        former, learned_from = RunDir(self.out).former_settings, self._learned_from
        experts = learned_from.get("experts", {})
        without = learned_from
        if not self.method.reads_trained and "epochs" in experts:
            without = {"experts": {name: value for name, value in experts.items() if name != "epochs"}}
        return {self.key, self._key(former, learned_from), self._key({}, without), self._key(former, without)}

    def _key(self, former: Mapping[str, Any], learned_from: Mapping[str, Any]) -> str:
        """The key of a run that an earlier version began with settings that its step does not read."""
        method, settings = first_written(self.method, self.settings, former)
        for free in ("iterations", "checkpoint_seconds", "max_skips", "max_passes", "snapshots"):
            settings.pop(free)
        return digest({"method": method, "settings": settings, "ipc": self.ipc, "seed": self.seed, **learned_from})

    @property
    def _learned_from(self) -> dict[str, Any]:
        """The experts, which know their data and network; or these two, where there are none."""
        if self.experts is None:
            return {"data": self.dataset.fingerprint, "model": self.network}
        experts = {"store": self.experts.identity.digest(), "numbers": self.experts.experts()}
        to_the_end = self.method.reads_trained or self.method.step.last_epoch is None
        if to_the_end and self.experts.epochs < self.experts.identity.recipe.epochs:
            experts["epochs"] = self.experts.epochs
        return {"experts": experts}

    def start(self) -> DistillState:
        """The state to go on from: the saved one, or a fresh one."""
        saved = RunDir(self.out).state if self.out else None
        classes, texture = len(self.dataset.classes), self.settings.texture
        if saved and saved.exists():
            state = DistillState.read(saved, self._keys, self.method, self.settings, self.device)
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
        return self._fresh(initial.images, targets)

    def _fresh(self, images: Images, targets: Targets) -> DistillState:
        """The state before the first outer step, with what the outer step learns besides, and what it keeps."""
        setup, step, seed = self.seen, self.method.step, self.seed
        initial = torch.full((), self.settings.lr_init, device=images.device)
        first = Variables(images, targets, self.method.synthetic_lr.value(initial, self.settings.lr_init))
        first = self._decoded(first)
        further = step.further(setup, first, seed)
        if further.keys() != step.rates().keys():
            raise InputError(
                f"{type(step).__name__} gives rates for {sorted(step.rates())} and begins with {sorted(further)}; let "
                f"its `rates` and `further` have the same names."
            )
        kept = step.begin(setup, first.replace(**further), seed)
        return DistillState(images, targets, self.method, self.settings, further, kept)

    def _keep_metrics(self, iterations: int) -> None:
        """Drop what was logged after the state was saved: those steps are taken again."""
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
        """The meta-gradient, and what the outer step is to keep if it is followed."""
        stored = state.variables
        gradient, kept = self.method.step.advance(
            self.seen, self._decoded(stored), state.step.clone(), state.counters.iteration, self.seed
        )
        return self._encoded(gradient, stored), kept.clone()

    def _then(self, part: Callable[[Variables], MetaGradient], stored: Variables) -> MetaGradient:
        """One of the further gradients of an outer step, at what is stored by then."""
        return self._encoded(part(self._decoded(stored)), stored)

    def advance(
        self, state: DistillState, confirmed: Callable[[DistillState], None] = lambda state: None
    ) -> StepRecord:
        """One outer step; what is to be logged about it. `confirmed` may save the state before it; called if its
        gradient is accepted.

        The host waits for the device once: the step is taken on trial, and all that decides about it is read together.
        """
        counters, step_filter = state.counters, self.method.step_filter
        gradient, kept = self.attempted(state)
        measured = step_filter.measures(gradient) | {"lr": state.lr}
        parts = self.method.step.then(self.seen, counters.iteration, self.seed)
        then = [partial(self._then, part) for part in parts]
        seen = read(measured | state.attempt(gradient, kept, partial(self.method.step.project, self.setup), then))
        refused = step_filter(seen)
        passed = None if refused else step_filter.passes(seen)
        if not refused:
            confirmed(state)
        if not refused and not passed:
            refused = state.refusal(seen)
        if refused or passed:
            state.undo()
            halved = False
        else:
            state.keep()
            halved = state.settle(seen["loss"])
        line: StepRecord = {
            "iteration": counters.iteration,
            "loss": seen["loss"],
            "lr": seen["lr" if refused or passed else "new lr"],
        }
        line |= {word: why for word, why in (("skipped", refused), ("passed", passed), ("halved", halved)) if why}
        counters.count(bool(refused), bool(passed))
        return line

    def result(self, state: DistillState) -> SyntheticSet:
        """The set as it would be saved now: the moving averages, which are X and Y themselves where the method does not
        average."""
        variables, taken = state.averaged, state.counters.iteration
        images, targets = variables.images, variables.targets
        if taken:
            targets = self.method.step.targets(self.setup, variables, taken - 1, self.seed)
        if len(targets) != len(images):
            raise InputError(
                f"{type(self.method.step).__name__} gives {len(targets)} targets for {len(images)} stored images; let "
                "its `targets` give one for each, or set --distill.factor 1."
            )
        return SyntheticSet(
            images=images.clone(),
            targets=targets.clone(),
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
                "settings": self.settings.to_json(),
            },
        )
