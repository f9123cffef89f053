"""The search for learning rates: held-out images alone judge, bad trials end early, and a killed search goes on."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from problems import exit_code

from astdistill.cli.options import parse
from astdistill.cli.tune import _free_folder
from astdistill.distillation import run as running
from astdistill.distillation.settings import check_settings
from astdistill.evaluation import rows
from astdistill.experiment import tuning
from astdistill.experiment.presets import preset
from astdistill.report.tuning import Tuning

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="optuna is not installed: pip install 'astdistill[tune]'"
)
TINY = (
    "tune", "digits-ipc1", "--data.per-class", "20", "--experts.count", "1", "--method.expert.epochs", "3",
    "--model", "convnet-d1-w4", "--method.step.max-start-epoch", "2", "--method.step.syn-steps", "2",
    "--distill.validate-epochs", "2", "--distill.validate-networks", "1", "--steps", "8", "--out", "t", "--quiet",
    "--workers", "1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(tuning, "SEGMENTS", 1)  # draws of a first look, of which the tests need no median


def judged_by(monkeypatch: pytest.MonkeyPatch, accuracy: Callable[[Any, int], float]) -> list[int]:
    """Let a function of a set and its outer steps judge, in place of networks; the list grows by each set's steps."""
    seen: list[int] = []

    def judge(synthetic: Any, dataset: Any, settings: Any, seed: int) -> float:
        assert dataset.validation is not None
        steps = int(synthetic.provenance["iteration"])
        seen.append(steps)
        return accuracy(synthetic, steps)

    monkeypatch.setattr(tuning, "validate", judge)
    return seen


def found() -> Tuning:
    read = Tuning.read(Path("t"))
    assert read is not None
    return read


@needs_optuna
def test_a_search_ends_with_flags_a_page_and_a_config_that_run_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*TINY, "--trials", "3", "--also", "T", "--data.validation", "0.3") == 0
    shown, tuned = capsys.readouterr().out, found()
    best = tuned.winner
    assert best is not None
    assert best.judged is not None
    assert tuned.flags in " ".join(shown.split())
    assert len(tuned.trials) == 3
    assert tuned.held_out == 60
    page = Path("t/report.html").read_text()
    assert tuned.flags in page
    assert page.count("<svg") == 2 + len(best.values)
    assert "<script" not in page
    request = parse("run", ["--config", "t/tuned.yaml"])
    experiment = request.experiment
    assert (experiment.name, experiment.distill.lr_img) == ("digits-ipc1", best.values["distill.lr_img"])
    assert experiment.distill.lr_init == best.values["distill.lr_init"]
    assert experiment.distill.lr_lr == best.values["distill.lr_lr"]
    assert experiment.method.step.to_json()["syn_steps"] == best.values["method.step.syn_steps"]
    assert (experiment.model, experiment.data.per_class) == ("convnet-d1-w4", 20)
    assert experiment.data.validation == 0
    assert experiment.distill.iterations == preset("digits-ipc1").distill.iterations
    assert request.out == Path("runs/digits-ipc1")
    assert tuned.command == "astdistill run --config t/tuned.yaml --out runs/digits-ipc1-tuned"
    assert f"Next:      {tuned.command}\n" in shown
    assert tuned.command in page
    Path("runs/digits-ipc1-tuned").mkdir(parents=True)
    assert _free_folder("digits-ipc1") == Path("runs/digits-ipc1-tuned-2")
    # The flags say the same as the file.
    words = ["digits-ipc1", *tuned.flags.split()]
    assert parse("run", words).experiment.distill == experiment.distill


@needs_optuna
def test_trials_share_experts_and_read_held_out_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    splits, trained, given = [], [], []
    check, train, distill = rows.Testing.check, tuning.obtain_experts, tuning.distill

    def checked(testing: Any, *words: Any) -> Any:
        splits.append(testing.split)
        assert len(testing.dataset.test) == len(testing.dataset.validation)
        return check(testing, *words)

    def obtained(experiment: Any, dataset: Any) -> Any:
        trained.append(dataset)
        return train(experiment, dataset)

    def distilled(dataset: Any, *words: Any, **more: Any) -> Any:
        given.append(dataset)
        return distill(dataset, *words, **more)

    monkeypatch.setattr(rows.Testing, "check", checked)
    monkeypatch.setattr(tuning, "obtain_experts", obtained)
    monkeypatch.setattr(tuning, "distill", distilled)
    assert exit_code(*TINY, "--trials", "2") == 0
    (whole,) = trained
    assert len(given) == sum(len(trial.accuracies) for trial in found().trials) >= 2 * 2
    assert all(each.test is whole.validation is each.validation for each in given)
    assert all(len(each.train) + len(whole.validation) == 200 for each in given)
    assert set(splits) == {"validation"}


