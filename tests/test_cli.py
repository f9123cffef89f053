"""The command line: every verb, every sentence a user can meet, and the exit codes."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from astdistill.cli import main
from astdistill.options import parse
from astdistill.synthetic import load

TINY = [
    "--experts.count", "2", "--method.expert.epochs", "3", "--model", "convnet-d1-w4", "--distill.iterations", "4",
    "--distill.max-start-epoch", "2", "--distill.inner-steps", "4", "--evaluation.recipe.epochs", "4",
    "--evaluation.recipe.full-epochs", "1", "--evaluation.networks", "2", "--quiet",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


def exit_code(*words: str) -> int:
    """The code that the process would end with."""
    try:
        return main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_run_leaves_a_whole_run_folder_and_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", "digits-ipc1", *TINY) == 0
    out = Path("runs/digits-ipc1")
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "config.json", "provenance.json", "metrics.jsonl", "state.safetensors", "synthetic.safetensors", "scores.json", "images.png",
        "curves.png",
    }  # fmt: skip
    shown = capsys.readouterr().out
    assert "K-means real images" in shown
    assert str(out / "images.png") in shown
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores["baselines"]) == {"random", "kmeans", "full"}
    assert len(scores["architecture"]["convnet-d1-w4"]["final"]) == 2
    images, written = load(out).images, (out / "scores.partial.json").stat().st_mtime_ns
    assert exit_code("run", "digits-ipc1", *TINY) == 0
    assert torch.equal(load(out).images, images)
    assert (out / "scores.partial.json").stat().st_mtime_ns == written


def test_distill_then_evaluate_needs_only_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("distill", "digits-ipc1", *TINY, "--out", "made") == 0
    (tmp_path / "made" / "synthetic.safetensors").rename(tmp_path / "alone.safetensors")
    words = [
        "alone.safetensors",
        "--epochs",
        "3",
        "--networks",
        "2",
        "--baselines",
        "random",
        "--architectures",
        "convnet-d1-w4",
        "convnet-d2-w4",
    ]
    assert exit_code("evaluate", *words, "--quiet") == 0
    scores = json.loads(Path("evaluation-mtt-3-epochs-convnet-d1-w4-convnet-d2-w4/scores.json").read_text())
    assert list(scores["architecture"]) == ["convnet-d1-w4", "convnet-d2-w4"]
    assert "Protocol MTT: 3 epochs" in capsys.readouterr().out


def test_experts_shows_quality_and_keeps_the_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("experts", "digits-ipc1", *TINY) == 0
    assert "squared step" in capsys.readouterr().out
    (figure,) = Path("experts").glob("*/quality.png")
    assert figure.stat().st_size > 1000


def test_more_iterations_go_on_and_other_settings_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("distill", "digits-ipc1", *TINY, "--out", "made") == 0
    assert exit_code("distill", "digits-ipc1", *TINY, "--distill.iterations", "6", "--out", "made") == 0
    assert len(Path("made/metrics.jsonl").read_text().splitlines()) == 6
    before = Path("made/synthetic.safetensors").read_bytes()
    assert exit_code("distill", "digits-ipc1", *TINY, "--distill.lr-img", "3", "--out", "made") == 2
    assert "distill.lr_img was 10.0, now 3.0" in capsys.readouterr().err
    assert Path("made/synthetic.safetensors").read_bytes() == before


def test_dry_run_prints_settings_and_estimate_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", "cifar100-ipc1", "--model", "convnet-d3-w8", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert json.loads(shown[: shown.rindex("}") + 1])["distill"]["inner_steps"] == 20
    assert "100 experts of 50 epochs" in shown
    assert "together" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rum"], "Did you mean 'run'?"),
        (["run"], "Name a preset"),
        (["run", "cifar100-ipc2"], "Did you mean 'cifar100-ipc1'?"),
        (["run", "digits-ipc1", "--method", "asst"], "Did you mean 'ast'?"),
        (["run", "digits-ipc1", "--method", "nowhere:METHOD"], "Cannot import 'nowhere:METHOD'"),
        (["run", "digits-ipc1", "--without", "clippin"], "Did you mean 'clipping'?"),
        (["run", "digits-ipc1", "--protocol", "mt"], "Did you mean 'mtt'?"),
        (["run", "digits-ipc1", "--data", "no/such/folder"], "no/such/folder"),
        (["run", "digits-ipc1", "--data.source", "cifar11"], "Did you mean 'cifar10'?"),
        (["run", "digits-ipc1", "--ipc", "1000"], "choose --ipc between 1 and"),
        (["run", "digits-ipc1", "--device", "cudaa"], "is not a device"),
        (["run", "digits-ipc1", *TINY, "--distill.max-start-epoch", "3"], "--distill.max-start-epoch 2 or less"),
        (["run", "digits-ipc1", *TINY, "--distill.validate-every", "2"], "--data.validation 0.1"),
        (["run", "digits-ipc1", "--method", "ast-as-released", *TINY], "multiple of 10"),
        (["run", "digits-ipc1", "--model", "convnet-d3-batchnorm", *TINY[6:]], "norm='instance'"),
        (["run", "digits-ipc1", "--model", "convnet-d9"], "depth"),
        (["evaluate", "nowhere"], "nowhere"),
        (["presets", "digits-ipc1"], "astdistill run"),
        (["bench", "unrol"], "Did you mean 'unroll'?"),
        (["bench", "unroll", "--case", "b100-t1"], "Did you mean 'b100-t10'?"),
        (["bench", "store", "--variant", "our"], "Did you mean 'ours'?"),
        (["bench", "store", "-n", "0"], "choose 1 or more"),
        (["bench", "store", "--epochs", "3"], "astdistill bench evaluate"),
    ],
    ids=lambda value: "-".join(value)[:50] if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*words, *(["--quiet"] if words[:2] == ["run", "digits-ipc1"] else [])) == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [["--iterations", "3"], ["--ipc", "-1"], ["--ipc", "two"], ["--distill.lr-img", "0"]], ids=" ".join)
def test_wrong_flags_and_values_end_with_code_2(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", "digits-ipc1", *flags) == 2
    assert flags[0].strip("-").split(".")[-1].replace("-", "_") in capsys.readouterr().err.replace("-", "_")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, so asking for one is no error")
def test_no_gpu_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", "digits-ipc1", "--device", "cuda") == 2
    assert "--device cpu" in capsys.readouterr().err


def test_a_run_can_start_from_noise_or_from_an_earlier_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("distill", "digits-ipc1", *TINY, "--init", "noise", "--out", "first") == 0
    assert exit_code("distill", "digits-ipc1", *TINY, "--init", "first", "--distill.lr-img", "1e-9", "--out", "second") == 0
    assert torch.allclose(load("second").images, load("first").images, atol=1e-4)
    assert exit_code("distill", "digits-ipc1", *TINY, "--init", "first", "--ipc", "2", "--out", "third") == 2
    assert "other images per class (1) than this run (2)" in capsys.readouterr().err
    assert not Path("third").exists()
    assert exit_code("distill", "digits-ipc1", *TINY, "--init", "nois") == 2
    assert "Did you mean 'noise'?" in capsys.readouterr().err


def test_a_folder_with_other_things_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    assert exit_code("run", "digits-ipc1", *TINY, "--out", "mine") == 2
    assert "holds no run" in capsys.readouterr().err
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


def test_a_store_that_is_a_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("mine")
    for verb in ("run", "experts"):
        assert exit_code(verb, "digits-ipc1", *TINY, "--experts.store", "taken") == 2
        assert "--experts.store taken is a file; name a folder" in capsys.readouterr().err
    assert Path("taken").read_text() == "mine"


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/digits-ipc1/state.safetensors")

    monkeypatch.setattr("astdistill.distillation.saving.Saver.save", full)
    assert exit_code("run", "digits-ipc1", *TINY) == 1
    message = capsys.readouterr().err
    assert "No space left on device at runs/digits-ipc1/state.safetensors" in message
    assert "--out" in message


def test_stopping_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("astdistill.distillation.saving.Saver.after_step", stopped)
    assert exit_code("run", "digits-ipc1", *TINY) == 130
    assert "astdistill run digits-ipc1 --experts.count 2" in capsys.readouterr().err


def test_help_reads_without_torch() -> None:
    code = "import sys; from astdistill.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in ("demo", "run", "experts", "distill", "evaluate", "presets", "bench"):
        assert f"\n  {verb} " in result.stdout


@pytest.mark.parametrize("verb", ["demo", "run", "experts", "distill", "evaluate", "bench"])
def test_help_of_each_verb_names_its_flags(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(verb, "--help") == 0
    shown = capsys.readouterr().out
    own = {"evaluate": ("--networks", "--protocol"), "bench": ("--case", "--variant", "--json", "--threads")}
    wanted = own.get(verb, ("--distill.lr-img", "--method.goal.beta", "--dry-run", "--without"))
    for flag in wanted:
        assert flag in shown


def test_presets_lists_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("presets") == 0
    shown = capsys.readouterr().out
    for name in ("digits-ipc1", "cifar100-ten-ipc10", "cifar100-ipc1", "cifar100-ipc10", "cifar100-ipc50", "cifar10-ipc10"):
        assert name in shown


def test_any_part_can_be_put_in(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--part", "estimator=Truncated", "--method.estimator.k", "2", "--part", "rate=RawRate", "--part", "labels=ExpertTargets"]
    assert exit_code("distill", "digits-ipc1", *words, *TINY) == 0
    method = json.loads(Path("runs/digits-ipc1/config.json").read_text())["method"]
    assert method["estimator"] == {"part": "astdistill.unroll.truncated:Truncated", "k": 2}
    assert method["rate"] == {"part": "astdistill.methods.parts.rate:RawRate"}
    assert load("runs/digits-ipc1").labels == "soft"
    for assignment, sentence in (
        ("estimator=Truncatd", "Did you mean 'Truncated'?"),
        ("estimater=Truncated", "Did you mean 'estimator'?"),
        ("goal=Truncated", "There is no part for 'goal' 'Truncated'"),
    ):
        assert exit_code("run", "digits-ipc1", "--part", assignment) == 2
        assert sentence in capsys.readouterr().err


def test_a_refused_run_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("distill", "digits-ipc1", *TINY, "--out", "made") == 0
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for words in (["--distill.iterations", "2"], ["--data.per-class", "50"], ["--experts.count", "3"], ["--seed", "1"]):
        assert exit_code("distill", "digits-ipc1", *TINY, *words, "--out", "made") == 2
    assert "4 iterations already, 2 were asked for" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_folder_left_by_a_kill_before_its_first_file_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    Path("made").mkdir()
    Path("made/.config.json.x1y2.tmp").write_text("{")
    assert exit_code("distill", "digits-ipc1", *TINY, "--out", "made") == 0


@pytest.mark.parametrize(
    "words",
    [["--distill.augmentation", "colour"], ["--evaluation.architectures", "convnet-d9"], ["--distill.max-experts", "9"], ["--ipc", "1000"]],
    ids=" ".join,
)
def test_bad_settings_cost_nothing(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("distill", "digits-ipc1", *TINY, *words) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_published_figure_is_shown_for_its_cell_only() -> None:
    assert parse("run", ["cifar100-ipc1", "--data", "elsewhere/cifar100"]).experiment.published.accuracy == 26.1
    for words in (["--method", "mtt"], ["--ipc", "2"], ["--model", "convnet-d2"], ["--data.whiten", "none"]):
        assert parse("run", ["cifar100-ipc1", *words]).experiment.published.accuracy is None
