"""A killed distillation, started again, ends with the bits of one that was never killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from killing import Killed, killed, killed_at_write
from problems import same_set
from short_methods import AST, with_numbers

from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import load
from astdistill.distillation import loop
from astdistill.distillation.loop import distill
from astdistill.distillation.run import Distillation
from astdistill.distillation.settings import DistillSettings
from astdistill.distillation.snapshots import read_course
from astdistill.distillation.state import DistillState
from astdistill.experts.store import TrajectoryStore
from astdistill.methods.initialisation import ExpertLabels
from astdistill.methods.method import Method
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import load_tensors, read_lines

SOFT = AST.replace(name="soft", labels=ExpertLabels(), learn=("images", "targets", "lr"), ema_decay=0.9)

JOB = """
from pathlib import Path
import sklearn.cluster  # once for all lives
import torch
from problems import blobs
from astdistill.distillation import DistillSettings, distill
from astdistill.experts import TrajectoryStore
from astdistill.methods import Method
from astdistill.runtime.progress import be_quiet
from astdistill.runtime.files import read_lines
torch.set_num_threads(1)
be_quiet(True)
OUT = Path({out!r})
def run():
    distill(
        blobs(validation=0.25), TrajectoryStore.open({store!r}), ipc=2, out=OUT,
        method=Method.model_validate({method!r}), settings=DistillSettings.model_validate({settings!r}),
    )
def progress():
    return len(read_lines(OUT / "metrics.jsonl"))
"""


def check_ends_alike(cut: Path, whole: Path, iterations: int) -> None:
    """Sets, states and logs of two runs are equal, and each iteration was logged once."""
    for name in {
        "synthetic.safetensors",
        *(path.name for path in whole.glob("*.safetensors") if path.stem in ("best", "last")),
    }:
        assert same_set(load(cut / name), load(whole / name)), name
    states = [load_tensors(folder / "state.safetensors") for folder in (cut, whole)]
    assert states[0][0].keys() == states[1][0].keys()
    assert all(torch.equal(tensor, states[1][0][name]) for name, tensor in states[0][0].items())
    counters = [{k: v for k, v in header["counters"].items() if k != "seconds"} for _, header in states]
    assert counters[0] == counters[1]
    check_courses_alike(cut, whole)
    logs = [read_lines(folder / "metrics.jsonl") for folder in (cut, whole)]
    assert [line["iteration"] for line in logs[0]] == list(range(iterations))
    assert logs[0] == logs[1]


def check_courses_alike(cut: Path, whole: Path) -> None:
    """Both kept the same frames, the first images among them."""
    first, second = read_course(cut), read_course(whole)
    assert [frame.iteration for frame in first] == [frame.iteration for frame in second]
    assert first[0].iteration == 0
    for mine, other in zip(first, second, strict=True):
        assert mine.lr == other.lr
        assert torch.equal(mine.pixels, other.pixels)
        assert torch.equal(mine.probabilities, other.probabilities)


@pytest.mark.slow
def test_sigkill_at_many_moments(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    """With everything that a state can hold: learned labels, an average, the best set by validation."""
    settings = settings.replace(checkpoint_seconds=0.0, iterations=10, validate_every=3)
    script = tmp_path / "job.py"
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    script.write_text(
        JOB.format(out=str(cut), store=str(experts.folder), method=SOFT.to_json(), settings=settings.to_json())
    )
    moments = killed(script, kills=5, seed=2)
    assert len(moments) >= 4
    assert len(set(moments)) >= 3
    distill(dataset, experts, method=SOFT, ipc=2, settings=settings, out=whole)
    check_ends_alike(cut, whole, settings.iterations)


@pytest.mark.parametrize(("method", "every"), [(AST, 0), (SOFT, 2)], ids=["ast", "soft"])
def test_resume_from_every_single_write(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    monkeypatch: pytest.MonkeyPatch,
    method: Method,
    every: int,
) -> None:
    """A kill between a line of the log and the state, between the best set and the state, between the sets at the
    end."""
    settings = settings.replace(validate_every=every, iterations=5, validate_epochs=2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    distill(dataset, experts, method=method, ipc=2, settings=settings, out=whole)
    lives = 0
    for number in range(100):
        try:
            # A life repeats at most five flushes: the two rewritten logs, the best set, a frame, the state.
            with killed_at_write(monkeypatch, 5 + number % 2):
                distill(dataset, experts, method=method, ipc=2, settings=settings, out=cut)
            break
        except Killed:
            lives += 1
    else:
        pytest.fail("the distillation never came to its end")
    assert lives >= 2
    check_ends_alike(cut, whole, 5)
    assert sorted(path.name for path in cut.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.mark.parametrize("method", [SOFT], ids=["soft"])
def test_textures_go_on_to_the_bits_of_one_run(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, method: Method
) -> None:
    settings = settings.replace(canvas=2, canvas_samples=3, validate_every=3)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for iterations in (2, 5, 8):
        distill(dataset, experts, method=method, ipc=2, settings=settings.replace(iterations=iterations), out=cut)
    found = distill(dataset, experts, method=method, ipc=2, settings=settings, out=whole)
    check_ends_alike(cut, whole, 8)
    assert found.images.shape == (6, 1, 16, 16)
    assert (load(cut).canvas, load(cut).canvas_samples) == (2, 3)


def test_steps_logged_after_the_state_are_taken_again(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    longer = settings.replace(iterations=7, checkpoint_seconds=1e9)
    distill(dataset, experts, method=AST, ipc=2, settings=longer, out=whole)
    distill(dataset, experts, method=AST, ipc=2, settings=longer.replace(iterations=2), out=cut)
    advance = Distillation.advance

    def until_five(self: Distillation, state, *confirmed):
        if state.counters.iteration == 5:
            raise Killed
        return advance(self, state, *confirmed)

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "advance", until_five)
        with pytest.raises(Killed):
            distill(dataset, experts, method=AST, ipc=2, settings=longer, out=cut)
    assert len(read_lines(cut / "metrics.jsonl")) == 5
    assert load_tensors(cut / "state.safetensors")[1]["counters"]["iteration"] == 2
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 5, "lo')
    distill(dataset, experts, method=AST, ipc=2, settings=longer, out=cut)
    check_ends_alike(cut, whole, 7)


@pytest.mark.parametrize(("moment", "saved"), [("attempt", 3), ("keep", 4), ("settle", 4)])
def test_a_run_that_is_told_to_stop_saves_what_it_has(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    saved: int,
) -> None:
    """Before, during and after the trial of step 4: what is saved is the last state whose own gradient is known to be
    finite."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = settings.replace(iterations=7, checkpoint_seconds=1e9)
    before = getattr(DistillState, moment)

    def stopping(state: DistillState, *words, **named):
        if state.counters.iteration == 4:
            raise KeyboardInterrupt
        return before(state, *words, **named)

    with monkeypatch.context() as patch:
        patch.setattr(DistillState, moment, stopping)
        with pytest.raises(KeyboardInterrupt):
            distill(dataset, experts, method=AST, ipc=2, settings=settings, out=cut)
    assert load_tensors(cut / "state.safetensors")[1]["counters"]["iteration"] == saved
    distill(dataset, experts, method=AST, ipc=2, settings=settings, out=cut)
    distill(dataset, experts, method=AST, ipc=2, settings=settings, out=whole)
    check_ends_alike(cut, whole, 7)


