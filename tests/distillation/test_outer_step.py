"""What an outer step may be made of: several trajectories, bounded gradients, SGD or Adam, a threshold, labels made
anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import users_paper
from problems import same_set
from short_methods import AST, DATM, MTT, STEP, TESLA, with_numbers

from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import load
from astdistill.distillation.loop import distill
from astdistill.distillation.run import Distillation
from astdistill.distillation.settings import DistillSettings
from astdistill.experts.store import TrajectoryStore
from astdistill.methods.initialisation import ExpertLabels
from astdistill.methods.method import Method
from astdistill.methods.outer import LossThreshold
from astdistill.methods.outer_step import Setup, TrajectoryMatching
from astdistill.methods.segments import GrowingWindow, Perturbation
from astdistill.methods.unroll import MetaGradient, Variables
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.errors import DivergedError, InputError
from astdistill.runtime.files import read_lines
from astdistill.runtime.seeds import derive

SOFT = AST.replace(name="soft", labels=ExpertLabels(), learn=("images", "targets", "lr"))


def run_of(
    dataset: Dataset, experts: TrajectoryStore, method: Method, settings: DistillSettings, seed: int = 0
) -> Distillation:
    model = FlatModel(build_model(experts.identity.model, dataset.shape, len(dataset.classes)))
    return Distillation(dataset, experts, method, 2, settings, None, seed, model)


def test_several_trajectories_are_averaged(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    """Each is the gradient of a run with that trajectory's seed, at the same images."""
    run = run_of(dataset, experts, with_numbers(SOFT, trajectories=3), settings)
    state = run.start()
    found = run.gradient(state)
    seeds = [0, derive(0, "trajectory", 1), derive(0, "trajectory", 2)]
    single = [run_of(dataset, experts, SOFT, settings, seed).gradient(state) for seed in seeds]
    for name in ("loss", "images", "targets", "lr"):
        wanted = sum(getattr(part, name) for part in single) / 3
        torch.testing.assert_close(getattr(found, name), wanted)
        assert not torch.allclose(getattr(found, name), getattr(single[0], name))
    assert len({float(part.loss) for part in single}) == 3


