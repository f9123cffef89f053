"""The command line: every verb, every sentence a user can meet, and the exit codes."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from problems import exit_code

from astdistill.cli.main import VERBS
from astdistill.cli.options import parse
from astdistill.data.synthetic import load
from astdistill.experiment.presets import PRESETS
from astdistill.experiment.work import Speed

TINY = [
    "--experts.count", "2", "--method.expert.epochs", "2", "--model", "convnet-d1-w4", "--distill.iterations", "4",
    "--method.step.max-start-epoch", "1", "--method.step.syn-steps", "4", "--evaluation.recipe.epochs", "2",
    "--evaluation.recipe.full-epochs", "1", "--evaluation.networks", "2", "--quiet",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `made` and its experts, for copying."""
    place = tmp_path_factory.mktemp("distilled")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert exit_code("distill", "digits-ipc1", *TINY, "--out", "made") == 0
    return place


@pytest.fixture
def made(distilled: Path, tmp_path: Path) -> Path:
    """The run `made` in the current folder."""
    shutil.copytree(distilled, tmp_path, dirs_exist_ok=True)
    return tmp_path / "made"


@pytest.mark.drawn
def test_run_leaves_a_whole_run_folder_and_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", "digits-ipc1", *TINY) == 0
    out = Path("runs/digits-ipc1")
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "config.json", "provenance.json", "metrics.jsonl", "state.safetensors", "synthetic.safetensors", "scores.json", "images.png",
        "curves.png", "report.html", "course", "initialisation.safetensors", "experts.json", "clock.jsonl",
    }  # fmt: skip
    shown = capsys.readouterr().out
    assert "K-means real images" in shown
    assert str(out / "images.png") in shown
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores["baselines"]) == {"random", "kmeans", "full"}
    assert len(scores["architecture"]["convnet-d1-w4"]["final"]) == 2
    assert exit_code("compare", str(out), "--format", "markdown") == 0
    row = capsys.readouterr().out.splitlines()[4]
    assert row.startswith(
        "| digits-ipc1 | digits, standard | 1 | 1 | 2.6 kB | hard labels | MTT | ast | convnet-d1-w4 |"
    )
    assert row.endswith(" |")
    assert f" {scores['baselines']['full']['mean']:.1f} ± " in row
    images, written = load(out).images, (out / "scores.partial.json").stat().st_mtime_ns
    assert exit_code("run", "digits-ipc1", *TINY) == 0
    assert torch.equal(load(out).images, images)
    assert (out / "scores.partial.json").stat().st_mtime_ns == written


