"""What a distillation leaves on disk while it goes on."""

from __future__ import annotations

import time

from ..progress import console
from ..runs import append_line
from ..synthetic import SyntheticSet
from .course import Frame, due, forget
from .run import Distillation, Line
from .state import DistillState
from .validation import validate


class Saver:
    """Writes what a run leaves behind, and keeps the best set by the validation split."""

    def __init__(self, run: Distillation, state: DistillState) -> None:
        self.run, self.saved = run, time.monotonic()
        # Without a best in the state, a file of that name is of a run that was deleted or killed before its first save.
        self.best = SyntheticSet.load(run.out / "best.safetensors") if run.out and state.counters.best else None
        if run.out:
            forget(run.out, state.counters.iteration)
        self._keep_frame(state)

    def confirmed(self, state: DistillState) -> None:
        """Save the state if the last time was long enough ago; called once its own gradient is known to be finite.

        So no state on disk is one that a huge but finite step has ruined.
        """
        if time.monotonic() - self.saved >= self.run.settings.checkpoint_seconds:
            self.save(state)

    def after_step(self, state: DistillState, line: Line) -> None:
        """Validate where that is due, and log the step."""
        every = self.run.settings.validate_every
        due = every > 0 and state.counters.iteration % every == 0
        if due:
            line["validation"] = validate(self.run.result(state), self.run.dataset, self.run.settings, self.run.seed)
            self._consider(state, float(line["validation"]))
        if self.run.out:
            append_line(self.run.out / "metrics.jsonl", line)
        self._keep_frame(state)
        if line.get("skipped"):
            console().print(f"step {line['iteration']} skipped: {line['skipped']}", highlight=False)

    def _keep_frame(self, state: DistillState) -> None:
        iteration = state.counters.iteration
        if self.run.out and self.run.settings.snapshots and due(iteration):
            Frame.of(self.run.result(state), iteration).save(self.run.out)

    def _consider(self, state: DistillState, accuracy: float) -> None:
        if accuracy > state.counters.best.get("accuracy", -1.0):
            state.counters.best = {"iteration": state.counters.iteration, "accuracy": accuracy}
            self.best = self.run.result(state)
            if self.run.out:
                self.best.save(self.run.out / "best.safetensors")

    def save(self, state: DistillState) -> None:
        """Save the state."""
        if self.run.out:
            state.save(self.run.out / "state.safetensors", self.run.key)
        self.saved = time.monotonic()
