"""Whole runs over seeds, and flags in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from problems import exit_code

from astdistill.cli.options import parse
from astdistill.report.compare import runs_in
from astdistill.report.sweep import Sweep
from astdistill.runtime.errors import InputError
from astdistill.runtime.tables import spread

TINY = (
    "--experts.count", "2", "--method.expert.epochs", "3", "--model", "convnet-d1-w4", "--distill.iterations", "2",
    "--method.step.max-start-epoch", "2", "--method.step.syn-steps", "2", "--evaluation.recipe.epochs", "2",
    "--evaluation.networks", "2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def test_runs_over_seeds_are_whole_runs_and_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run", "digits-ipc1", *TINY, "--evaluation.baselines", "random", "--quiet")
    assert exit_code(*words, "--seeds", "2", "--save-config", "mine.yaml") == 0
    capsys.readouterr()
    out = Path("runs/digits-ipc1-seeds")
    states = [json.loads((out / f"seed-{seed}" / "config.json").read_text()) for seed in (0, 1)]
    assert [(each["seed"], each["experts"]["seed"]) for each in states] == [(0, 0), (1, 1)]
    means = [
        json.loads((out / f"seed-{seed}" / "scores.json").read_text())["architecture"]["convnet-d1-w4"]["mean"]
        for seed in (0, 1)
    ]
    written = Sweep.read(out)
    assert written is not None
    assert [row.mean for row in written.rows] == means
    first = (out / "seed-0" / "scores.partial.json").stat().st_mtime_ns
    # The same by the file, resumed, with one seed more, which the command line says.
    assert exit_code("run", "--config", "mine.yaml", "--seeds", "3", "--quiet") == 0
    shown = capsys.readouterr().out
    assert "3 × 2" in shown, "three runs of two networks"
    assert (out / "seed-0" / "scores.partial.json").stat().st_mtime_ns == first
    assert exit_code("compare", str(out), "--format", "markdown") == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| digits")]
    found = Sweep.read(out)
    assert found is not None
    assert f"| {spread([row.mean for row in found.rows])} | 3 runs |" in row
    (out / "sweep.json").unlink()
    (out / "seeds.json").write_text('{"seeds": [0, 1]}')
    assert [path.name for path in runs_in(out)] == ["seed-0", "seed-1"], "as an earlier version wrote it"
    assert exit_code("run", "digits-ipc1", *TINY, "--quiet", "--seeds", "2", "--out", str(out / "seed-0")) == 2
    assert "holds a run; name another folder" in capsys.readouterr().err
    assert exit_code("run", "digits-ipc1", "--seeds", "0") == 2


def test_a_saved_config_is_what_was_typed() -> None:
    words = ["digits-ipc1", "--method", "mtt", "--part", "estimator=Truncated", "--method.estimator.k", "3",
             "--evaluation.baselines", "--data.per-class", "None", "--no-dry-run", "--distill.lr-img", "1e-3"]  # fmt: skip
    typed = parse("run", [*words, "--save-config", "a.yaml"])
    assert yaml.safe_load(Path("a.yaml").read_text()) == {
        "preset": "digits-ipc1", "method": "mtt", "part": ["estimator=Truncated"], "data.per_class": None,
        "method.estimator.k": 3, "distill.lr_img": 0.001, "evaluation.baselines": [],
    }  # fmt: skip
    assert parse("run", ["--config", "a.yaml"]).experiment == typed.experiment
    over = parse("run", ["cifar10-ipc1-mtt", "--config=a.yaml", "--distill.lr-img", "7"])
    assert (over.experiment.name, over.experiment.distill.lr_img) == ("cifar10-ipc1-mtt", 7.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("distil.lr_img: 3", "has 'distil.lr_img', which is no setting. Did you mean 'distill.lr_img'?"),
        ("dry_run: true", "has 'dry_run', which is no setting."),
        ("distill: {lr_img: three}", "--distill.lr-img cannot be 'three'"),
        ("ipc: [{a: b}]", "'ipc' holds a list of more than plain values"),
        ("[1, 2]", "holds no settings"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_config_that_cannot_be_is_one_sentence(text: str, sentence: str) -> None:
    Path("a.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        parse("run", ["digits-ipc1", "--config", "a.yaml"])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", "digits-ipc1", "--config", "no.yaml") == 2
    assert "--config no.yaml cannot be read" in capsys.readouterr().err
    assert exit_code("run", "digits-ipc1", "--config") == 2
    assert "--config needs a value" in capsys.readouterr().err
