"""The outer loop: the same call gives the same bits, a longer run goes on from a shorter one, averages and choices are
what they say."""

from __future__ import annotations

import inspect
import io
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
import torch
from problems import same_set
from rich.console import Console
from short_methods import AST, MTT
from torch import Tensor

from astdistill.data.dataset import Dataset, Split
from astdistill.data.synthetic import load
from astdistill.distillation import loop as saving
from astdistill.distillation.loop import distill
from astdistill.distillation.run import Distillation
from astdistill.distillation.settings import DistillSettings
from astdistill.experts.store import TrajectoryStore
from astdistill.methods import trajectory_matching as own
from astdistill.methods.initialisation import ExpertLabels
from astdistill.methods.method import Method
from astdistill.methods.outer import RawSyntheticLr
from astdistill.methods.unroll import Variables
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime import progress as bars
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import load_tensors, read_lines
from astdistill.runtime.progress import Output, write_status
from astdistill.runtime.status import StatusFile

DATM_LIKE = AST.replace(name="soft", labels=ExpertLabels(), learn=("images", "targets", "lr"), ema_decay=0.9)


def run_of(
    dataset: Dataset, experts: TrajectoryStore, method: Method, settings: DistillSettings, out: Path | None = None
) -> Distillation:
    model = FlatModel(build_model(experts.identity.model, dataset.shape, len(dataset.classes)))
    return Distillation(dataset, experts, method, 2, settings, out, 0, model)


