"""What the commands and the Python functions refuse before anything is computed: each in one sentence, and a dry run
refuses what the run would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import astdistill as ad
from astdistill.cli.main import main
from astdistill.cli.watch import _bar_width
from astdistill.experts import train_experts
from astdistill.interop.reproduction import command
from astdistill.runtime.errors import InputError
from astdistill.runtime.kinds import fits
from astdistill.runtime.machine import MOST_SIDE_BY_SIDE
from astdistill.runtime.parallel import limited, plan_workers

pytestmark = pytest.mark.usefixtures("desk_of_a_run")
DRY = ("run", "digits-ipc1", "--dry-run")


def sentence(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What these words are refused with, which is one line."""
    capsys.readouterr()
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith("astdistill: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize("verb", [DRY, ("evaluate", "made"), ("sweep", "digits-ipc1", "--dry-run")])
@pytest.mark.parametrize("flag", ["--threads", "--workers"])
def test_threads_and_workers_have_a_bound(verb: tuple[str, ...], flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{flag} cannot be 1000000; choose {MOST_SIDE_BY_SIDE} or less" in sentence(capsys, *verb, flag, "1000000")


def test_functions_have_it_too() -> None:
    with pytest.raises(InputError, match="1000000 threads were asked for; choose 1 to"), limited(1_000_000):
        pass
    with pytest.raises(InputError, match="1000000 workers were asked for; choose --workers of 1 or more, up to 1,024"):
        plan_workers(2, 1_000_000, torch.device("cpu"))


REFUSED = {
    "validation without images": (("--distill.validate-every", "5"), "hold some out with --data.validation 0.1"),
    "validation after the end": (
        ("--distill.validate-every", "9000", "--data.validation", "0.1"),
        "--distill.validate-every 9000 was given, but the run has 300 outer steps",
    ),
    "too many classes": (("--data.first-classes", "99"), "The first 99 classes were asked for, but there are 10"),
    "an unknown class": (("--data.classes", "1", "dog"), "There is no class 'dog'"),
    "a class twice": (("--data.classes", "1", "1"), "Class '1' is asked for twice in --data.classes"),
    "a start of another size": (("--init", "made", "--ipc", "3"), "made has other images per class (1) than this run (3)"),
    "a mirror that is a folder": (("--mirror", "foo"), "--mirror foo is a folder; name an address"),
    "a cluster of no form": (("--cluster", "nowhere"), "--cluster nowhere was given; write auto, or HOST:PORT"),
    "no folder": (("--out", ""), "--out names nothing; give a path"),
    "a file for a folder": (("--out", "made/config.json"), "--out made/config.json is a file; name a folder"),
    "a part that is not there": (("--method", "mtt", "--without", "penalty"), "the method mtt has no such part"),
    "a part twice": (("--without", "penalty", "--without", "penalty"), "or it was left out already"),
    "nothing to learn": (("--method.learn",), "--method.learn needs a value"),
    "a network twice": (("--evaluation.architectures", "mlp", "mlp"), "--evaluation.architectures names 'mlp' twice"),
    "a part without a name": (("--part", "loss"), "--part loss names no part; write --part loss=NAME"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_dry_run_refuses_what_the_run_does(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, wanted = REFUSED[case]
    assert wanted in sentence(capsys, *DRY, *words)


def test_classes_of_data_known_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'cat' is asked for twice" in sentence(
        capsys, "run", "cifar10-ipc1", "--dry-run", "--data.classes", "cat", "cat"
    )
    assert "no class number 10" in sentence(capsys, "run", "cifar10-ipc1", "--dry-run", "--data.classes", "1", "10")
    wrong = sentence(capsys, "run", "--data", "bloodmnist", "--dry-run", "--data.classes", "basophil", "cat")
    assert "There is no class 'cat'" in wrong
    assert main(("run", "cifar10-ipc1", "--dry-run", "--data.classes", "cat", "dog")) == 0


@pytest.mark.parametrize(
    ("words", "unread"),
    [
        (("--distill.lr-targets", "3"), "--distill.lr-targets 3 has no effect with the method ast"),
        (
            ("--method", "dm", "--distill.lr-lr", "5", "--experts.count", "7"),
            "--experts.count 7, --distill.lr-lr 5 have no effect with the method dm",
        ),
        (("--method", "dm", "--part", "estimator=FirstOrder"), "--part estimator=FirstOrder has no effect with"),
        (("--method", "dm", "--part", "goal=NearestMatchingLoss"), "--part goal=NearestMatchingLoss has no effect"),
        (("--method", "dc", "--method.batches", "released"), "--method.batches released has no effect"),
        (("--method", "tgdd", "--method.batches", "released"), "--method.batches released has no effect"),
        (("--method", "at-bptt", "--method.step.place", "last"), "--method.step.place last has no effect"),
        (("--method", "datm", "--method.sample.begins", "5"), "--method.sample.begins 5 has no effect"),
        (("--method", "datm", "--method.sample.full-by", "9"), "--method.sample.full-by 9 has no effect"),
        (("--method.expert.optimiser", "adam", "--method.expert.momentum", "0.5"), "--method.expert.momentum 0.5 has"),
        (("--method", "mtt", "--method.expert.drops-at", "0.5"), "--method.expert.drops-at 0.5 has no effect"),
        (("--method", "mtt", "--method.expert.penalty-form", "pixel"), "--method.expert.penalty-form pixel has no"),
        (("--evaluation.recipe.networks", "9"), "--evaluation.recipe.networks 9 has no effect"),
        (
            ("--evaluation.baselines", "random", "--evaluation.recipe.full-epochs", "9"),
            "--evaluation.recipe.full-epochs 9 has no effect",
        ),
        (("--protocol", "rded", "--evaluation.recipe.batch", "9"), "--evaluation.recipe.batch 9 has no effect"),
        (("--protocol", "tgdd", "--evaluation.recipe.momentum-after", "0.1"), "momentum-after 0.1 has no effect"),
        (("--distill.validate-epochs", "9"), "--distill.validate-epochs 9 has no effect"),
        (("--distill.validate-networks", "9"), "--distill.validate-networks 9 has no effect"),
        (("--distill.max-passes", "9"), "--distill.max-passes 9 has no effect with the method ast"),
        (("--data.resize", "squash"), "--data.resize squash has no effect"),
        (("--distill.validate-epochs", "9", "--distill.validate-every", "9", "--data.validation", "0.1"), ""),
        (("--method", "datm", "--distill.max-passes", "9"), ""),
        (("--data.resize", "squash", "--data.size", "16"), ""),
        (("--method", "mtt", "--part", "estimator=FirstOrder"), ""),
        (("--method", "rded", "--method.expert.epochs", "7", "--experts.count", "2"), ""),
        (("--method", "datm", "--method.sample.begins", "5", "--method.sample.full-by", "9"), ""),
        (("--evaluation.baselines", "full", "--evaluation.recipe.full-epochs", "9"), ""),
        (("--method", "dm", "--experts.seed", "7"), ""),
        (("--method", "datm", "--distill.lr-targets", "3"), ""),
        (("--ipc", "2"), ""),
        (("--method", "dm"), ""),
    ],
)
def test_settings_that_nothing_reads_are_told(
    words: tuple[str, ...], unread: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main((*DRY, *words)) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert len(told) == bool(unread)
    assert unread in "".join(told)


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        (("experts", "--seed", "3"), "astdistill experts does not use --seed 3; give it to: astdistill run"),
        (
            ("experts", "--distill.iterations", "9", "--evaluation.networks", "9", "--protocol", "rded"),
            "does not use --distill.iterations 9, --evaluation.networks 9, --protocol rded; give them to: astdistill run",
        ),
        (("experts", "--method.expert.epochs", "19", "--method.step.expert-epochs", "1", "--experts.seed", "2"), ""),
        (("experts", "--ipc", "2"), ""),  # where no preset is named, it decides about the experts
        (
            ("distill", "--evaluation.networks", "9", "--evaluation.recipe.networks", "9", "--protocol", "rded"),
            "astdistill distill does not use --evaluation.networks 9, --evaluation.recipe.networks 9, --protocol rded;",
        ),
        (("distill", "--distill.iterations", "9", "--seed", "3"), ""),
        (("run", "--evaluation.networks", "9", "--protocol", "rded", "--seed", "3"), ""),
        (("tune", "--evaluation.networks", "9"), ""),  # goes into the settings of the run with the found rates
    ],
)
def test_settings_that_a_command_does_not_use_are_told(
    words: tuple[str, ...], unused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *flags = words
    assert main((verb, "digits-ipc1", "--dry-run", *flags)) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "does not use" in line or "no effect" in line]
    assert len(told) == bool(unused)
    assert unused in "".join(told)


@pytest.mark.parametrize(
    ("verb", "stages", "place"),
    [
        ("experts", ["Experts"], "experts"),
        ("distill", ["Experts", "Distillation"], "runs/digits-ipc1"),
        ("run", ["Experts", "Distillation", "Evaluation", "Rows"], "runs/digits-ipc1"),
    ],
)
def test_a_dry_run_counts_what_its_command_computes(
    verb: str, stages: list[str], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main((verb, "digits-ipc1", "--dry-run")) == 0
    titles = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert titles[titles.index("Where") + 1 :] == [*stages, "Together", "Goes to"]
    assert main((verb, "digits-ipc1", "--dry-run", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["stages"]) == len([each for each in stages if each != "Rows"]) + 1
    assert told["stages"][-1]["seconds"] == pytest.approx(sum(each["seconds"] for each in told["stages"][:-1]))
    assert Path(told["out"]) == Path(place)


@pytest.mark.parametrize(
    ("words", "usual"),
    [
        (("--method", "idc", "--method.step.differences", "squared"), "--distill.lr-img 0.016 (this run: 0.00032)"),
        (("--method", "tgdd", "--method.step.stepping", "per-class"), "--distill.outer-momentum 0.5"),
        (
            ("--part", "step=SiameseGradientMatching", "--method.learn", "images"),
            "--distill.iterations 1000 (this run: 300), --distill.lr-img 0.1 (this run: 10)",
        ),
        (("--method", "dsa"), ""),
        (("--method", "dsa", "--ipc", "3", "--distill.iterations", "30"), ""),
        (("--ipc", "3"), ""),
    ],
)
def test_settings_that_others_bring_with_them_are_told(
    words: tuple[str, ...], usual: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main((*DRY, *words)) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "Usual for" in line]
    assert len(told) == bool(usual)
    assert usual in "".join(told)


def test_a_dry_run_checks_columns_of_a_data_set_known_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    refused = sentence(capsys, "run", "digits-ipc1", "--dry-run", "--data.image-column", "x")
    assert "--data.image-column x names a column of a table" in refused


def test_a_flag_of_other_methods_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--method.expert.epochs", "--distill.inner-steps"):
        assert f"The method dm has no setting {flag}; leave it out, or choose a method that has it: --method ast" in (
            sentence(capsys, "run", "digits-ipc1", "--method", "dm", flag, "3", "--dry-run")
        )


def test_a_sweep_tells_of_them_once_for_each_method(capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--methods",
        "mtt,dm,tgdd",
        "--set",
        "distill.lr-lr=1e-6,1e-5",
        "--set",
        "method.ema_decay=0.9",
        "--seeds",
        "2",
    )
    assert main(("sweep", "digits-ipc1", *words, "--dry-run")) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert [line.partition(" and the other")[0] for line in told] == [
        f"astdistill: --set distill.lr-lr has no effect with the method {method}" for method in ("dm", "tgdd")
    ]
    assert (
        main(("sweep", "digits-ipc1", "--methods", "tgdd", "--set", "method.step.stepping=per-class", "--dry-run")) == 0
    )
    assert "Usual for tgdd with the given settings: --distill.lr-img 0.16" in capsys.readouterr().err


def test_evaluate_refuses_what_has_no_effect(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = sentence(capsys, "evaluate", "made", "--full-epochs", "3", "--baselines", "random")
    assert "--full-epochs 3 was given, but nothing is trained on full data; add full to --baselines" in wrong
    assert "--architectures needs a value" in sentence(capsys, "evaluate", "made", "--architectures")
    assert "--architectures names 'mlp' twice" in sentence(capsys, "evaluate", "made", "--architectures", "mlp", "mlp")
    assert "--baselines names 'random' twice" in sentence(capsys, "evaluate", "made", "--baselines", "random", "random")
    scores = ad.Scores.read("made")
    scores = scores.replace(recipe=scores.recipe.replace(full_epochs=7))
    assert "--full-epochs" not in command(ad.load("made"), scores, "made")
    scores = scores.replace(baselines={"full": scores.baselines["random"]})
    assert "--full-epochs 7" in command(ad.load("made"), scores, "made")


def test_a_sweep_refuses_repetition_and_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ("sweep", "digits-ipc1", "--dry-run")
    assert "PRESET names 'digits-ipc1' twice" in sentence(capsys, *sweep, "digits-ipc1")
    assert "--methods names 'mtt' twice" in sentence(capsys, *sweep, "--methods", "mtt,dm,mtt")
    assert "--seeds N counts the seeds of a sweep" in sentence(capsys, *sweep, "--set", "seed=1,2")
    with pytest.raises(InputError, match="The method mtt was named twice"):
        ad.sweep(["digits-ipc1"], methods=["mtt", "mtt"], out="never")


FILES = {
    "a key twice": ("ipc: 1\nipc: 2\n", "settings.yaml has 'ipc' twice; leave one out"),
    "an inner key twice": ("distill: {lr_img: 1, lr_img: 2}\n", "settings.yaml has 'lr_img' twice"),
    "a truth for a number": ("preset: digits-ipc1\nseed: true\n", "--seed cannot be 'true'; give a whole number"),
    "a value for a group": ("preset: digits-ipc1\ndistill: 3\n", "has a value for 'distill', which holds settings"),
    "a flag of all commands": (
        "preset: digits-ipc1\nquiet: true\n",
        "has 'quiet', which is typed on the command line alone",
    ),
    "a list of lists": ("preset: digits-ipc1\nipc: [[1], 2]\n", "settings.yaml: 'ipc' holds a list of more than"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_of_settings(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, wanted = FILES[case]
    Path("settings.yaml").write_text(text)
    assert wanted in sentence(capsys, *DRY, "--config", "settings.yaml")


def test_files_of_other_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    Path("settings.toml").write_text('preset = "digits-ipc1"\n')
    assert "--config settings.toml is TOML; write a YAML file" in sentence(capsys, *DRY, "--config", "settings.toml")
    assert "--config made/config.json is the config.json of a run" in sentence(
        capsys, *DRY, "--config", "made/config.json"
    )


def test_the_folder_of_several_runs_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"folder": f"seed-{seed}", "preset": "p", "method": "m", "settings": "", "seed": seed, "decisive": ""}
            for seed in (0, 1)]  # fmt: skip
    Path("several").mkdir()
    Path("several/sweep.json").write_text(json.dumps({"title": "two", "rows": rows}))
    for verb in (("evaluate",), ("export", "--format", "npz")):
        wrong = sentence(capsys, verb[0], "several", *verb[1:])
        assert (
            f"several holds several runs (several/seed-0, several/seed-1); name one of them: astdistill {verb[0]}"
            in wrong
        )


@pytest.mark.parametrize("line", ['{"iteration": 4, "loss": 0.5}', '{"iteration": 4}', '{"iteration": 4, "lr": null}'])
def test_watch_shows_a_line_without_a_rate(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("made/metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    assert main(("watch", "made", "--once")) == 0
    assert "step 5 of 3" in capsys.readouterr().out


def test_watch_names_damaged_settings(capsys: pytest.CaptureFixture[str]) -> None:
    Path("made/config.json").write_text('{"name": "x"}')
    assert "made/config.json does not hold the settings of a run" in sentence(capsys, "watch", "made", "--once")


def test_watch_leaves_room_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    widths = {}
    for columns in (30, 40, 80, 140):
        monkeypatch.setenv("COLUMNS", str(columns))
        widths[columns] = _bar_width()
    assert widths == {30: 7, 40: 10, 80: 20, 140: 20}
    monkeypatch.setenv("COLUMNS", "40")
    assert main(("watch", "made", "--once")) == 0
    assert "━" * 11 not in capsys.readouterr().out


def test_a_finished_run_without_its_log_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    from test_first_errors import RUN

    Path("made/metrics.jsonl").write_text("")
    before = Path("made/scores.json").read_text()
    assert main((*RUN, "--out", "made")) == 0
    assert Path("made/scores.json").read_text() == before


@pytest.mark.parametrize("path", ["broken", "raising"])
def test_a_module_that_cannot_be_imported(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken_of_mine.py").write_text("def x(:\n")
    Path("raising_of_mine.py").write_text("{}['nothing']\n")
    kind = {"broken": "SyntaxError", "raising": "KeyError"}[path]
    wrong = sentence(capsys, *DRY, "--model", f"{path}_of_mine:network")
    assert f"Cannot import '{path}_of_mine:network', because its module raises {kind}" in wrong
    assert f"python -c 'import {path}_of_mine'" in wrong


def no_size(channels: int, classes: int) -> nn.Module:
    """A factory that was forgotten to take an argument."""
    raise AssertionError("never called")


def test_a_factory_of_other_arguments() -> None:
    for wrong in (no_size, lambda: nn.Identity(), lambda shape, channels, classes, size: nn.Identity()):
        with pytest.raises(InputError, match=r"a factory is called as factory\(channels=…, classes=…, size="):
            ad.build_model(wrong, (1, 8, 8), 10)
    for right in (lambda **_: nn.Identity(), lambda classes, channels, size: nn.Identity()):
        assert isinstance(ad.build_model(right, (1, 8, 8), 10), nn.Module)


CALLED: Any = ad
"""The package as those see it whose editor knows no types."""
CALLS: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "a method's name": (lambda data, made: CALLED.distill(data, method="mtt"), "for example astdistill.methods.MTT"),
    "data by name": (lambda data, made: CALLED.distill("digits"), "for example astdistill.load_dataset('digits')"),
    "a store by path": (lambda data, made: CALLED.distill(data, "experts"), "astdistill.TrajectoryStore.open(FOLDER)"),
    "a part of an image": (
        lambda data, made: CALLED.distill(data, ipc=1.5),
        "distill(ipc=1.5) was called; give a whole",
    ),
    "a protocol's name": (lambda data, made: CALLED.evaluate(made, data, recipe="mttt"), "astdistill.PROTOCOLS['mtt']"),
    "seeds in a list": (
        lambda data, made: CALLED.evaluate(made, data, seeds=[1, 2]),
        "evaluate(seeds=[1, 2]) was called",
    ),
    "a set by path": (lambda data, made: CALLED.evaluate("made", data), "for example astdistill.load('runs/demo')"),
    "no network": (lambda data, made: CALLED.train_experts(data, model=None), "train_experts(model=None) was called"),
    "a number as text": (
        lambda data, made: CALLED.train_experts(data, count="2"),
        "count='2') was called; give a whole",
    ),
    "two of a shape": (
        lambda data, made: CALLED.build_model("mlp", (8, 8), 10),
        "shape=(8, 8)) was called; give 3 values",
    ),
    "a number for a path": (lambda data, made: CALLED.load(3), "load(path=3) was called; give a text, or a path"),
    "nothing for a path": (lambda data, made: CALLED.load(None), "load(path=None) was called"),
    "an empty text for a path": (
        lambda data, made: CALLED.load(""),
        "load(path='') was called; give a path, which an empty text is not.",
    ),
    "an empty text for a store": (lambda data, made: CALLED.train_experts(data, store=""), "(store='') was called"),
    "the same elsewhere": (lambda data, made: train_experts(data, store=""), "'' names no folder; give one, for"),
    "no store": (lambda data, made: CALLED.TrajectoryStore.open(""), "'' names no folder; give one, for"),
    "a dtype of no store": (
        lambda data, made: CALLED.train_experts(data, dtype="float16"),
        "There is no dtype of stored experts 'float16'. Did you mean 'bfloat16'? Known: bfloat16, float32.",
    ),
    "a seed of no store": (lambda data, made: CALLED.train_experts(data, seed=2**64), f"seed={2**64} was given; give"),
    "an empty text for an engine": (
        lambda data, made: CALLED.evaluate(made, data, engine=""),
        "There is no engine ''. Known: auto",
    ),
    "a text for a list": (lambda data, made: CALLED.sweep("digits-ipc1", out="x"), "presets='digits-ipc1') was called"),
}


@pytest.mark.parametrize("case", CALLS)
def test_python_functions_say_which_argument_is_wrong(case: str) -> None:
    call, wanted = CALLS[case]
    with pytest.raises(InputError) as error:
        call(ad.load_dataset("digits", per_class=3), ad.load("made"))
    assert wanted in str(error.value)


def test_kinds_leave_to_a_function_what_is_its_own() -> None:
    import numpy as np

    for value, kind in (
        (np.int64(3), int), (np.float32(3), float), (3, float), (torch.Size((1, 2, 3)), tuple[int, int, int]),
        ([1, 2], tuple[int, ...]), (Path("x"), str | Path), (None, int | None), ("anything", Any), (len, Callable[..., int]),
    ):  # fmt: skip
        assert fits(value, kind)
    assert ad.build_model("mlp", [1, 8, 8], np.int64(10)) is not None  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword"):
        CALLED.load("made", truts="x")
    assert ad.load is ad.load


@pytest.mark.parametrize("flag", ["--epochs", "--full-epochs"])
def test_epochs_under_a_protocol_of_steps_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "runs/none", "--protocol", "rat", flag, "50", "--baselines", "full"]
    assert main(words) == 2
    assert f"{flag} 50 was given, but the protocol rat counts 3000 steps" in capsys.readouterr().err
