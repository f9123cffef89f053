"""What every method must hold, those of this package (a new file is tested the moment it exists) and a stranger's."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import reference
import torch
import users_paper
from problems import float64_by_default, problem, same_set
from short_methods import with_numbers

import astdistill.methods as folder
from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet
from astdistill.data.textures import TextureSpec
from astdistill.distillation.loop import distill
from astdistill.distillation.run import Distillation
from astdistill.distillation.settings import DistillSettings, check_settings
from astdistill.distillation.state import DistillState
from astdistill.experts.store import Segment, TrajectoryStore
from astdistill.interop.exporters import export
from astdistill.methods import method as method_module
from astdistill.methods.method import Method
from astdistill.methods.outer_step import StepState, TrajectoryMatching
from astdistill.methods.registry import find_method, methods
from astdistill.methods.trajectory_matching import AST, AST_AS_RELEASED, MTT, TESLA
from astdistill.methods.unroll import InnerLoop, Variables, draw_plan
from astdistill.models.flat import FlatModel
from astdistill.report.page.page import save_page
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import write_json
from astdistill.runtime.seeds import rng
from astdistill.runtime.trust import trust_modules

NAMES = [*methods(), "users_paper:STEADY", "ast_soft_window:AST_SOFT_WINDOW"]
trust_modules(NAMES)
STEPS, MATCHED, STARTS = 6, 2, 4
SETTINGS = DistillSettings(
    iterations=20,
    lr_img=20.0,
    lr_lr=1e-4,
    lr_init=0.05,
    augmentation="flip",
)
STEP = TrajectoryMatching(syn_steps=STEPS, expert_epochs=MATCHED, max_start_epoch=STARTS)
IPC = 10
"""A number that every initialisation can serve."""
FOR_FEW_WEIGHTS = {"idc": {"lr_img": 0.16}}
"""Where a loss is a sum over all weights, of which the network here has few, its usual rate hardly moves the images."""
SHORTER = {"rat-bptt": {"unroll": 20, "window": 8}, "at-bptt": {"unroll": 20, "window": 14, "window_range": 4}}
"""Two hundred training steps and a window of sixty show no more here."""
PROBES = {"at-bptt": 12, "idc": 12}
"""How often the objective is measured, where six times do not show what twenty steps do to it."""


def short(name: str) -> Method:
    """The method with numbers that the experts here are long enough for."""
    found = find_method(name)
    return found.replace(step=found.step.with_numbers_of(STEP).replace(**SHORTER.get(name, {})))


@pytest.fixture(params=NAMES)
def method(request: pytest.FixtureRequest) -> Method:
    return short(request.param)


@pytest.fixture(params=[name for name in NAMES if isinstance(find_method(name).step, TrajectoryMatching)])
def unrolled(request: pytest.FixtureRequest) -> Method:
    """Those whose outer step is a derivative through steps of training, for which there is a reference here."""
    return short(request.param)


@pytest.fixture
def followed(method: Method, experts: TrajectoryStore) -> TrajectoryStore | None:
    """The experts, for a method that has some."""
    return None if method.expert is None else experts


def test_the_folder_is_discovered() -> None:
    assert {"mtt", "ast", "ast-as-released", "ftd", "tesla", "datm", "datm-as-released", "att"} <= methods().keys()
    assert all(found.name == name for name, found in methods().items())


def test_a_new_file_in_the_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brand_new.py").write_text("from astdistill.methods import MTT\nNEW = MTT.replace(name='brand-new')\n")
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    assert find_method("brand-new").name == "brand-new"
    monkeypatch.delitem(sys.modules, "astdistill.methods.brand_new")


def test_methods_are_found_by_name_or_import_path() -> None:
    assert find_method("ast") is AST
    assert find_method("users_paper:STEADY") is users_paper.STEADY
    with pytest.raises(InputError, match=r"There is no method 'ast-released'\. Did you mean 'ast-as-released'\?"):
        find_method("ast-released")
    with pytest.raises(InputError, match="'users_paper:LateGoal' is a class, not a Method"):
        find_method("users_paper:LateGoal")
    with pytest.raises(InputError, match="Cannot import 'users_paper:UNSTEADY'"):
        find_method("users_paper:UNSTEADY")


@pytest.mark.parametrize("engine", ["native", "eager"])
def test_another_default_dtype_of_the_caller_changes_no_bit(
    engine: str,
    method: Method,
    dataset: Dataset,
    experts: TrajectoryStore,
    followed: TrajectoryStore | None,
) -> None:
    settings, model = SETTINGS.replace(iterations=2, lr_img=1.0), None if followed else experts.identity.model

    def distilled() -> SyntheticSet:
        return distill(dataset, followed, method=method, ipc=IPC, model=model, settings=settings, engine=engine)

    wanted = distilled()
    with float64_by_default():
        assert same_set(distilled(), wanted)


def test_json_brings_a_method_back(method: Method) -> None:
    found = Method.model_validate(json.loads(json.dumps(method.to_json())))
    assert found == method
    assert found.digest() == method.digest()


def test_a_method_names_its_paper_and_equation(method: Method) -> None:
    assert "arXiv" in method.paper
    assert "equation" in method.paper or "Algorithm" in method.paper


def test_methods_differ() -> None:
    assert len({method.replace(name="", paper="").digest() for method in methods().values()}) == len(methods())


@pytest.mark.parametrize(("epoch", "batch"), [(0, None), (9, 4), (10, None)])
def test_the_gradient_is_right(unrolled: Method, epoch: int, batch: int | None) -> None:
    """In float64, on a smooth toy: the method's estimator on its own momentum, goal, weight, labels and
    perturbation."""
    method = unrolled
    case = problem(steps=5, batch=batch, soft=method.labels.kind == "soft")
    model = case.inner.model
    assert isinstance(model, FlatModel)
    checkpoints = case.start + 0.1 * torch.randn(
        3, len(case.start), generator=rng(1, "checkpoints"), dtype=torch.float64
    )
    start = method.perturb(case.start, model, rng(2, "perturb"))
    assert start.dtype == torch.float64
    objective = method.loss(Segment(0, epoch, case.start, checkpoints), start, 5)
    inner = replace(case.inner, momentum=method.momentum, weight=method.weight(epoch, 20), labels=method.labels.kind)
    found = method.estimator(inner, start, case.variables, objective)
    images, targets, lr = reference.unrolled_gradient(inner, start, case.variables, objective)  # type: ignore[arg-type]
    pairs = ((found.images, images), (found.targets, targets), (found.lr, lr))
    for fast, slow in pairs:
        if method.estimator.exact:
            assert float((fast - slow).norm() / slow.norm()) < 1e-9
        else:
            assert float((fast * slow).sum() / fast.norm() / slow.norm()) > 0.5


def probe(run: Distillation, state: DistillState, kept: StepState) -> float:
    """The objective of the present images, averaged over the same fixed segments, perturbations and plans, with the
    same state of the outer step."""
    taken, losses = state.counters.iteration, []
    state.step, present = kept, state.step
    for number in range(PROBES.get(run.method.name, 6)):
        state.counters.iteration = 10_000 + number
        losses.append(float(run.gradient(state).loss))
    state.counters.iteration, state.step = taken, present
    return sum(losses) / len(losses)


def test_twenty_outer_steps_lower_the_objective(
    method: Method, dataset: Dataset, experts: TrajectoryStore, followed: TrajectoryStore | None, model: FlatModel
) -> None:
    usual = {**method.step.usual_settings(IPC), **FOR_FEW_WEIGHTS.get(method.name, {})}
    settings = SETTINGS.replace(**{**usual, "iterations": 20})
    run = Distillation(dataset, followed, method, IPC, settings, None, 0, model, experts.identity.model)
    state = run.start()
    begun = state.step
    before = probe(run, state, begun)
    lines = [run.advance(state) for _ in range(20)]
    assert state.counters.skipped == 0
    after = probe(run, state, begun)
    if not method.learn:  # which chooses, and follows no objective
        assert after == before
        return
    assert after < 0.985 * before, f"{before:.4f} → {after:.4f}"
    assert all(set(line) - {"passed"} == {"iteration", "loss", "lr"} for line in lines)


def test_an_outer_step_on_canvases_is_the_reference_gradient(
    unrolled: Method, dataset: Dataset, experts: TrajectoryStore, model: FlatModel
) -> None:
    """Textures for every method: its start, its labels, one step of it."""
    method, texture = with_numbers(unrolled, batch_syn=7), TextureSpec(canvas=2, samples=2)
    settings = SETTINGS.replace(canvas=2, canvas_samples=2, iterations=2)
    run = Distillation(dataset, experts, method, IPC, settings, None, 5, model)
    state = run.start()
    assert state.images.shape == (3 * IPC, 1, 16, 16)
    state.counters.iteration = 3
    segment = method.sample(experts, 3, STARTS, MATCHED, 5)
    start = method.perturb(segment.start, model, rng(5, "perturb", 3))
    released = method.batches == "released"
    plan = draw_plan(STEPS, 3 * IPC, 7, "flip", dataset.shape, rng(5, "plan", 3), texture=texture, released=released)
    assert [len(row) for row in plan.indices] == ([4, 14, 14, 14, 14, 4] if released else [14] * STEPS)
    inner = InnerLoop(model, plan, method.momentum, method.weight(segment.epoch, STARTS), method.labels.kind)

    def of_cells(theta: torch.Tensor, canvases: torch.Tensor) -> torch.Tensor:
        corners = [canvases[:, :, top : top + 8, left : left + 8] for top in (0, 8) for left in (0, 8)]
        return torch.stack([model(theta, corner) for corner in corners]).mean(dim=0)

    targets = method.labels.at(state.targets, state.images, segment, of_cells)
    wanted = reference.unrolled_gradient(
        inner,
        start,
        Variables(state.images, targets, torch.tensor(0.05)),
        method.loss(segment, start, STEPS),  # type: ignore[arg-type]
    )
    found = run.gradient(state)
    for fast, slow in zip((found.images, found.targets, found.lr), wanted, strict=True):
        assert float((fast - slow).norm() / slow.norm()) < (1e-3 if method.estimator.exact else 1.0)


def test_canvases_are_distilled(
    method: Method, dataset: Dataset, experts: TrajectoryStore, followed: TrajectoryStore | None
) -> None:
    """Textures for every method: the set that comes of it."""
    settings = SETTINGS.replace(canvas=2, canvas_samples=2, iterations=2)
    if method.name not in methods():
        try:
            check_settings(method, settings, None)
        except InputError as refusal:
            pytest.skip(f"the step refuses canvases: {refusal}")
    made = distill(dataset, followed, method=method, model=experts.identity.model, ipc=IPC, settings=settings)
    assert (made.canvas, made.canvas_samples, made.ipc, made.shape) == (2, 2, IPC, dataset.shape)
    assert bool(made.images.isfinite().all())
    assert made.provenance["skipped"] == 0


def test_the_set_says_what_the_method_did(
    method: Method, dataset: Dataset, experts: TrajectoryStore, followed: TrajectoryStore | None
) -> None:
    found = distill(
        dataset, followed, method=method, model=experts.identity.model, ipc=IPC, settings=SETTINGS.replace(iterations=2)
    )
    assert (found.method, found.momentum, found.labels, found.augmentation) == (
        method.name,
        method.momentum,
        method.labels.kind,
        "flip",
    )
    assert (found.ipc, found.model, found.fingerprint) == (IPC, experts.identity.model, dataset.fingerprint)
    assert found.images.dtype == torch.float32
    assert bool(found.images.isfinite().all())
    if method.labels.kind == "hard" and "targets" not in method.learn:
        assert torch.equal(found.targets, torch.eye(3).repeat_interleave(IPC, 0))


def test_a_run_goes_on_to_the_same_bits_and_is_shown_and_exported_as_what_it_is(
    tmp_path: Path, method: Method, dataset: Dataset, experts: TrajectoryStore, followed: TrajectoryStore | None
) -> None:
    def distilled(iterations: int, out: Path | None) -> SyntheticSet:
        settings = SETTINGS.replace(iterations=iterations)
        return distill(
            dataset, followed, method=method, model=experts.identity.model, ipc=IPC, settings=settings, out=out
        )

    whole, run = distilled(2, None), tmp_path / "run"
    distilled(1, run)
    found = distilled(2, run)
    assert all(torch.equal(getattr(found, name), getattr(whole, name)) for name in ("images", "targets", "lr"))
    write_json(run / "config.json", {"method": method.to_json()})
    save_page([run], tmp_path / "page.html")
    assert method.step.loss_name in (tmp_path / "page.html").read_text(encoding="utf-8")
    card = (export(found, "huggingface", tmp_path / "card") / "README.md").read_text(encoding="utf-8")
    assert f"made by {method.step.family} with astdistill" in card or method.name not in methods()
    if method.expert is None and method.name in methods():  # of others all settings are shown
        assert not re.search("trajector|expert", card, flags=re.IGNORECASE)
    assert ("learned learning rate" in card) == ("lr" in method.learn)


def test_an_outer_step_is_the_reference_gradient(
    unrolled: Method, dataset: Dataset, experts: TrajectoryStore, model: FlatModel
) -> None:
    """`Distillation.gradient` puts the decisions together: by hand, from the same draws, in float32."""
    method = with_numbers(unrolled, batch_syn=7)
    run = Distillation(dataset, experts, method, IPC, SETTINGS, None, 5, model)
    state = run.start()
    state.counters.iteration = 3
    segment = method.sample(experts, 3, STARTS, MATCHED, 5)
    start = method.perturb(segment.start, model, rng(5, "perturb", 3))
    released = method.batches == "released"
    plan = draw_plan(STEPS, 3 * IPC, 7, "flip", dataset.shape, rng(5, "plan", 3), released=released)
    inner = InnerLoop(model, plan, method.momentum, method.weight(segment.epoch, STARTS), method.labels.kind)
    variables = Variables(
        state.images, method.labels.at(state.targets, state.images, segment, model), torch.tensor(0.05)
    )
    wanted = reference.unrolled_gradient(inner, start, variables, method.loss(segment, start, STEPS))  # type: ignore[arg-type]
    found = run.gradient(state)
    for fast, slow in zip((found.images, found.targets, found.lr), wanted, strict=True):
        assert float((fast - slow).norm() / slow.norm()) < (1e-3 if method.estimator.exact else 1.0)


OFF = {
    "clipping": lambda method: method.expert.clipped_epochs,
    "penalty": lambda method: method.expert.penalty,
    "representative": lambda method: method.init,
    "balanced": lambda method: method.weight,
    "intermediate": lambda method: type(method.loss),
    "perturbation": lambda method: method.perturb,
}


@pytest.mark.parametrize("whole", [AST, AST_AS_RELEASED], ids=lambda method: method.name)
@pytest.mark.parametrize("part", OFF)
def test_each_of_the_six_parts_can_be_switched_off(whole: Method, part: str) -> None:
    without = whole.without(part)
    for name, read in OFF.items():
        assert read(without) == read(MTT if name == part else whole), name
        assert read(whole) != read(MTT)
    neutral = {
        "loss_warmup_epochs": 0,
        "penalty": 0.0,
        "max_grad_norm": 0.0,
    }  # the bound is there for the penalty, and goes with it
    assert without.recipe.replace(**neutral) == whole.recipe.replace(**neutral)
    assert without.recipe.max_grad_norm == (0.0 if part == "penalty" else whole.recipe.max_grad_norm)
    assert without.loss.origin == whole.loss.origin
    kept = set(Method.model_fields) - {"expert", "init", "weight", "loss", "perturb"}
    assert all(getattr(without, name) == getattr(whole, name) for name in kept)


def test_all_parts_off_is_mtt_with_asts_expert_and_momentum() -> None:
    bare = AST
    for part in method_module.PARTS:
        bare = bare.without(part)
    assert bare.replace(name=MTT.name, paper=MTT.paper, expert=MTT.expert, momentum=0.0) == MTT
    assert set(method_module.PARTS) == set(OFF)


@pytest.mark.parametrize("part", ["representative", "intermediate"])
@pytest.mark.parametrize("method", methods().values(), ids=lambda method: method.name)
def test_components_that_are_no_part_of_ast_stay(method: Method, part: str) -> None:
    own = method.init if part == "representative" else method.loss
    is_asts = part in type(own).__name__.lower()
    assert (method.without(part) != method) == is_asts


@pytest.mark.parametrize("method", methods().values(), ids=lambda method: method.name)
def test_every_method_learns_what_its_step_gives_derivatives_of(method: Method) -> None:
    settings = DistillSettings.model_validate(method.step.usual_settings(1))
    check_settings(method, settings, None)
    for name in {"images", "targets", "lr"} - {*method.step.derives, *method.step.rates()}:
        with pytest.raises(InputError, match=rf"--method\.learn {name} was given, but '{method.name}' computes no"):
            check_settings(method.replace(learn=(*method.learn, name)), settings, None)


def test_what_is_no_number_of_the_set_cannot_be_learned_nor_anything_twice() -> None:
    settings = DistillSettings()
    with pytest.raises(InputError, match=r"--method\.learn names 'images' twice"):
        check_settings(MTT.replace(learn=("images", "images")), settings, None)
    with pytest.raises(InputError, match=r"--method\.learn targets was given, but 'tesla' computes no derivative"):
        check_settings(TESLA.replace(learn=("images", "targets")), settings, None)
    check_settings(MTT.replace(learn=("images", "targets", "lr")), settings, None)


def test_unknown_parts_are_refused_with_the_nearest() -> None:
    with pytest.raises(
        InputError,
        match=r"There is no part of a method 'perturb'\. Did you mean 'perturbation'\? Known: balanced, clipping",
    ):
        AST.without("perturb")