@pytest.mark.parametrize("method", [AST, MTT, DATM_LIKE], ids=lambda method: method.name)
def test_the_same_seed_gives_the_same_bits(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, method: Method
) -> None:
    settings = settings.replace(iterations=3)
    torch.manual_seed(1)
    first = distill(dataset, experts, method=method, ipc=2, settings=settings)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = distill(dataset, experts, method=method, ipc=2, settings=settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert same_set(first, second)
    assert not same_set(first, distill(dataset, experts, method=method, ipc=2, settings=settings, seed=1))


def test_every_learned_thing_moves_and_nothing_else(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    run = run_of(dataset, experts, DATM_LIKE.replace(ema_decay=0.0), settings)
    start = run.start()
    found = distill(dataset, experts, method=run.method, ipc=2, settings=settings)
    for name in ("images", "targets"):
        assert not torch.equal(getattr(found, name), getattr(start, name))
    assert float(found.lr) != pytest.approx(0.05, rel=1e-6)
    fixed = distill(dataset, experts, method=AST.replace(learn=("images",)), ipc=2, settings=settings)
    assert float(fixed.lr) == pytest.approx(0.05)
    assert torch.equal(fixed.targets, torch.eye(3).repeat_interleave(2, 0))


def test_an_outer_step_is_sgd_with_momentum(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    """v ← μ v + g, z ← z − rate · v, for images, targets (with their own momentum) and φ (with the slope of η)."""
    run = run_of(
        dataset,
        experts,
        DATM_LIKE.replace(ema_decay=0.0),
        settings.replace(lr_targets=3.0, outer_momentum=0.4, targets_momentum=0.7),
    )
    state = run.start()
    now: dict[str, Tensor] = {
        "images": state.images.clone(),
        "targets": state.targets.clone(),
        "lr": torch.tensor(0.05),
    }
    velocity = {name: torch.zeros_like(value) for name, value in now.items()}
    for _ in range(4):
        gradient = run.gradient(state)
        slope = torch.exp(now["lr"] / 0.05 - 1)
        for name, rate, momentum in (("images", 20.0, 0.4), ("targets", 3.0, 0.7), ("lr", 1e-3, 0.4)):
            velocity[name] = momentum * velocity[name] + getattr(gradient, name) * (slope if name == "lr" else 1)
            now[name] = now[name] - rate * velocity[name]
        run.advance(state)
        torch.testing.assert_close(state.images, now["images"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(state.targets, now["targets"], rtol=1e-5, atol=1e-6)
        assert float(state.lr) == pytest.approx(0.05 * float(torch.exp(now["lr"] / 0.05 - 1)), rel=1e-5)


@pytest.mark.parametrize(("method", "checkpoint"), [(AST, 1e9), (DATM_LIKE, 0.0)], ids=["ast", "soft"])
def test_more_iterations_go_on_to_the_bits_of_one_long_run(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    method: Method,
    checkpoint: float,
) -> None:
    settings = settings.replace(checkpoint_seconds=checkpoint, iterations=5)
    whole = distill(dataset, experts, method=method, ipc=2, settings=settings)
    for iterations in (2, 2, 4, 5):
        found = distill(
            dataset, experts, method=method, ipc=2, settings=settings.replace(iterations=iterations), out=tmp_path
        )
        assert found.provenance["iteration"] == iterations
        assert [line["iteration"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(range(iterations))
    assert same_set(found, whole)
    assert same_set(load(tmp_path), whole)
    with pytest.raises(
        InputError, match="has 5 iterations already, 3 were asked for; ask for more, or choose another --out"
    ):
        distill(dataset, experts, method=method, ipc=2, settings=settings.replace(iterations=3), out=tmp_path)
    assert same_set(load(tmp_path), whole)
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 5


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_the_average_is_its_formula_and_is_what_is_saved(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, decay: float
) -> None:
    """m_0 = X_0, m_k = d m_{k−1} + (1 − d) X_k."""
    method = DATM_LIKE.replace(ema_decay=decay)
    run = run_of(dataset, experts, method, settings)
    state = run.start()
    mean = {"images": state.images.double(), "targets": state.targets.double()}
    for _ in range(8):
        run.advance(state)
        mean = {name: decay * value + (1 - decay) * getattr(state, name).double() for name, value in mean.items()}
    found = distill(dataset, experts, method=method, ipc=2, settings=settings, out=tmp_path)
    for name, value in mean.items():
        torch.testing.assert_close(getattr(found, name).double(), value, rtol=1e-5, atol=1e-6)
        assert torch.equal(getattr(found, name), getattr(state, name)) == (decay == 0)
    assert same_set(load(tmp_path), found)
    tensors, _ = load_tensors(tmp_path / "state.safetensors")
    assert torch.equal(tensors["images"], state.images)


def test_averaged_hard_labels_stay_hard(dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings) -> None:
    state = run_of(dataset, experts, MTT.replace(ema_decay=0.9995), settings).start()
    nothing = Variables(torch.zeros_like(state.images), torch.zeros_like(state.targets), torch.tensor(0.0))
    for _ in range(2000):
        state.attempt(nothing)
        state.keep()
    assert torch.equal(state.average["targets"], torch.eye(3).repeat_interleave(2, 0))


def test_a_run_folder_is_complete_and_a_run_without_one_writes_nothing(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = distill(dataset, experts, method=AST, ipc=2, settings=settings, out=str(tmp_path / "run"))
    made = [
        "clock.jsonl",
        "course",
        "initialisation.safetensors",
        "metrics.jsonl",
        "state.safetensors",
        "synthetic.safetensors",
    ]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == made
    assert (found.provenance["iteration"], found.provenance["skipped"], found.provenance["seed"]) == (8, 0, 0)
    assert DistillSettings.model_validate(found.provenance["settings"]) == settings
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert same_set(distill(dataset, experts, method=AST, ipc=2, settings=settings), found)
    assert not list(empty.iterdir())


def test_fewer_experts_of_the_same_store(dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings) -> None:
    some = distill(dataset, experts, method=AST, ipc=1, settings=settings.replace(max_experts=1))
    assert same_set(some, distill(dataset, experts.first(1), method=AST, ipc=1, settings=settings))
    assert not same_set(some, distill(dataset, experts, method=AST, ipc=1, settings=settings))


def test_validation_chooses_the_best_and_keeps_the_last(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accuracies = iter([30.0, 70.0, 50.0, 70.0])
    monkeypatch.setattr(saving, "validate", lambda *_: next(accuracies))
    found = distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(validate_every=2), out=tmp_path)
    best, last = load(tmp_path), load(tmp_path / "last.safetensors")
    assert (best.provenance["iteration"], last.provenance["iteration"]) == (4, 8)
    assert same_set(found, best)
    assert same_set(best, distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(iterations=4)))
    assert same_set(last, distill(dataset, experts, method=AST, ipc=2, settings=settings))
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert {line["iteration"]: line["validation"] for line in lines if "validation" in line} == {
        1: 30.0,
        3: 70.0,
        5: 50.0,
        7: 70.0,
    }


def test_a_better_set_is_found_by_going_on(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accuracies = iter([60.0, 50.0, 61.0])
    monkeypatch.setattr(saving, "validate", lambda *_: next(accuracies))
    settings = settings.replace(validate_every=2)
    for iterations, best in ((4, 2), (5, 2), (6, 6)):
        found = distill(
            dataset, experts, method=AST, ipc=1, settings=settings.replace(iterations=iterations), out=tmp_path
        )
        assert found.provenance["iteration"] == load(tmp_path).provenance["iteration"] == best


def test_validation_never_looks_at_test_images(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, tmp_path: Path
) -> None:
    blind = replace(dataset, test=Split(torch.full_like(dataset.test.whole(), float("nan")), dataset.test.labels))
    settings = settings.replace(validate_every=3)
    found = [
        distill(data, experts, method=AST, ipc=2, settings=settings, out=tmp_path / str(k))
        for k, data in enumerate((dataset, blind))
    ]
    assert same_set(*found)
    lines = [[line.get("validation") for line in read_lines(tmp_path / name / "metrics.jsonl")] for name in ("0", "1")]
    assert lines[0] == lines[1]
    assert sum(value is not None for value in lines[0]) == 2


def test_networks_trained_for_a_validation_are_seen(
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In plain lines, in the file that `astdistill watch` reads, and their result beside the steps that follow."""
    stream, seen = io.StringIO(), list[str]()
    monkeypatch.setattr(Output, "console", Console(file=stream, width=60))
    monkeypatch.setattr(Output, "quiet", False)
    monkeypatch.setattr(bars, "PLAIN_EVERY_S", 0.0)
    write = StatusFile.write
    monkeypatch.setattr(StatusFile, "write", lambda file, status: (seen.append(status.title), write(file, status))[1])
    settings = settings.replace(iterations=4, validate_every=2, validate_epochs=3, validate_networks=2)
    with write_status(tmp_path / "live.json"):
        distill(dataset, experts, method=AST, ipc=2, settings=settings, out=tmp_path)
    validating = f"training {experts.identity.model} on 6 synthetic images for validation (images seen)"
    lines = stream.getvalue().splitlines()
    assert sum(line.startswith(f"{validating}: 36/36,") and line.endswith(" %") for line in lines) == 2
    place = next(number for number, line in enumerate(lines) if line.startswith(validating))
    best = read_lines(tmp_path / "metrics.jsonl")[1]["validation"]
    after = next(line for line in lines[place:] if line.startswith("distilling"))
    assert after.endswith(f"best validation {best:.1f} % after step 2")
    assert [title for title, _ in groupby(seen)][-5:] == ["distilling (ast)", validating] * 2 + ["distilling (ast)"]


def test_a_best_set_of_a_deleted_run_is_not_believed(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    """Left alone by a deleted or never saved state, it may be of other settings."""
    distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(validate_every=2), out=tmp_path)
    assert (tmp_path / "best.safetensors").exists()
    (tmp_path / "state.safetensors").unlink()
    found = distill(dataset, experts, method=MTT, ipc=1, settings=settings, out=tmp_path)
    assert found.method == load(tmp_path).method == "mtt"


def test_the_raw_rate_is_learned_as_it_is(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    run = run_of(dataset, experts, AST.replace(synthetic_lr=RawSyntheticLr()), settings.replace(outer_momentum=0.0))
    state = run.start()
    gradient = run.gradient(state)
    run.advance(state)
    assert float(state.lr) == pytest.approx(0.05 - 1e-3 * float(gradient.lr), rel=1e-6)


def test_defaults_are_the_published_ones() -> None:
    signature = inspect.signature(distill)
    assert signature.parameters["method"].default is own.MTT
    assert (DistillSettings().iterations, DistillSettings().outer_momentum, DistillSettings().lr_init) == (
        5000,
        0.5,
        0.01,
    )