@needs_optuna
def test_the_given_rates_come_first_and_worse_trials_are_pruned_at_a_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    given = preset("digits-ipc1").distill
    judged = judged_by(
        monkeypatch, lambda synthetic, steps: 100 - abs(float(synthetic.lr) - given.lr_init) - steps / 100
    )
    assert exit_code(*TINY, "--trials", "6") == 0
    tuned = found()
    first, *others = tuned.trials
    assert first.values == {"distill.lr_init": 0.01, "distill.lr_lr": 1e-6, "distill.lr_img": 10.0}
    assert list(first.accuracies) == [1, 2, 4, 8]
    pruned = [trial for trial in others if trial.outcome == "pruned"]
    assert pruned
    assert all(max(trial.accuracies) < 8 for trial in pruned)
    for trial in pruned:  # it was not among the better half of those that came that far before it
        step = max(trial.accuracies)
        before = [
            each.accuracies[step] for each in tuned.trials if step in each.accuracies and each.number < trial.number
        ]
        assert trial.accuracies[step] < max(before)
    assert len(judged) == sum(len(trial.accuracies) for trial in tuned.trials) + sum(
        trial.judged is not None for trial in tuned.trials
    )


@needs_optuna
@pytest.mark.parametrize("where", ["first look", "step", "judge"])
def test_a_killed_search_goes_on_and_runs_the_killed_trial_again(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = judged_by(monkeypatch, lambda synthetic, steps: 50.0 + steps)
    with monkeypatch.context() as patched:
        calls: list[int] = []

        def killed(original: Any, after: int) -> Any:
            def call(*words: Any, **more: Any) -> Any:
                calls.append(1)
                if len(calls) > after:
                    raise KeyboardInterrupt
                return original(*words, **more)

            return call

        if where == "first look":
            patched.setattr(tuning, "first_ranges", killed(tuning.first_ranges, 0))
        elif where == "step":  # in the second trial; the looks before trials take none
            patched.setattr(running.Distillation, "advance", killed(running.Distillation.advance, 11))
        else:
            patched.setattr(tuning, "validate", killed(tuning.validate, 6))
        assert exit_code(*TINY, "--trials", "3", "--distill.checkpoint-seconds", "0") == 130
    journal = Path("t/trials.journal")
    with journal.open("ab") as cut:
        cut.write(b'{"op_code": 4, "work')  # a line that the kill has cut off
    ended = len(found().trials)
    assert ended == {"first look": 0, "step": 1, "judge": 1}[where]
    before = len(seen)
    assert exit_code(*TINY, "--trials", "3") == 0
    tuned = found()
    assert len(tuned.trials) == 3
    steps = [sorted(trial.accuracies) for trial in tuned.trials]
    assert steps[0] == [1, 2, 4, 8]
    if where != "first look":
        # The killed trial has a new number, its own values and folder, and goes on from its saved state.
        assert 1 not in [trial.number for trial in tuned.trials]
        again = tuned.trials[1]
        assert sorted(again.accuracies) == [1, 2, 4, 8]
        assert Path("t/trials/001/synthetic.safetensors").exists()
        assert not Path(f"t/trials/{again.number:03d}").exists()
        assert seen[before] > 2
    # Asked again, nothing is computed; with more trials, those alone.
    count = len(seen)
    assert exit_code(*TINY, "--trials", "3") == 0
    assert len(seen) == count
    assert exit_code(*TINY, "--trials", "4") == 0
    assert len(found().trials) == 4


@needs_optuna
def test_trials_side_by_side_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round has as many trials as were asked for, whoever computes them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = (*TINY[:-2], "--trials", "3", "--parallel", "2", "--threads", "2", "--distill.validate-epochs", "12")
    for workers in ("1", "2"):
        assert exit_code(*words, "--workers", workers, "--out", workers) == 0
    one, two = (Tuning.read(Path(workers)) for workers in ("1", "2"))
    assert one is not None
    assert two is not None
    assert [trial.replace(seconds=None) for trial in two.trials] == [
        trial.replace(seconds=None) for trial in one.trials
    ]
    assert len(one.trials) == 3


@needs_optuna
def test_a_round_is_pruned_when_all_of_it_have_come_as_far(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = judged_by(monkeypatch, lambda synthetic, steps: 50.0 + 10 * (len(seen) % 2) + steps)
    assert exit_code(*TINY, "--trials", "2", "--parallel", "2") == 0
    first, second = found().trials
    assert seen[:2] == [1, 1]
    assert (first.outcome, second.outcome) == ("complete", "pruned")
    assert list(second.accuracies) == [1]


@needs_optuna
def test_a_folder_of_another_search_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged_by(monkeypatch, lambda synthetic, steps: 50.0)
    assert exit_code(*TINY, "--trials", "1") == 0
    for words, told in {
        ("--distill.lr-img", "7"): "distill.lr_img was 10.0, now 7.0",
        ("--also", "T"): "also was [], now ['T']",
        ("--steps", "16"): "steps was 8, now 16",
    }.items():
        for dry in ((), ("--dry-run",)):
            assert exit_code(*TINY, "--trials", "1", *words, *dry) == 2
            assert told in capsys.readouterr().err
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    for dry in ((), ("--dry-run",)):
        assert exit_code(*TINY, "--trials", "1", "--out", "full", *dry) == 2
        assert "holds no search" in capsys.readouterr().err
    monkeypatch.setattr("astdistill.experiment.work.Speed._measured", lambda self, step: 1.0)
    assert exit_code(*TINY, "--trials", "3", "--dry-run") == 0
    assert re.search(r"^Done: +1 of 3 trials$", capsys.readouterr().out, re.MULTILINE)


@needs_optuna
def test_a_start_that_is_far_off_does_not_move_where_it_is_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(monkeypatch, lambda synthetic, steps: 50.0)
    far = ("--distill.lr-init", "1", "--distill.lr-lr", "1e-4", "--distill.lr-img", "1000")
    for name, words in {"near": (), "far": far}.items():
        assert exit_code(*TINY, "--trials", "1", *words, "--out", name) == 0
    near, off = (Tuning.read(Path(name)) for name in ("near", "far"))
    assert near is not None
    assert off is not None
    assert off.ranges["distill.lr_init"] == pytest.approx(near.ranges["distill.lr_init"], rel=1e-6)
    assert off.ranges["distill.lr_img"] == pytest.approx(near.ranges["distill.lr_img"], rel=1e-3)
    assert off.trials[0].values["distill.lr_img"] != 1000


@needs_optuna
def test_methods_without_trajectories_search_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(monkeypatch, lambda synthetic, steps: 50.0)
    words = ("tune", "digits-ipc1", "--data.per-class", "20", "--model", "convnet-d1-w4", "--steps", "8", "--trials",
             "1", "--out", "t", "--quiet", "--method", "dm")  # fmt: skip
    assert exit_code(*words) == 0
    assert set(found().ranges) == {"distill.lr_init", "distill.lr_img"}
    assert not Path("experts").exists()


@needs_optuna
def test_a_search_in_which_all_diverge_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverged(*_: Any, **__: Any) -> Any:
        raise tuning.DivergedError("too far")

    monkeypatch.setattr(tuning, "distill", diverged)
    assert exit_code(*TINY, "--trials", "2") == 1
    assert "None of 2 trials reached 8 outer steps" in capsys.readouterr().err
    assert [trial.outcome for trial in found().trials] == ["diverged", "diverged"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--method", "dm", "--also", "T"), "'dm' matches no trajectories and has no T, M or start epochs"),
        (("--method", "rded"), "'rded' chooses images and learns nothing, so it has no learning rates to search"),
        (("--also", "lr"), "--also cannot be"),
        (("--log", "tensorboard"), "a search logs to no tracker"),
        (("--steps", "4"), "--steps"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("tune", "digits-ipc1", *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sentence in line or sentence.replace("cannot be", "'lr'") in line
    assert not Path("runs").exists()


def test_without_optuna_one_sentence_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert exit_code(*TINY) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "pip install 'astdistill[tune]'" in line
    assert not Path("t").exists()


def test_a_dry_run_needs_no_optuna_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr("astdistill.experiment.work.Speed._measured", lambda self, step: 1.0)
    assert exit_code(*TINY, "--trials", "5", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    shown = dict(line.split(":", 1) for line in lines if line)
    assert max(map(len, lines)) <= 80
    assert "training and" in shown["On"]
    assert "held-out images" in shown["On"]
    assert shown["Trials"].strip().startswith("5 of 8 outer steps: at most")
    for part in ("Experts", "Trials", "Together"):
        assert re.search(r" memory, .* disk", shown[part]), part
    assert shown["Goes to"].endswith("(nothing was written: --dry-run)")
    assert not Path("t").exists()


@pytest.mark.parametrize("also", [("T",), ("M",), ("start",), ("T", "M", "start")])
def test_whatever_is_drawn_fits_the_experts(also: tuple[Any, ...]) -> None:
    experiment = preset("digits-ipc1")
    for epochs in (11, 12, 20):
        each = experiment.replace(
            method=experiment.method.replace(expert=experiment.method.recipe.replace(epochs=epochs))
        )
        step = tuning.widest(each, tuning.Search(also=also)).method.step
        step.check(each.method, SimpleNamespace(augmentation="", texture=None), epochs, "the recipe has")  # pyright: ignore
        ranges = tuning._step_ranges(each, tuning.Search(also=also))
        assert all(low <= high for low, high in ranges.values())
        assert len(ranges) == len(also)


@pytest.mark.parametrize("also", [("T",), ("M",), ("start",), ("T", "M"), ("T", "M", "start")])
@pytest.mark.parametrize(
    "name", ["digits-ipc1", "cifar100-ten-ipc10", "cifar100-ipc50-datm", "cifar10-ipc500-datm", "cifar10-ipc10-datm"]
)
def test_whatever_is_drawn_contradicts_no_other_setting(name: str, also: tuple[Any, ...]) -> None:
    experiment = preset(name)
    ranges = tuning._step_ranges(experiment, tuning.Search(also=also))
    given = tuning._current_values(experiment, ranges)
    for ends in product(*ranges.values()):
        values = dict(zip(ranges, map(int, ends), strict=True))
        each = tuning.with_values(experiment, {**given, **values})
        check_settings(each.method, each.distill, each.method.recipe.epochs)
    for key, (low, high) in ranges.items():
        assert low <= given[key] <= high


@needs_optuna
def test_a_trial_that_an_earlier_version_drew_from_what_cannot_be_counts_as_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged_by(monkeypatch, lambda synthetic, steps: 50.0)
    monkeypatch.setattr(tuning, "_step_ranges", lambda experiment, search: {"method.step.syn_steps": (1, 2)})
    assert exit_code(*TINY, "--trials", "8", "--also", "T") == 0
    outcomes = {trial.values["method.step.syn_steps"]: trial.outcome for trial in found().trials}
    assert outcomes[1] == "diverged"
    assert outcomes[2] != "diverged"


def test_the_best_trial_is_that_of_the_finalists() -> None:
    entry = {"values": {"distill.lr_img": 1.0}, "outcome": "complete"}
    trials = [
        entry | {"number": 0, "accuracies": {1: 50.0, 8: 90.0}, "judged": 80.0},
        entry | {"number": 1, "accuracies": {1: 50.0, 8: 85.0}, "judged": 84.0},
        entry | {"number": 2, "accuracies": {1: 99.0}, "outcome": "pruned"},
        entry | {"number": 3, "accuracies": {8: 10.0}, "outcome": "diverged"},
    ]
    tuned = Tuning.model_validate(
        json.loads(json.dumps({"experiment": {}, "fingerprint": "", "steps": 8, "trials": trials}))
    )
    assert tuned.winner is not None
    assert tuned.winner.number == 1
    assert torch.tensor([trial.last for trial in tuned.trials]).tolist() == [90.0, 85.0, 99.0, 0.0]


@needs_optuna
def test_a_damaged_journal_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    judged_by(monkeypatch, lambda synthetic, steps: 50.0)
    assert exit_code(*TINY, "--trials", "1") == 0
    for lines in ('{"op_code": 0}\n', "[1]\n"):
        (Path("t") / tuning.JOURNAL).write_text(lines)
        assert exit_code(*TINY, "--trials", "2") == 2
        assert "is not the journal of a search" in capsys.readouterr().err


@needs_optuna
def test_a_second_start_adds_to_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the first start wrote is lost; a line that a kill has cut off, at any byte, is."""
    judged_by(monkeypatch, lambda synthetic, steps: 50.0 + steps)
    journal = Path("t") / tuning.JOURNAL
    assert exit_code(*TINY, "--trials", "1") == 0
    first = journal.read_bytes()
    assert exit_code(*TINY, "--trials", "1") == 0
    assert journal.read_bytes().startswith(first)
    assert exit_code(*TINY, "--trials", "2") == 0
    second = journal.read_bytes()
    assert second.startswith(first)
    assert len(second) > len(first)
    last = first.rstrip(b"\n").rfind(b"\n") + 1
    for cut in (last + 1, len(first) - 1):
        journal.write_bytes(first[:cut])
        assert exit_code(*TINY, "--trials", "2") == 0
        assert journal.read_bytes().startswith(first[:last])
        assert len(found().trials) == 2
