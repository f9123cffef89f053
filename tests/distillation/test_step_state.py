"""What an outer step learns besides images, targets and η, and what it keeps from one call to the next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from astdistill.data.dataset import Dataset
from astdistill.distillation.loop import distill
from astdistill.distillation.run import Distillation
from astdistill.distillation.settings import DistillSettings
from astdistill.methods.distribution_matching import DM
from astdistill.methods.method import Method
from astdistill.methods.outer_step import OuterStep, Setup, StepState
from astdistill.methods.unroll import MetaGradient, Variables
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import load_tensors, read_lines
from astdistill.runtime.seeds import rng

NETWORK = "convnet-d1-w4"
SETTINGS = DistillSettings(iterations=9, lr_img=0.5, checkpoint_seconds=0)


class Killed(Exception):
    """Ends a run in the middle."""


class Follower(OuterStep):
    """½ Σ (X + shift − mean)², where the mean of random real images moves on with every step that is taken, and the
    shift of all images is learned."""

    rate: float = 0.1
    broken: tuple[int, ...] = ()
    """Iterations whose loss is NaN."""

    def rates(self) -> Mapping[str, float]:
        return {"shift": self.rate}

    def further(self, setup: Setup, variables: Variables, seed: int) -> Mapping[str, Tensor]:
        return {"shift": torch.zeros(setup.dataset.shape)}

    def begin(self, setup: Setup, variables: Variables, seed: int) -> StepState:
        return StepState({"mean": variables.images.mean(dim=0) + variables["shift"]}, {"seen": 0, "rows": []})

    def advance(
        self, setup: Setup, variables: Variables, state: StepState, iteration: int, seed: int
    ) -> tuple[MetaGradient, StepState]:
        row = int(torch.randint(len(setup.dataset.train), (1,), generator=rng(seed, "row", iteration)))
        mean = state.tensors["mean"].mul_(0.9).add_(setup.dataset.train.batch(torch.tensor([row]))[0], alpha=0.1)
        away = variables.images + variables["shift"] - mean
        loss = away.square().sum() / 2 + (float("nan") if iteration in self.broken else 0.0)
        kept = StepState({"mean": mean}, {"seen": state.counters["seen"] + 1, "rows": [*state.counters["rows"], row]})
        return MetaGradient(loss, images=away, shift=away.sum(dim=0)), kept


def method_of(**step: object) -> Method:
    return DM.replace(name="follower", step=Follower.model_validate(step), learn=("images", "shift"), ema_decay=0.5)


def run_of(dataset: Dataset, method: Method, settings: DistillSettings = SETTINGS) -> Distillation:
    model = FlatModel(build_model(NETWORK, dataset.shape, len(dataset.classes)))
    return Distillation(dataset, None, method, 2, settings, None, 0, model, NETWORK)


def test_a_further_tensor_is_learned_by_its_own_rate(dataset: Dataset) -> None:
    run = run_of(dataset, method_of(rate=0.03))
    state = run.start()
    assert set(state.variables) == {"images", "targets", "lr", "shift"}
    slope, expected, mean = torch.zeros(dataset.shape), torch.zeros(dataset.shape), torch.zeros(dataset.shape)
    for _ in range(3):
        slope = 0.5 * slope + run.gradient(state)["shift"]
        expected = expected - 0.03 * slope
        mean = 0.5 * mean + 0.5 * expected
        run.advance(state)
    torch.testing.assert_close(state.learned["shift"], expected)
    torch.testing.assert_close(state.averaged["shift"], mean)
    assert float(expected.abs().max()) > 0


@pytest.mark.parametrize("killed", [1, 5])
def test_a_killed_run_goes_on_to_the_same_bits(killed: int, dataset: Dataset, tmp_path: Path) -> None:
    """Also across a step that was skipped."""
    advance = Follower.advance

    def killing(
        self: Follower, setup: Setup, variables: Variables, state: StepState, iteration: int, seed: int
    ) -> tuple[MetaGradient, StepState]:
        if iteration == killed:
            raise Killed
        return advance(self, setup, variables, state, iteration, seed)

    def distilled(out: Path) -> None:
        distill(dataset, method=method_of(broken=(3,)), model=NETWORK, ipc=2, settings=SETTINGS, out=out)

    distilled(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Follower, "advance", killing)
        with pytest.raises(Killed):
            distilled(tmp_path / "killed")
    assert load_tensors(tmp_path / "killed/state.safetensors")[1]["counters"]["iteration"] == killed - 1
    distilled(tmp_path / "killed")
    (tensors, header), (wanted, expected) = (
        load_tensors(tmp_path / name / "state.safetensors") for name in ("killed", "whole")
    )
    assert {"images", "targets", "phi", "learned.shift", "average.shift", "step.mean"} < wanted.keys()
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in wanted.items())
    assert header == expected
    assert header["step"]["seen"] == len(header["step"]["rows"]) == 8, "nine steps, of which one was skipped"
    assert read_lines(tmp_path / "killed/metrics.jsonl") == read_lines(tmp_path / "whole/metrics.jsonl")


def test_a_skipped_step_leaves_what_is_kept_as_it_was(dataset: Dataset) -> None:
    run = run_of(dataset, method_of(broken=(1,)))
    state = run.start()
    run.advance(state)
    before = state.step.clone()
    assert "skipped" in run.advance(state)
    assert torch.equal(state.step.tensors["mean"], before.tensors["mean"])
    assert state.step.counters == before.counters == {"seen": 1, "rows": state.step.counters["rows"]}
    assert "skipped" not in run.advance(state)
    assert not torch.equal(state.step.tensors["mean"], before.tensors["mean"])
    assert state.step.counters["seen"] == 2


def test_a_roll_back_undoes_the_last_step_and_what_it_kept(dataset: Dataset) -> None:
    run = run_of(dataset, method_of())
    state = run.start()
    run.advance(state)
    before, shift = state.step.clone(), state.learned["shift"].clone()
    run.advance(state)
    assert not torch.equal(state.learned["shift"], shift)
    state.roll_back()
    assert torch.equal(state.learned["shift"], shift)
    assert torch.equal(state.step.tensors["mean"], before.tensors["mean"])
    assert state.step.counters == before.counters


def test_a_step_that_would_keep_something_infinite_is_refused(dataset: Dataset) -> None:
    run = run_of(dataset, method_of())
    state = run.start()
    gradient, kept = run.attempted(state)
    spoilt = StepState({"mean": kept.tensors["mean"] * float("inf")}, kept.counters)
    seen = {name: float(value) for name, value in state.attempt(gradient, spoilt).items()}
    assert state.refusal(seen).startswith("what the outer step keeps would stop being finite")
    state.undo()
    assert state.refusal({name: float(value) for name, value in state.attempt(gradient, kept).items()}) == ""


class Bounded(Follower):
    """Keeps what it learns within a bound."""

    bound: float = 0.01

    def project(self, setup: Setup, learned: Mapping[str, Tensor]) -> None:
        assert setup.network == NETWORK
        learned["images"].clamp_(-self.bound, self.bound)
        learned["shift"].clamp_(min=0.0)


def test_what_is_learned_is_projected_after_every_step_and_averaged_then(dataset: Dataset) -> None:
    run = run_of(dataset, method_of().replace(step=Bounded(broken=(1,))))
    state = run.start()
    free = state.images - SETTINGS.lr_img * run.gradient(state).images
    first = state.images.clone()
    run.advance(state)
    torch.testing.assert_close(state.images, free.clamp(-0.01, 0.01))
    assert float(free.abs().max()) > 0.01
    assert float(state.learned["shift"].min()) == 0.0
    torch.testing.assert_close(state.averaged.images, (first + state.images) / 2)
    before = state.images.clone()
    assert "skipped" in run.advance(state)
    assert torch.equal(state.images, before)


class Careless(OuterStep):
    """½ Σ X², which writes into all that it is given."""

    broken: tuple[int, ...] = ()

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        images = variables.images.requires_grad_()
        loss = images.square().sum() / 2
        (slope,) = torch.autograd.grad(loss, images)
        variables.targets.zero_()
        images.data.zero_()
        return MetaGradient(loss.detach() + (float("nan") if iteration in self.broken else 0.0), images=slope)

    def targets(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> Tensor:
        variables.images.zero_()
        return variables.targets.requires_grad_()


def careless(step: OuterStep) -> Method:
    return DM.replace(name="careless", step=step, learn=("images",))


def test_a_step_that_writes_into_its_arguments_changes_nothing_of_the_run(dataset: Dataset) -> None:
    run = run_of(dataset, careless(Careless(broken=(1,))))
    state = run.start()
    first, targets = state.images.clone(), state.targets.clone()
    assert "skipped" not in run.advance(state)
    assert "skipped" in run.advance(state)
    torch.testing.assert_close(state.images, (1 - SETTINGS.lr_img) * first)
    made = run.result(state)
    assert torch.equal(made.images, state.images)
    assert torch.equal(made.targets, targets)
    assert not any(tensor.requires_grad for tensor in (made.images, made.targets, state.images))


class CarelessBeginning(Follower):
    """Writes into what its first values are made of."""

    def further(self, setup: Setup, variables: Variables, seed: int) -> Mapping[str, Tensor]:
        variables.images.zero_()
        return super().further(setup, variables, seed)

    def begin(self, setup: Setup, variables: Variables, seed: int) -> StepState:
        variables.targets.zero_()
        return super().begin(setup, variables, seed)


def test_beginnings_do_not_change_the_first_images(dataset: Dataset) -> None:
    state = run_of(dataset, method_of().replace(step=CarelessBeginning())).start()
    wanted = run_of(dataset, method_of()).start()
    assert torch.equal(state.images, wanted.images)
    assert torch.equal(state.targets, wanted.targets)


class Halves(Careless):
    """Assigns the tensor that it has changed in place."""

    def project(self, setup: Setup, learned: Mapping[str, Tensor]) -> None:
        learned["images"] *= 0.5  # type: ignore[index]


class Replaces(Careless):
    """Assigns another tensor."""

    def project(self, setup: Setup, learned: Mapping[str, Tensor]) -> None:
        learned["images"] = learned["images"].clamp(min=0)  # type: ignore[index]


def test_a_projection_changes_tensors_in_place_only(dataset: Dataset) -> None:
    run = run_of(dataset, careless(Halves()))
    state = run.start()
    first = state.images.clone()
    run.advance(state)
    torch.testing.assert_close(state.images, (1 - SETTINGS.lr_img) * first / 2)
    run = run_of(dataset, careless(Replaces()))
    with pytest.raises(InputError, match=r"assigned another tensor to learned\['images'\]; change the tensor in place"):
        run.advance(run.start())


class Giving(OuterStep):
    """Returns a fixed derivative."""

    name: str = "images"
    shape: tuple[int, ...] = (6, 1, 8, 8)
    double: bool = False

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        slope = torch.ones(self.shape, dtype=torch.float64 if self.double else torch.float32)
        return MetaGradient(torch.ones(()), **{self.name: slope})


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (Giving(name="image"), r"Giving gives a derivative with respect to 'image', but .* images, targets, lr; let"),
        (
            Giving(shape=(2, 1, 8, 8)),
            r"of shape \[2, 1, 8, 8\] as torch.float32 .* 'images', which has shape \[6, 1, 8",
        ),
        (Giving(double=True), r"as torch.float64 with respect to 'images', which has shape .* as torch.float32; let"),
    ],
    ids=["name", "shape", "type"],
)
def test_a_derivative_that_nothing_can_follow_is_refused(step: Giving, sentence: str, dataset: Dataset) -> None:
    run = run_of(dataset, careless(step))
    with pytest.raises(InputError, match=sentence):
        run.advance(run.start())


def test_a_derivative_of_slots_has_a_row_for_each_sub_image(dataset: Dataset) -> None:
    run = run_of(dataset, careless(Giving(shape=(24, 1, 8, 8))), SETTINGS.replace(factor=2))
    assert "skipped" not in run.advance(run.start())
    run = run_of(dataset, careless(Giving()), SETTINGS.replace(factor=2))
    with pytest.raises(InputError, match=r"which has shape \[24, 1, 8, 8\]"):
        run.advance(run.start())


def test_a_derivative_that_some_terms_lack_counts_as_zero_there() -> None:
    parts = [
        MetaGradient(torch.tensor(1.0), lr=torch.tensor(2.0)),
        MetaGradient(torch.tensor(3.0), extra=torch.ones(2)),
    ]
    found = MetaGradient.mean(parts)
    assert dict(found).keys() == {"lr", "extra"}
    assert (float(found.loss), float(found.lr), found["extra"].tolist()) == (2.0, 1.0, [0.5, 0.5])


class Counting(Giving):
    """Keeps a counter."""

    def begin(self, setup: Setup, variables: Variables, seed: int) -> StepState:
        return StepState({}, {"taken": 0})

    def advance(
        self, setup: Setup, variables: Variables, state: StepState, iteration: int, seed: int
    ) -> tuple[MetaGradient, StepState]:
        taken = [1, float("inf"), torch.ones(1)][iteration] if len(self.shape) == 4 else 0
        return self(setup, variables, iteration, seed), StepState({}, {"taken": taken})


@pytest.mark.parametrize(("iterations", "value"), [(2, "inf"), (3, r"tensor\(\[1\.\]\)")])
def test_a_counter_that_could_not_be_read_back_is_refused_and_the_last_state_stays(
    iterations: int, value: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distilled(iterations: int, seconds: float) -> None:
        settings = SETTINGS.replace(iterations=iterations, checkpoint_seconds=seconds)
        distill(dataset, method=careless(Counting()), model=NETWORK, ipc=2, settings=settings, out=tmp_path)

    distilled(1, 0)
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(InputError, match=f"The outer step keeps {value} as its counter 'taken', which JSON cannot"):
        distilled(iterations, 1000)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_a_seed_that_files_cannot_hold_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^seed={2**64} was given; give a whole number"):
        distill(dataset, method=DM, model=NETWORK, settings=SETTINGS, out=tmp_path / "run", seed=2**64)
    assert not (tmp_path / "run").exists()


def test_an_empty_name_of_a_folder_is_refused(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^out='' names no folder; give one, for example out='runs/first'"):
        distill(dataset, method=DM, model=NETWORK, settings=SETTINGS, out="")
    assert not list(tmp_path.iterdir())


class Labelling(Giving):
    """Gives labels of another form."""

    labels: tuple[int, ...] = (6,)

    def targets(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> Tensor:
        return torch.zeros(self.labels, dtype=torch.float64 if self.labels != (6, 3) else torch.int64)


@pytest.mark.parametrize("shape", [(6,), (6, 7), (3, 3), (6, 3)])
def test_labels_of_another_form_are_refused(shape: tuple[int, ...], dataset: Dataset, tmp_path: Path) -> None:
    settings, method = SETTINGS.replace(iterations=1), careless(Labelling(labels=shape))
    with pytest.raises(InputError, match=r"Labelling gives targets of shape .* for 6 stored images and 3 classes; let"):
        distill(dataset, method=method, model=NETWORK, ipc=2, settings=settings, out=tmp_path)
    assert not (tmp_path / "synthetic.safetensors").exists()


def test_a_derivative_that_is_not_finite_is_named(dataset: Dataset) -> None:
    run = run_of(dataset, method_of())
    gradient = run.gradient(run.start())
    broken = gradient.replace(shift=gradient["shift"] / 0)
    seen = {name: float(value) for name, value in run.method.step_filter.measures(broken).items()}
    assert run.method.step_filter(seen) == "the derivative with respect to the shift is not finite"


def test_what_the_outer_step_does_not_have_cannot_be_learned() -> None:
    with pytest.raises(InputError, match="There is no tensor 'shift' that the outer step of method 'dm' can"):
        DM.replace(learn=("images", "shift"))


def test_rates_and_beginnings_of_other_names_are_refused(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Follower, "further", lambda self, setup, variables, seed: {})
    with pytest.raises(InputError, match=r"Follower gives rates for \['shift'\] and begins with \[\]"):
        run_of(dataset, method_of()).start()