@pytest.mark.parametrize("bound", [1e-3, 1e6])
def test_long_gradients_are_scaled_down(
    bound: float, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    run = run_of(dataset, experts, SOFT, settings.replace(outer_grad_norm=bound))
    state = run.start()
    before, found = {"images": state.images.clone(), "targets": state.targets.clone()}, run.gradient(state)
    state.attempt(Variables(found.images, found.targets, found.lr))
    for name, rate in (("images", settings.lr_img), ("targets", settings.lr_targets)):
        step, slope = before[name] - getattr(state, name), getattr(found, name)
        torch.testing.assert_close(step, rate * min(1.0, bound / float(slope.norm())) * slope, rtol=1e-4, atol=1e-6)
        if bound < 1:
            assert float(step.norm()) == pytest.approx(rate * bound, rel=1e-3)


def test_adam_is_its_formula(dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings) -> None:
    """m ← β₁ m + (1 − β₁) g, s ← β₂ s + (1 − β₂) g², z ← z − rate · m̂ / (√ŝ + 1e-8)."""
    run = run_of(
        dataset, experts, SOFT, settings.replace(outer_optimiser="adam", lr_img=0.03, lr_targets=0.2, lr_lr=1e-4)
    )
    state = run.start()
    now = {"images": state.images.clone(), "targets": state.targets.clone()}
    first, second = ({name: torch.zeros_like(value) for name, value in now.items()} for _ in range(2))
    for taken in range(1, 4):
        found = run.gradient(state)
        for name, rate, beta in (("images", 0.03, 0.5), ("targets", 0.2, 0.9)):
            slope = getattr(found, name)
            first[name] = beta * first[name] + (1 - beta) * slope
            second[name] = 0.999 * second[name] + 0.001 * slope**2
            now[name] = now[name] - rate * (first[name] / (1 - beta**taken)) / (
                (second[name] / (1 - 0.999**taken)).sqrt() + 1e-8
            )
        run.advance(state)
        for name, wanted in now.items():
            torch.testing.assert_close(getattr(state, name), wanted, rtol=1e-4, atol=1e-4)


class Shrinking(Perturbation):
    """Writes into the start that it is given."""

    def __call__(self, start: torch.Tensor, model: FlatModel, generator: torch.Generator) -> torch.Tensor:
        return start.mul_(0.9)


class Shrunk(Perturbation):
    """The same, with its own memory."""

    def __call__(self, start: torch.Tensor, model: FlatModel, generator: torch.Generator) -> torch.Tensor:
        return start * 0.9


def test_a_perturbation_in_place_leaves_the_segment_as_it_is(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    runs = [run_of(dataset, experts, MTT.replace(perturb=part), settings) for part in (Shrinking(), Shrunk())]
    found, wanted = (run.gradient(run.start()) for run in runs)
    assert torch.equal(found.loss, wanted.loss)
    assert torch.equal(found.images, wanted.images)


class Overwriting(TrajectoryMatching):
    """Writes into the variables of each of its terms."""

    def term(self, setup: Setup, variables: Variables, iteration: int, seed: int, number: int) -> MetaGradient:
        found = super().term(setup, variables, iteration, seed, number)
        variables.images.zero_()
        return found


def test_terms_do_not_see_what_others_write(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    several = with_numbers(MTT, trajectories=2)
    methods = (several.replace(step=Overwriting(**dict(several.step))), several)
    found, wanted = (
        run.gradient(run.start()) for run in (run_of(dataset, experts, each, settings) for each in methods)
    )
    assert torch.equal(found.images, wanted.images)


MADE_ANEW = TESLA.replace(ema_decay=0.5)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (with_numbers(SOFT, trajectories=2), {"outer_optimiser": "adam", "lr_img": 0.03}),
        (MADE_ANEW, {"outer_grad_norm": 0.1}),
        (DATM, {}),
    ],
    ids=["adam", "tesla", "datm"],
)
def test_a_longer_run_goes_on_to_the_bits_of_one(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, method: Method, changes: dict
) -> None:
    settings = settings.replace(iterations=4, **changes)
    whole = distill(dataset, experts, method=method, ipc=2, settings=settings)
    for iterations in (1, 2, 4):
        found = distill(
            dataset, experts, method=method, ipc=2, settings=settings.replace(iterations=iterations), out=tmp_path
        )
    assert same_set(found, whole)
    assert same_set(load(tmp_path), whole)


@pytest.mark.parametrize(
    ("numbers", "changes"),
    [({"trajectories": 2}, {}), ({}, {"outer_optimiser": "adam"}), ({}, {"outer_grad_norm": 0.5})],
    ids=str,
)
def test_a_run_of_other_steps_is_not_resumed(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, numbers: dict, changes: dict
) -> None:
    distill(dataset, experts, method=SOFT, ipc=2, settings=settings.replace(iterations=1), out=tmp_path)
    other = with_numbers(SOFT, **numbers)
    with pytest.raises(InputError, match="belongs to a run with other data, experts or settings"):
        distill(dataset, experts, method=other, ipc=2, settings=settings.replace(**changes), out=tmp_path)
    assert (
        distill(
            dataset, experts, method=SOFT, ipc=2, settings=settings.replace(iterations=2, max_passes=3), out=tmp_path
        ).provenance["iteration"]
        == 2
    )


def test_the_saved_labels_are_those_of_the_last_target(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    found = distill(dataset, experts, method=MADE_ANEW, ipc=2, settings=settings, seed=4)
    segment = MADE_ANEW.sample(experts, settings.iterations - 1, STEP.max_start_epoch, STEP.expert_epochs, 4)
    network = build_model(experts.identity.model, dataset.shape, 3)
    FlatModel(network).load(
        network, experts.rows(segment.expert, segment.epoch + STEP.expert_epochs, segment.epoch + 3)[0]
    )
    with torch.no_grad():
        torch.testing.assert_close(found.targets, network.eval()(found.images), rtol=0, atol=1e-4)
    assert found.labels == "soft"
    start = run_of(dataset, experts, MADE_ANEW, settings)
    assert torch.equal(start.result(start.start()).targets, start.start().targets)


def test_passed_steps_are_counted_apart_and_change_nothing(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    """The trap: `if loss <= t` skips NaN for ever, as if it were an ordinary large loss."""
    users_paper.CALLS.clear()
    settings = settings.replace(iterations=15, lr_img=1e-3, max_skips=2)
    open_method = MTT.replace(estimator=users_paper.Faulty(period=5))
    losses = [line["loss"] for line in read_lines_of(tmp_path / "open", dataset, experts, open_method, settings)]
    middle = sorted(loss for loss in losses if isinstance(loss, float))[6]  # NaN is logged as a word
    users_paper.CALLS.clear()
    lines = read_lines_of(
        tmp_path / "bound", dataset, experts, open_method.replace(step_filter=LossThreshold(threshold=middle)), settings
    )
    skipped, passed = ([line["iteration"] for line in lines if word in line] for word in ("skipped", "passed"))
    assert skipped == [4, 9, 14]
    assert len(passed) >= 4
    assert not set(skipped) & set(passed)
    assert all(line["loss"] > middle for line in lines if "passed" in line)
    found = load(tmp_path / "bound").provenance
    assert (found["skipped"], found["passed"]) == (3, len(passed))


def read_lines_of(
    out: Path, dataset: Dataset, experts: TrajectoryStore, method: Method, settings: DistillSettings
) -> list[dict]:
    distill(dataset, experts, method=method, ipc=1, settings=settings, out=out)
    return read_lines(out / "metrics.jsonl")


def test_a_threshold_that_nothing_gets_under_ends_the_run(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    method = MTT.replace(step_filter=LossThreshold(threshold=1e-6))
    with pytest.raises(DivergedError) as caught:
        distill(
            dataset, experts, method=method, ipc=1, settings=settings.replace(max_passes=6, max_skips=3), out=tmp_path
        )
    sentence = (
        r"6 outer steps in a row were left out, the last, 5, because the loss \S+ is above 1e-06; raise "
        r"--method.step-filter.threshold"
    )
    assert re.search(sentence, str(caught.value))
    rows = dataset.train.whole().flatten(1).tolist()
    assert all(image in rows for image in load(tmp_path).images.flatten(1).tolist())


def test_a_window_without_start_epochs_is_refused_at_the_entrance(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    method = MTT.replace(sample=GrowingWindow(lower=4))
    with pytest.raises(InputError, match="Start epochs from 4 to below"):
        distill(dataset, experts, method=method, ipc=1, settings=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
