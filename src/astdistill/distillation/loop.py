"""The outer loop: take outer steps, save, validate, stop with a reason, finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from ..autodiff.dispatch import computing
from ..data.dataset import Dataset
from ..data.synthetic import SyntheticSet
from ..evaluation.protocol import MTT_PROTOCOL
from ..evaluation.runner import evaluate
from ..evaluation.scores import RowScores
from ..experts.store import TrajectoryStore
from ..methods.method import Method
from ..methods.trajectory_matching import MTT
from ..models.flat import FlatModel
from ..models.registry import build_model
from ..runtime import ranks
from ..runtime.devices import moved
from ..runtime.errors import DivergedError, InputError
from ..runtime.files import append_line
from ..runtime.kinds import usual_torch
from ..runtime.machine import rank
from ..runtime.progress import bar, console
from ..runtime.run_dir import RunDir
from ..runtime.seeds import check_seed, derive
from ..runtime.status import StepClock
from ..runtime.trust import trust_models
from .run import Distillation, StepRecord
from .settings import DistillSettings, check
from .sharing import plan_step, shared
from .snapshots import Frame, due, forget
from .state import Counters, DistillState, Snapshot


def validate(synthetic: SyntheticSet, dataset: Dataset, settings: DistillSettings, seed: int) -> float:
    """Mean accuracy, in percent, on the validation split."""
    return validation_scores(synthetic, dataset, settings, seed).mean


def validation_scores(synthetic: SyntheticSet, dataset: Dataset, settings: DistillSettings, seed: int) -> RowScores:
    """Accuracies on the validation split; with the same networks every time, so that sets are comparable."""
    # E passes and not E + 1: a resumed run keeps the validation that it started with.
    recipe = MTT_PROTOCOL.replace(
        epochs=settings.validate_epochs, released_count=False, augmentation=synthetic.augmentation
    )
    scores = evaluate(
        synthetic,
        dataset,
        recipe=recipe,
        seeds=settings.validate_networks,
        seed=derive(seed, "validate"),
        split="validation",
    )
    return scores.architecture[synthetic.model]


def _load_best(run: Distillation) -> SyntheticSet:
    """Load the best set of a run folder. It may be of a later step than the state, if the run was killed between the
    two writes. Raises InputError if fewer iterations are requested than it took."""
    assert run.out is not None, "only a run folder holds one"
    path = RunDir(run.out).best
    best = SyntheticSet.load(path)
    step = int(best.provenance.get("iteration", 0))
    if step > run.settings.iterations:
        raise InputError(
            f"--distill.iterations {run.settings.iterations} was asked for, but {path} is of outer step {step}; ask "
            f"for {step} or more, or choose another --out."
        )
    return best


class Saver:
    """Writes the files of a run, and keeps the best set by the validation split."""

    def __init__(self, run: Distillation, state: DistillState) -> None:
        self.run, self.saved = run, time.monotonic()
        # Without a best in the state, that file belongs to a run that was deleted or killed before its first save.
        self.best = _load_best(run) if run.out and state.counters.best else None
        if run.out:
            forget(run.out, state.counters.iteration)
        self._confirmed: Snapshot | None = None
        self._save_frame(state)

    def confirmed(self, state: DistillState) -> None:
        """Save the state if the last save was long enough ago; called once the gradient at this state is known to be
        finite.

        So no saved state was ruined by a huge but finite step.
        """
        self._confirmed = state.latest()
        if time.monotonic() - self.saved >= self.run.settings.checkpoint_seconds:
            self._write(self._confirmed)

    def after_step(self, state: DistillState, line: StepRecord) -> None:
        """Validate every `validate_every` steps, and log the step."""
        every = self.run.settings.validate_every
        validating = every > 0 and state.counters.iteration % every == 0
        if validating:
            line["validation"] = validate(self.run.result(state), self.run.dataset, self.run.settings, self.run.seed)
            self._update_best(state, float(line["validation"]))
        if self.run.out:
            append_line(RunDir(self.run.out).metrics, line)
        self._save_frame(state)
        if line.get("skipped"):
            console().print(f"step {line['iteration']} skipped: {line['skipped']}", highlight=False)
        if line.get("halved"):
            message = f"the loss has not fallen for {self.run.settings.plateau} steps; learning rates are halved"
            console().print(f"step {line['iteration']}: {message}", highlight=False)

    def _save_frame(self, state: DistillState) -> None:
        iteration = state.counters.iteration
        if self.run.out and self.run.settings.snapshots and due(iteration):
            Frame.of(self.run.result(state), iteration).save(self.run.out)

    def _update_best(self, state: DistillState, accuracy: float) -> None:
        if accuracy > state.counters.best.get("accuracy", -1.0):
            state.counters.best = {"iteration": state.counters.iteration, "accuracy": accuracy}
            self.best = self.run.result(state)
            if self.run.out:
                self.best.save(RunDir(self.run.out).best)

    def save(self, state: DistillState) -> None:
        """Save the state."""
        self._write(state.latest())

    @contextmanager
    def saving_when_stopped(self) -> Iterator[None]:
        """Save the last confirmed state if SIGINT or SIGTERM ends the block, at any point of a step."""
        try:
            yield
        except KeyboardInterrupt:
            if self._confirmed:
                self._write(self._confirmed)
            raise

    def _write(self, snapshot: Snapshot) -> None:
        if self.run.out:
            snapshot.save(RunDir(self.run.out).state, self.run.key)
        self.saved = time.monotonic()


Observer = Callable[[Distillation, DistillState, StepRecord], None]
"""Called after each outer step with the run, the state after it, and what was logged about it."""


@usual_torch()
def distill(
    dataset: Dataset,
    experts: TrajectoryStore | None = None,
    *,
    method: Method = MTT,
    model: str | None = None,
    ipc: int = 1,
    settings: DistillSettings | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    observers: Sequence[Observer] = (),
    engine: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    allow_mixed: bool = False,
) -> SyntheticSet:
    """Distil the data into `ipc` images per class, which the method's outer steps change. Returns the synthetic set.

    With `settings.validate_every`, `synthetic.safetensors` is the best set by the validation split and
    `last.safetensors` the last; without, it is the last.

    Args:
        dataset: The real data.
        experts: Trajectories of experts. None if the method's `expert` is None.
        method: How to distil, as in `astdistill.methods`; MTT by default.
        model: The student network, for a method without experts. None: that of the experts.
        ipc: Images per class, 1 or more.
        settings: Settings of the outer loop. None: `DistillSettings()`.
        out: A folder, which gets `state.safetensors`, `metrics.jsonl` and `synthetic.safetensors`; the same call
            resumes a run that was killed, to the same bits on a CPU. None: nothing is written.
        seed: Seed of all random draws.
        observers: Each is called with (run, state, record) after every outer step, and must change nothing.
        engine: What computes derivatives: "auto", "native", "compiled", "compiled-bfloat16" or "eager". None:
            $ASTDISTILL_ENGINE, or the fastest that can.
        device: Device to which the data is moved, such as "cpu" or "cuda". None: its current device.
        threads: Threads of the CPU. None: torch's own number. Torch's number is restored afterwards. Engine, device and
            threads are not part of the identity of a run.
        workers: Processes that share each outer step, if the method's step has several trajectories: each takes its
            part of the threads and, with several GPUs, one GPU. The result is bitwise that of one process with as many
            threads as a worker has. None: this process alone.
        cluster: "auto" or HOST:PORT: the trajectories are computed on the nodes of that Ray cluster, each by `threads`
            (None: one). All nodes must see the experts. None: on this machine.
        allow_mixed: Also use nodes of a cluster that would compute different bits.

    Under torchrun, only rank 0 does what is described here, and the other ranks share its outer steps; all return the
    same set.

    Returns:
        The best set by the validation split, or the last set without validation.

    Raises:
        InputError: The arguments do not fit together, or another process is writing to `out`; raised before anything
            is written.
        DivergedError: Too many steps in a row were skipped, or a number is not finite.
        FolderGoneError: `out` was deleted meanwhile.
    """
    trust_models(model)
    if rank() > 0:
        return ranks.serve()
    dataset = moved(dataset, device)
    with ranks.leading() as answers, computing(engine, threads, cluster, allow_mixed):
        settings = settings or DistillSettings()
        network = _network_name(method, experts, model)
        if experts is not None:
            experts = experts.first(settings.max_experts or len(experts))
        check_seed(seed)
        if out == "":
            raise InputError(
                "out='' names no folder; give one, for example out='runs/first', or None to write nothing."
            )
        check(dataset, experts, method, settings, ipc)
        plan = plan_step(method, network, workers, dataset.device)
        flat = FlatModel(build_model(network, dataset.shape, len(dataset.classes)).to(dataset.device))
        if experts is not None and flat.size != experts.identity.parameters:
            raise InputError(
                f"The network '{network}' has {flat.size:,} parameters, but the experts in {experts.folder} have "
                f"{experts.identity.parameters:,}: its code has changed since; train experts of the present network in "
                f"another --experts.store."
            )
        run = Distillation(
            dataset, experts, method, ipc, settings, Path(out) if out is not None else None, seed, flat, network
        )
        with _lock_run(run.out):
            state = run.start()
            with shared(run, plan, state.counters.iteration) as run:
                best = _iterate(run, state, observers)
            answers.append(_finish(run, state, best))
            return answers[-1]


def _lock_run(out: Path | None) -> AbstractContextManager[None]:
    """Lock the run folder, if there is one, for this process."""
    if out is None:
        return nullcontext()
    return RunDir(out).writing()


def _network_name(method: Method, experts: TrajectoryStore | None, model: str | None) -> str:
    """Name of the student network. Raises InputError if it is not known, or if experts are missing, superfluous, or of
    another network."""
    if method.expert is not None and experts is None:
        raise InputError(f"Method '{method.name}' needs experts, and none were given; pass those of train_experts.")
    if method.expert is None and experts is not None:
        raise InputError(
            f"Method '{method.name}' takes no experts; pass None in their place, and the network's name as model=."
        )
    if experts is None and model is None:
        raise InputError(
            f"Method '{method.name}' has no experts that say what its network is; name one, for example "
            f"model='convnet-d3'."
        )
    network = experts.identity.model if experts else str(model)
    if model is not None and model != network:
        raise InputError(f"model='{model}' was given, but the experts are networks '{network}'; leave model out.")
    return network


def _iterate(run: Distillation, state: DistillState, observers: Sequence[Observer]) -> SyntheticSet | None:
    """Advance `state` to the last iteration. Returns the best set by the validation split, or None without
    validation."""
    saver, counters, clock = Saver(run, state), state.counters, StepClock(run.out)
    with (
        saver.saving_when_stopped(),
        bar(f"distilling ({run.method.name})", run.settings.iterations, counters.iteration) as progress,
    ):
        while counters.iteration < run.settings.iterations:
            clock.begin()
            line = run.advance(state, saver.confirmed)
            clock.end(int(line["iteration"]))
            saver.after_step(state, line)
            for observer in observers:
                observer(run, state, line)
            if (
                counters.skipped_in_a_row >= run.settings.max_skips
                or counters.passed_in_a_row >= run.settings.max_passes
            ):
                state.roll_back()
                saver.save(state)
                _finish(run, state, saver.best)
                raise DivergedError(_divergence_message(run, line))
            progress.step(note=_note(line, counters))
        saver.save(state)
    return saver.best


def _note(line: StepRecord, counters: Counters) -> str:
    """Text next to the progress bar after a step."""
    parts = [f"loss {line['loss']:.4f}, η {line['lr']:.4g}"]
    parts += [
        f"{label} {count}" for label, count in (("skipped", counters.skipped), ("left out", counters.passed)) if count
    ]
    if counters.best:
        parts.append(f"best validation {counters.best['accuracy']:.1f} % after step {counters.best['iteration']:.0f}")
    return ", ".join(parts)


def _divergence_message(run: Distillation, line: StepRecord) -> str:
    saved_note = f" The last good state is in {run.out}." if run.out else ""
    if "passed" in line:
        return (
            f"{run.settings.max_passes} outer steps in a row were left out, the last, {line['iteration']}, because "
            f"{line['passed']}; "
            f"raise --method.step-filter.threshold, or lower --distill.lr-img and start in a new folder.{saved_note}"
        )
    cause, _, remedy = str(line["skipped"]).partition("; ")
    remedy = remedy or "lower --distill.lr-img, --distill.lr-lr or --distill.lr-init"
    return (
        f"{run.settings.max_skips} outer steps in a row were skipped, the last, {line['iteration']}, because {cause}; "
        f"{remedy}, and start in a new folder.{saved_note}"
    )


def _finish(run: Distillation, state: DistillState, best: SyntheticSet | None) -> SyntheticSet:
    last = run.result(state)
    chosen = best or last
    if run.out:
        chosen.save(RunDir(run.out).synthetic)
        if best:
            last.save(RunDir(run.out).last)
    return chosen
