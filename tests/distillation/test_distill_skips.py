"""Steps that cannot be taken are skipped, counted and named; too many in a row end the run with its state kept."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import torch
import users_paper
from rich.console import Console
from short_methods import AST, MTT

from astdistill.autodiff.training import pack
from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import load
from astdistill.distillation.loop import distill
from astdistill.distillation.run import Distillation
from astdistill.distillation.settings import DistillSettings
from astdistill.distillation.state import DistillState
from astdistill.experts.store import TrajectoryStore
from astdistill.methods.method import Method
from astdistill.methods.outer import RawSyntheticLr
from astdistill.methods.unroll import Variables
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime import progress
from astdistill.runtime.devices import read
from astdistill.runtime.errors import DivergedError
from astdistill.runtime.files import load_tensors, read_lines


def run_of(dataset: Dataset, experts: TrajectoryStore, method: Method, settings: DistillSettings) -> Distillation:
    model = FlatModel(build_model(experts.identity.model, dataset.shape, len(dataset.classes)))
    return Distillation(dataset, experts, method, 2, settings, None, 0, model)


def snapshot(state: DistillState) -> dict[str, torch.Tensor]:
    """Everything that a step may change."""
    tensors = {
        "images": state.images,
        "targets": state.targets,
        "phi": state.phi,
        "average": state.average["images"],
        **pack(state.optimiser),
    }
    return {name: tensor.clone() for name, tensor in tensors.items()}


def refusal(state: DistillState, gradients: Variables) -> str:
    """Why a step along −gradients is refused, and undone; empty where it is kept."""
    refused = state.refusal(read(state.attempt(gradients)))
    if refused:
        state.undo()
    else:
        state.keep()
    return refused


FAULTY = AST.replace(name="faulty", ema_decay=0.5, estimator=users_paper.Faulty(period=3))


@pytest.fixture(autouse=True)
def _first_call() -> None:
    users_paper.CALLS.clear()


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("loss", "the loss is nan"),
        ("images", "the derivative with respect to the images is not finite"),
        ("lr", "the derivative .* lr is not"),
    ],
)
def test_steps_that_are_not_finite_are_skipped_counted_and_named(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    cause: str,
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(progress.Output, "console", Console(file=shown))
    method = FAULTY.replace(estimator=users_paper.Faulty(period=3, what=what))
    found = distill(dataset, experts, method=method, ipc=2, settings=settings, out=tmp_path)
    lines = read_lines(tmp_path / "metrics.jsonl")
    skipped = [line["iteration"] for line in lines if "skipped" in line]
    assert skipped == [2, 5]
    for line in lines:
        if "skipped" in line:
            assert re.search(cause, line["skipped"])
    assert found.provenance["skipped"] == 2
    assert load_tensors(tmp_path / "state.safetensors")[1]["counters"]["skipped"] == 2
    assert bool(found.images.isfinite().all())
    assert "step 2 skipped: the" in shown.getvalue().replace("\n", " ")


def test_a_skipped_step_changes_nothing(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    """Not the images, the rate, the averages or the momentum: only the number of the iteration goes on."""
    states = []
    for iterations in (2, 3):
        distill(dataset, experts, method=FAULTY, ipc=2, settings=settings.replace(iterations=iterations), out=tmp_path)
        states.append(load_tensors(tmp_path / "state.safetensors"))
    (before, first), (after, second) = states
    assert before.keys() == after.keys()
    assert any("momentum" in name for name in before)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert (first["counters"]["iteration"], second["counters"]["iteration"]) == (2, 3)
    assert (second["counters"]["skipped"], second["counters"]["skipped_in_a_row"]) == (1, 1)


def test_too_many_skips_in_a_row_end_the_run_with_its_state_kept(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trap: `if loss <= threshold` skips NaN silently for ever."""
    distill(dataset, experts, method=FAULTY, ipc=2, settings=settings.replace(iterations=2), out=tmp_path)
    good = load(tmp_path).images
    last = load_tensors(tmp_path / "state.safetensors")[0]["images"]
    always = settings.replace(max_skips=5, iterations=100, checkpoint_seconds=1e9)
    # The same method, whose estimator now fails at every call.
    monkeypatch.setattr(users_paper, "CALLS", AlwaysThird())
    with pytest.raises(DivergedError, match="5 outer steps in a row were skipped, the last, 6, because the loss"):
        distill(dataset, experts, method=FAULTY, ipc=2, settings=always, out=tmp_path)
    tensors, header = load_tensors(tmp_path / "state.safetensors")
    assert torch.equal(tensors["images"], last)
    assert header["counters"]["iteration"] == 7
    assert header["counters"]["skipped"] == 5
    assert header["counters"]["skipped_in_a_row"] == 0  # a resumed run gets all its chances again
    assert torch.equal(load(tmp_path).images, good)
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 7


class AlwaysThird(list):
    """A list of calls that says every call is a third one."""

    def __len__(self) -> int:
        return 3