def test_a_run_killed_before_its_first_save_starts_with_an_empty_log(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "loss": 7}\n{"iter')
    distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(iterations=2), out=tmp_path)
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["iteration"] for line in lines] == [0, 1]
    assert lines[0]["loss"] != 7


def test_a_broken_state_is_named(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(iterations=2), out=tmp_path)
    state = tmp_path / "state.safetensors"
    os.truncate(state, state.stat().st_size - 1)
    with pytest.raises(InputError, match=r"state\.safetensors is not a whole safetensors file"):
        distill(dataset, experts, method=AST, ipc=2, settings=settings, out=tmp_path)
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"method": AST.replace(momentum=0.8)},
        {"method": AST.without("balanced")},
        {"method": AST.replace(ema_decay=0.9)},
        {"ipc": 1},
        {"seed": 1},
        {"lr_img": 21.0},
        {"method": with_numbers(AST, batch_syn=None)},
        {"method": with_numbers(AST, syn_steps=5)},
        {"augmentation": "flip"},
        {"max_experts": 1},
        {"canvas": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_run_of_other_settings_is_refused_and_nothing_changes(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, change: dict
) -> None:
    settings = settings.replace(iterations=2)
    distill(dataset, experts, method=AST, ipc=2, settings=settings, out=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    words = {"method": AST, "ipc": 2} | {
        name: value for name, value in change.items() if name in ("method", "ipc", "seed")
    }
    other = settings.replace(**{name: value for name, value in change.items() if name not in words}, iterations=4)
    with pytest.raises(
        InputError, match=r"belongs to a run with other data, experts or settings; choose another --out"
    ):
        distill(dataset, experts, settings=other, out=tmp_path, **words)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_on_other_experts_is_refused(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(iterations=2), out=tmp_path)
    with pytest.raises(InputError, match="belongs to a run with other data, experts or settings"):
        distill(dataset, experts.first(1), method=AST, ipc=2, settings=settings, out=tmp_path)


def test_settings_that_change_no_bit_may_change(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(iterations=2), out=tmp_path)
    other = settings.replace(checkpoint_seconds=3.0, max_skips=7)
    found = distill(dataset, experts, method=AST, ipc=2, settings=other, out=tmp_path)
    assert same_set(found, distill(dataset, experts, method=AST, ipc=2, settings=settings))


def test_fewer_iterations_than_the_best_set_took_are_refused(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed between the best set, of step 4, and the state: that of step 3 is on the disk."""
    settings = settings.replace(validate_every=1, iterations=3)
    distill(dataset, experts, method=AST, ipc=2, settings=settings, out=tmp_path)
    state = (tmp_path / "state.safetensors").read_bytes()
    monkeypatch.setattr(loop, "validate", lambda *_: 100.0)
    distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(iterations=4), out=tmp_path)
    (tmp_path / "state.safetensors").write_bytes(state)
    with pytest.raises(InputError, match=r"best\.safetensors is of outer step 4; ask for 4 or more"):
        distill(dataset, experts, method=AST, ipc=2, settings=settings, out=tmp_path)
    made = distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(iterations=4), out=tmp_path)
    assert made.provenance["iteration"] == 4