def test_distill_then_evaluate_needs_only_the_file(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert exit_code("evaluate", *words, "--per-class", "--confusion", "--ranking", "--continual", "5", "--quiet") == 0
    scores = json.loads(Path("evaluation-alone-mtt-3-epochs-convnet-d1-w4-convnet-d2-w4/scores.json").read_text())
    assert list(scores["architecture"]) == ["convnet-d1-w4", "convnet-d2-w4"]
    shown = capsys.readouterr().out
    for sentence in (
        "Protocol MTT: 3 epochs",
        "Final accuracy by class",
        "Confusion of convnet-d1-w4",
        "LRS",
        "ARS",
        "in 5 steps",
        "10 classes",
    ):
        assert sentence in shown
    for flags, sentence in (
        (["--continual", "11"], "choose --continual"),
        (["--gamma", "2"], "--gamma 2 was given; choose 0"),
    ):
        assert exit_code("evaluate", *words, *flags, "--out", "never") == 2
        assert sentence in capsys.readouterr().err
    assert not Path("never").exists()
    assert (
        exit_code(
            "compare",
            "evaluation-alone-mtt-3-epochs-convnet-d1-w4-convnet-d2-w4",
            "--per-class",
            "--format",
            "markdown",
        )
        == 0
    )
    tables = capsys.readouterr().out.split("**")
    assert tables[3] == "Hard labels, across architectures"
    assert tables[5].endswith(": Final accuracy by class")
    assert tables[6].count("\n| ") == 2 + len(load("alone.safetensors").classes)


def test_the_rate_is_learned_fixed_or_searched(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path("made/report.html")
    assert "Not evaluated yet" in page.read_text(encoding="utf-8")
    words = ["evaluate", "made", "--epochs", "2", "--networks", "1", "--baselines", "random", "--quiet"]
    for rate in (["0.03"], ["search", "--ranking", "--continual", "2"]):
        assert exit_code(*words, "--lr", *rate) == 0
    assert "Searched learning rates" in page.read_text(encoding="utf-8")
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.endswith(f"Look at: {page}")
    for sentence in (
        "learning rate 0.03; test accuracy",
        "Searched learning rates",
        "judged on 10% of the training images",
    ):
        assert sentence in shown
    assert shown.count("learning rate of the set searched on held-out training images") == 3, (
        "the scores, the ranking, the arriving classes"
    )
    searched = json.loads(Path("made/evaluation-mtt-2-epochs-lr-search/scores.json").read_text())
    assert len(searched["rates"]["convnet-d1-w4"]["rates"]) == 5
    assert exit_code(*words, "--lr", "-1") == 2
    assert "lr cannot be -1.0" in capsys.readouterr().err
    folders = [f"made/evaluation-mtt-2-epochs-lr-{rate}" for rate in ("0.03", "search")]
    assert exit_code("compare", *folders, "--format", "markdown") == 0
    assert capsys.readouterr().out.count("**Hard labels**") == 2


def test_textures_are_distilled_evaluated_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "digits-ipc1",
        *TINY,
        "--distill.canvas",
        "2",
        "--distill.canvas-samples",
        "2",
        "--evaluation.baselines",
        "random",
    ]
    assert exit_code("run", *words, "--out", "made") == 0
    assert load("made").images.shape == (10, 1, 16, 16)
    pictures = [path.name for path in Path("made/textures").iterdir()]
    assert len(pictures) == 11
    assert "tiled.png" in pictures
    (tmp_path / "made" / "synthetic.safetensors").rename(tmp_path / "alone.safetensors")
    assert exit_code("textures", "alone.safetensors", "--tile", "4") == 0
    assert "10 in textures" in capsys.readouterr().out
    assert sorted(path.name for path in Path("textures").iterdir()) == sorted(pictures)
    assert exit_code("textures", "alone.safetensors", "--tile", "0", "--out", "other") == 2
    assert "--tile 0 was given; choose 1 or more" in capsys.readouterr().err
    assert not Path("other").exists()
    assert exit_code("run", "digits-ipc1", *TINY, "--distill.canvas-samples", "2", "--out", "samples") == 2
    assert "ordinary images are not cropped; add --distill.canvas 2" in capsys.readouterr().err
    assert not Path("samples").exists()


@pytest.mark.drawn
def test_experts_shows_quality_and_keeps_the_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("experts", "digits-ipc1", *TINY) == 0
    assert "squared step" in capsys.readouterr().out
    (figure,) = Path("experts").glob("*/quality.png")
    assert figure.stat().st_size > 1000


def test_more_iterations_go_on_and_other_settings_are_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("distill", "digits-ipc1", *TINY, "--distill.iterations", "6", "--out", "made") == 0
    assert len(Path("made/metrics.jsonl").read_text().splitlines()) == 6
    before = Path("made/synthetic.safetensors").read_bytes()
    assert exit_code("distill", "digits-ipc1", *TINY, "--distill.lr-img", "3", "--out", "made") == 2
    assert "distill.lr_img was 10.0, now 3.0" in capsys.readouterr().err
    assert Path("made/synthetic.safetensors").read_bytes() == before


def test_dry_run_of_a_begun_run_shows_what_is_done_and_refuses_other_settings(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code("distill", "digits-ipc1", *TINY, "--out", "made") == 0
    steps, before = len(Path("made/metrics.jsonl").read_text().splitlines()), sorted(Path("made").iterdir())
    monkeypatch.setattr(Speed, "_measured", lambda self, step: 1.0)
    more = ("distill", "digits-ipc1", *TINY, "--distill.iterations", str(4 * steps), "--out", "made", "--dry-run")
    capsys.readouterr()
    assert exit_code(*more) == 0
    [done] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Done:")]
    assert re.search(rf"(\d+) of \1 epochs of experts, {steps} of {4 * steps} outer steps; .+ left", done)
    assert exit_code(*more, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    *_, distillation, _ = (stage["seconds"] for stage in told["stages"])
    assert told["done"]["seconds_left"] == pytest.approx(0.75 * distillation)
    assert exit_code(*more, "--distill.lr-img", "3") == 2
    assert "distill.lr_img was 10.0, now 3.0" in capsys.readouterr().err
    Path("other").mkdir()
    Path("other/thesis.txt").write_text("mine")
    assert exit_code("distill", "digits-ipc1", *TINY, "--out", "other", "--dry-run") == 2
    assert "is not empty and holds no run" in capsys.readouterr().err
    assert sorted(Path("made").iterdir()) == before


def test_dry_run_of_other_settings_warns_of_a_folder_that_nobody_typed(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Speed, "_measured", lambda self, step: 1.0)
    assert exit_code("distill", "digits-ipc1", *TINY) == 0
    capsys.readouterr()
    assert exit_code("distill", "digits-ipc1", *TINY, "--distill.lr-img", "3", "--dry-run") == 0
    shown = capsys.readouterr()
    assert "distill.lr_img was 10.0, now 3.0" in shown.err
    assert "name a new folder with --out" in shown.err
    assert "Together:" in shown.out
    assert "Done:" not in shown.out


def test_dry_run_prints_settings_and_estimate_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("run", "cifar100-ipc1", "--model", "convnet-d2-w4", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Data: cifar100, known by name;")
    last = shown[shown.index("\n\n") + 2 :].splitlines()
    assert len(last) <= 10
    assert max(map(len, last)) <= 80
    names = ["What", "On", "Where", "Before", "Experts", "Distillation", "Evaluation", "Rows", "Together", "Goes to"]
    assert [line.partition(":")[0] for line in last] == names
    assert "100 experts of 50 epochs" in last[4]
    assert re.search(r"synthetic .*, random .*, kmeans ", last[7])
    assert list(tmp_path.iterdir()) == []


def test_dry_run_as_json_is_nothing_else(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Speed, "_measured", lambda self, step: 1.0)
    assert exit_code("run", "cifar100-ipc1", "--model", "convnet-d3-w8", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["method"]["step"]["syn_steps"] == 20
    assert told["stages"][-1]["name"] == "together"
    assert set(told["stages"][-2]["parts"]) == {"synthetic", "random", "kmeans"}
    assert exit_code("run", "digits-ipc1", "--json") == 2
    assert "add --dry-run" in capsys.readouterr().err


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
        (
            ["run", "digits-ipc1", *TINY, "--method.step.max-start-epoch", "2"],
            "--method.step.max-start-epoch 1 or less",
        ),
        (["run", "digits-ipc1", *TINY, "--distill.validate-every", "2"], "--data.validation 0.1"),
        (["run", "digits-ipc1", "--method", "ast-as-released", *TINY], "multiple of 10"),
        (["run", "digits-ipc1", "--model", "convnet-d3-batchnorm", *TINY[6:]], "norm='instance'"),
        (["run", "digits-ipc1", "--model", "convnet-d9"], "depth"),
        (["evaluate", "nowhere"], "nowhere"),
        (["compare", "nowhere"], "There is no folder nowhere"),
        (["presets", "cifar101"], "Did you mean 'cifar10'?"),
        (["presets", "mtt", "datm"], "astdistill presets datm"),
        (["presets", "--device", "mps"], "mps is not tested"),
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, so asking for one is no error")
def test_no_gpu_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", "digits-ipc1", "--device", "cuda") == 2
    assert "--device auto or cpu" in capsys.readouterr().err


def test_a_run_can_start_from_noise_or_from_an_earlier_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("distill", "digits-ipc1", *TINY, "--init", "noise", "--out", "first") == 0
    assert (
        exit_code("distill", "digits-ipc1", *TINY, "--init", "first", "--distill.lr-img", "1e-9", "--out", "second")
        == 0
    )
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

    monkeypatch.setattr("astdistill.distillation.loop.Saver.save", full)
    assert exit_code("run", "digits-ipc1", *TINY) == 1
    message = capsys.readouterr().err
    assert "No space left on device at runs/digits-ipc1/state.safetensors" in message
    assert "--out" in message


def test_stopping_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("astdistill.distillation.loop.Saver.after_step", stopped)
    assert exit_code("run", "digits-ipc1", *TINY) == 130
    assert "astdistill run digits-ipc1 --experts.count 2" in capsys.readouterr().err


def test_help_reads_without_torch() -> None:
    code = "import sys; from astdistill.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in VERBS:
        assert f"\n  {verb} " in result.stdout


@pytest.mark.parametrize(
    "verb", ["demo", "run", "experts", "distill", "evaluate", "textures", "report", "compare", "presets", "doctor"]
)
def test_help_of_each_verb_names_its_flags(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(verb, "--help-all") == 0
    shown = capsys.readouterr().out
    own = {
        "evaluate": ("--networks", "--protocol"),
        "compare": ("--format", "--out"),
        "report": ("--out", "side by side"),
        "textures": ("--tile", "--out"),
        "presets": ("--device", "--json", "--time"),
        "doctor": ("--json", "--network"),
    }
    wanted = own.get(verb, ("--distill.lr-img", "--method.loss.beta", "--dry-run", "--without"))
    for flag in wanted:
        assert flag in shown


def test_presets_lists_every_cell_and_measures_nothing_unless_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Speed, "_measured", None)
    assert exit_code("presets", "--device", "cuda") == 0
    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("│")] == list(PRESETS)
    assert "experts" not in shown.splitlines()[0]
    assert exit_code("presets", "nette", "mtt", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["measured"] is None
    assert [each["preset"] for each in listed["presets"]] == ["imagenet-nette-ipc1-mtt", "imagenet-nette-ipc10-mtt"]
    for each in listed["presets"]:
        assert each["together"]["seconds"] is None
        assert each["together"]["memory"] > 2e9
        assert each["together"]["multiply_adds"] > 1e15


def test_presets_show_times_when_asked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Speed, "_measured", lambda self, step: 1.0)
    assert exit_code("presets", "digits", "--time", "--quiet") == 0
    shown = capsys.readouterr().out
    head = ["preset", "T/M/t", "%", "peer", "work", "experts", "distil", "evaluate", "memory"]
    assert re.findall(r"[\w/%]+", shown)[:9] == head
    assert exit_code("presets", "digits", "--time", "--json", "--quiet") == 0
    stages = json.loads(capsys.readouterr().out)["presets"][0]["stages"]
    assert all(stage["seconds"] > 0 for stage in stages)


def test_presets_of_methods_without_experts_have_no_time_of_experts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Speed, "_measured", lambda self, step: 1.0)
    assert exit_code("presets", "cifar10-ipc1-dm", "cifar10-ipc1-mtt", "--time", "--quiet") == 2
    capsys.readouterr()
    assert exit_code("presets", "cifar10-ipc1-dm", "--time", "--quiet") == 0
    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if "cifar10-ipc1-dm" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[5] == "–"
    assert "–" not in cells[6:]


def test_presets_cut_no_figure_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert exit_code("presets", "cifar100-ipc10-all-six") == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    for figure in ("20/2/30", "44.2", "87 P", "10 GB"):
        assert f" {figure} " in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, which would be timed")
def test_presets_measure_no_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("presets", "--device", "cuda", "--time") == 2
    assert "--device cuda was asked for" in capsys.readouterr().err


def test_any_part_can_be_put_in(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--part",
        "estimator=Truncated",
        "--method.estimator.k",
        "2",
        "--part",
        "synthetic_lr=RawSyntheticLr",
        "--part",
        "labels=ExpertLabels",
    ]
    assert exit_code("distill", "digits-ipc1", *words, *TINY) == 0
    method = json.loads(Path("runs/digits-ipc1/config.json").read_text())["method"]
    assert method["estimator"] == {"part": "Truncated", "k": 2}
    assert method["synthetic_lr"] == {"part": "RawSyntheticLr"}
    assert load("runs/digits-ipc1").labels == "soft"
    for assignment, sentence in (
        ("estimator=Truncatd", "Did you mean 'Truncated'?"),
        ("estimater=Truncated", "Did you mean 'estimator'?"),
        ("loss=Truncated", "There is no part 'Truncated' for 'loss'"),
        ("goal=pathlib:Path", "'pathlib:Path' is no part for 'loss'; name a subclass of MatchingLoss"),
        ("loss=os:path", "'os:path' is no part for 'loss'"),
    ):
        assert exit_code("run", "digits-ipc1", "--part", assignment) == 2
        assert sentence in capsys.readouterr().err


def test_a_refused_run_changes_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    [
        ["--distill.augmentation", "colour"],
        ["--evaluation.architectures", "convnet-d9"],
        ["--distill.max-experts", "9"],
        ["--ipc", "1000"],
    ],
    ids=" ".join,
)
def test_bad_settings_cost_nothing(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("distill", "digits-ipc1", *TINY, *words) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_published_figure_is_shown_for_its_cell_only() -> None:
    assert parse("run", ["cifar100-ipc1-mtt", "--data", "elsewhere/cifar100"]).experiment.published.accuracy == 24.3
    for words in (
        ["--method", "ftd"],
        ["--ipc", "2"],
        ["--part", "labels=ExpertLabels"],
        ["--model", "convnet-d2"],
        ["--data.whiten", "none"],
    ):
        assert parse("run", ["cifar100-ipc1-mtt", *words]).experiment.published.accuracy is None