def test_a_run_that_never_takes_a_step_keeps_its_start(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    method, settings = MTT.replace(estimator=users_paper.Faulty(period=1)), settings.replace(max_skips=5)
    with pytest.raises(DivergedError, match=r"5 outer steps in a row .*The last good state is in"):
        distill(dataset, experts, method=method, ipc=1, settings=settings.replace(iterations=50), out=tmp_path)
    images = load_tensors(tmp_path / "state.safetensors")[0]["images"]
    rows = dataset.train.whole().flatten(1).tolist()
    assert all(image in rows for image in images.flatten(1).tolist())
    with pytest.raises(DivergedError, match="5 outer steps in a row were skipped, the last, 9,"):
        distill(dataset, experts, method=method, ipc=1, settings=settings.replace(iterations=50), out=tmp_path)


def test_a_finite_step_into_ruin_is_undone(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    """A huge but finite gradient is taken, and everything after it is NaN: what is kept is the state before it."""
    users_paper.CALLS.clear()
    method = MTT.replace(estimator=users_paper.Poison(at=3))
    distill(dataset, experts, method=method, ipc=1, settings=settings.replace(iterations=2, max_skips=4), out=tmp_path)
    good = load_tensors(tmp_path / "state.safetensors")[0]
    with pytest.raises(DivergedError, match="4 outer steps in a row were skipped, the last, 6,"):
        distill(
            dataset, experts, method=method, ipc=1, settings=settings.replace(iterations=9, max_skips=4), out=tmp_path
        )
    kept = load_tensors(tmp_path / "state.safetensors")[0]
    assert kept.keys() == good.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in good.items())


def test_one_good_step_starts_the_count_anew(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    found = distill(
        dataset,
        experts,
        method=MTT.replace(estimator=users_paper.Faulty(period=2)),
        ipc=1,
        settings=settings.replace(max_skips=2, iterations=12),
    )
    assert found.provenance["skipped"] == 6


@pytest.mark.parametrize(
    ("broken", "value", "cause"),
    [
        ("lr", 1e6, r"the learning rate would become -\d.*; lower --distill.lr-lr, or learn its logarithm"),
        ("lr", 50.1, r"the learning rate would become -0\.0001"),
        ("images", 3e38, "the images would stop being finite; lower --distill.lr-img"),
    ],
)
def test_a_step_that_would_ruin_the_run_is_refused_with_everything_as_it_was(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, broken: str, value: float, cause: str
) -> None:
    """The trap: a learned rate that turns negative kills the run hours in."""
    run = run_of(
        dataset,
        experts,
        AST.replace(synthetic_lr=RawSyntheticLr(), ema_decay=0.5),
        settings.replace(outer_momentum=0.5),
    )
    state = run.start()
    good = Variables(torch.ones_like(state.images), torch.zeros_like(state.targets), torch.tensor(0.0))
    assert refusal(state, good) == ""
    kept = snapshot(state)
    bad = Variables(
        good.images * (value if broken == "images" else 1), good.targets, torch.tensor(value if broken == "lr" else 0.0)
    )
    refused = refusal(state, bad)
    assert re.search(cause, refused)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in snapshot(state).items())
    assert refusal(state, good) == ""
    assert not torch.equal(state.images, kept["images"])


def test_what_is_saved_during_a_step_is_the_state_before_it(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    """The step is on trial by then: a resumed run takes it again."""
    run = run_of(dataset, experts, AST.replace(ema_decay=0.5), settings)
    state = run.start()
    run.advance(state)
    before = {name: tensor.clone() for name, tensor in state._current().tensors.items()}
    run.advance(state, lambda state: state.latest().save(tmp_path / "state.safetensors", run.key))
    saved, header = load_tensors(tmp_path / "state.safetensors")
    assert header["counters"]["iteration"] == 1
    assert saved.keys() == before.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in before.items())
    assert not torch.equal(state.images, before["images"])


@pytest.mark.parametrize("gradient", [-1e6, 1e6])
def test_a_logarithmic_rate_that_leaves_the_numbers_is_refused(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, gradient: float
) -> None:
    """exp overflows to infinity and underflows to 0: neither is a learning rate."""
    state = run_of(dataset, experts, AST, settings).start()
    refused = refusal(
        state, Variables(torch.zeros_like(state.images), torch.zeros_like(state.targets), torch.tensor(gradient))
    )
    assert "the learning rate would become" in refused
    assert float(state.lr) == pytest.approx(0.05)


def test_a_refused_raw_rate_is_logged_and_the_run_goes_on(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    method = MTT.replace(synthetic_lr=RawSyntheticLr())
    with pytest.raises(
        DivergedError,
        match=r"because the learning rate would become -[^;]*; lower --distill.lr-lr[^;]*, and start in a new folder",
    ):
        distill(
            dataset,
            experts,
            method=method,
            ipc=1,
            settings=settings.replace(lr_lr=10.0, lr_init=1.0, iterations=60),
            out=tmp_path,
        )
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert all(line["lr"] > 0 for line in lines)
    assert sum("skipped" in line for line in lines) >= 20
    json.dumps(lines, allow_nan=False)
