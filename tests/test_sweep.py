"""Sweeps: the plan, rows side by side, one that fails, one that is killed and resumed, the table and the page; and the
ablation, which is one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import astdistill as ad
from astdistill.cli.main import main
from astdistill.cli.watch import look, view_table
from astdistill.evaluation.rows import BASELINES as ROWS
from astdistill.experiment import sweep as sweeps
from astdistill.experiment.config import expert_epochs
from astdistill.experiment.plan import NONE, ablation, over_seeds, seeded, shared_experts, table, variants
from astdistill.experiment.presets import preset, with_method
from astdistill.interop.distilled import load
from astdistill.methods.method import PARTS
from astdistill.report.compare import runs_in
from astdistill.report.page.sweep import save_sweep
from astdistill.report.sweep import BASELINES, Sweep, SweepRow, sweep_table
from astdistill.runtime.errors import InputError, LostError
from astdistill.runtime.progress import be_quiet
from astdistill.runtime.run_dir import RunDir
from astdistill.runtime.tables import markdown

SETTINGS = {
    "experts.count": 1, "method.expert.epochs": 3, "model": "convnet-d1-w4", "distill.iterations": 2,
    "method.step.max_start_epoch": 2, "method.step.syn_steps": 2, "evaluation.recipe.epochs": 2,
    "evaluation.networks": 2, "data.per_class": 8,
}  # fmt: skip
SET = [f"{name}={value}" for name, value in SETTINGS.items()]
TINY = [
    word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))
] + ["--evaluation.baselines", "random", "--quiet"]  # fmt: skip


def row(method: str, seed: int, accuracies: tuple[float, ...], labels: str = "hard", **changes: Any) -> SweepRow:
    """A finished row."""
    made = SweepRow(
        folder=f"{method}-seed{seed}",
        preset="digits",
        method=method,
        seed=seed,
        decisive="",
        state="finished",
        labels=labels,
        protocol="Protocol MTT: 3 epochs",
        network="n",
        accuracies=accuracies,
    )
    return made.replace(**changes)


# The plan.


def test_a_plan_is_every_preset_by_every_method_setting_and_seed() -> None:
    rows = table([preset("digits-ipc1")], ["mtt", "ast"], 2, {"distill.lr_img": ["10", "20"], "ipc": ["2"]})
    assert len(rows) == 2 * 2 * 2
    assert [each.folder for each in rows[:2]] == ["digits-ipc1-mtt-lr_img=10-seed0", "digits-ipc1-mtt-lr_img=20-seed0"]
    assert {(each.experiment.seed, each.experiment.experts.seed) for each in rows} == {(0, 0), (1, 1)}
    assert {each.experiment.ipc for each in rows} == {2}
    assert {each.experiment.distill.lr_img for each in rows} == {10.0, 20.0}
    baselines = {each.method: each.experiment.evaluation.baselines for each in rows}
    assert baselines["ast"] == (), "real images do not depend on the method"
    assert baselines["mtt"] == preset("digits-ipc1").evaluation.baselines


def test_experts_are_shared_by_rows_of_one_recipe_and_seed() -> None:
    rows = table([preset("digits-ipc1")], ["mtt"], 2, {"method.step.max_start_epoch": [2, 4], "experts.count": [3]})
    groups = shared_experts(rows)
    assert [len(group.rows) for group in groups] == [2, 2]
    widest = groups[0].experiment.experts
    read = [expert_epochs(each.experiment) for each in rows]
    assert (widest.count, widest.stop_after) == (3, max(read))
    assert min(read) < max(read)
    assert len(shared_experts(table([preset("digits-ipc1")], ["mtt", "ast"], 1))) == 2, "AST's experts are others"
    assert not shared_experts(table([preset("digits-ipc1")], ["dm"], 1))[0].trained


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Name a preset: astdistill sweep PRESET"),
        (["digits-ipc2"], "Did you mean 'digits-ipc1'"),
        (["digits-ipc1", "--methods", "mtt,nothing"], "There is no method 'nothing'"),
        (
            ["digits-ipc1", "--set", "distill.lr_im=3"],
            "There is no setting 'distill.lr_im' for --set. Did you mean 'distill.lr_img'",
        ),
        (["digits-ipc1", "--set", "distill=3"], "There is no setting 'distill'"),
        (["digits-ipc1", "--set", "distill.lr_img=3,many"], "--set distill.lr_img cannot be 'many'; give a number."),
        (["digits-ipc1", "--set", "distill.iterations=1.5"], "--set distill.iterations cannot be '1.5'; give a whole"),
        (["digits-ipc1", "--set", "method.expert=3"], "There is no setting 'method.expert' for --set."),
        (["digits-ipc1", "--set", "ipc=1", "--set", "ipc=2"], "--set names 'ipc' twice; name it once."),
        (
            ["digits-ipc1", "--set", "distill.inner_steps=1", "method.step.syn-steps=2"],
            "distill.inner_steps and method.step.syn-steps are names of one setting; leave out distill.inner_steps.",
        ),
        (
            ["digits-ipc1", "--set", "method.step.inner_steps=1", "method.step.syn_steps=2"],
            "method.step.inner_steps and method.step.syn_steps are names of one setting",
        ),
        (
            ["digits-ipc1", "--methods", "mtt,dm", "--set", "method.expert.lr=0.1,0.2"],
            "The method dm has no setting 'method.expert.lr'; sweep it with mtt alone: "
            "astdistill sweep digits-ipc1 --methods mtt --set method.expert.lr=0.1,0.2",
        ),
        (
            ["digits-ipc1", "cifar10-ipc1-dm", "--set", "method.expert.lr=0.1"],
            "sweep it with ast alone: astdistill sweep digits-ipc1 --set method.expert.lr=0.1",
        ),
        (
            ["digits-ipc1", "--methods", "dm", "--set", "method.expert.lr=0.1"],
            "The method dm has no setting 'method.expert.lr'; leave out --set method.expert.lr, or choose a method "
            "that has it: --methods ",
        ),
        (["digits-ipc1", "--set", "ipc"], "--set ipc says no value"),
        (["digits-ipc1", "--set", "ipc=1,1"], "Two rows of the sweep would be"),
        (["digits-ipc1", "--seeds", "0"], "--seeds"),
    ],
)
def test_wrong_words_of_a_sweep_are_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_dry_run_is_the_table_with_its_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    words = ["sweep", "digits-ipc1", "--methods", "mtt", "--seeds", "2", "--set", *SET, "distill.lr_img=1,2"]
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("shared") == 1, "the second line has the experts of the first"
    assert "lr_img=1" in shown
    assert "together" in shown
    assert re.search(r"At most [\d.]+ [kM]B memory in each run; [\d.]+ [kM]B disk together\.", " ".join(shown.split()))
    assert not list(tmp_path.iterdir())


# The table.


def test_differences_are_taken_seed_by_seed() -> None:
    rows = (
        row("ast", 0, (50.0, 52.0)),
        row("mtt", 0, (49.0, 49.0)),
        row("datm", 0, (70.0, 70.0), labels="soft"),
        row("ast", 1, (60.0, 62.0)),
        row("mtt", 1, (57.0, 57.0)),
        row("datm", 1, (), state="failed", sentence="why"),
    )
    found = Sweep(title="three", rows=rows)
    assert found.differences(("digits", "mtt", "")) == (-2.0, -4.0)
    assert found.differences(("digits", "ast", "")) == ()
    assert found.differences(("digits", "datm", "")) == (), "soft labels are not compared with hard ones"
    text = markdown(sweep_table(found))
    assert "| ast | hard | [1] | 56.0 ± 7.1 |  | 2 × 2 |" in text.replace("\\[", "[")
    assert "| mtt | hard | [1] | 53.0 ± 5.7 | -3.0 ± 1.4 | 2 × 2 |" in text
    assert "| datm | soft | [1] | 70.0 |  | 1 of 2 × 2 |" in text
    assert "1 of 6 runs failed" in text
    assert "[1] Protocol MTT: 3 epochs" in text


def test_where_there_is_one_method_settings_are_compared() -> None:
    rows = [row("ast", 0, (50.0,), settings="ipc=1"), row("ast", 0, (60.0,), settings="ipc=2", folder="other")]
    assert Sweep(title="", rows=tuple(rows)).differences(("digits", "ast", "ipc=2")) == (10.0,)


# What is run.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


def words_of(place: Path, out: str, *more: str) -> list[str]:
    settings = [*SET, f"experts.store={place / 'experts'}", "evaluation.baselines=random+teacher"]
    return ["sweep", "digits-ipc1", "--methods", "mtt,ast", "--seeds", "2", "--set", *settings,
            "--out", str(place / out), "--quiet", *more]  # fmt: skip


@pytest.fixture(scope="module")
def whole(place: Path) -> Sweep:
    """Two methods by two seeds, one row after the other, each by one thread."""
    assert main(words_of(place, "whole", "--workers", "1", "--threads", "1")) == 0
    found = Sweep.read(place / "whole")
    assert found is not None
    return found


def test_a_sweep_is_run_folders_a_table_and_a_page(place: Path, whole: Sweep) -> None:
    out = place / "whole"
    assert [each.state for each in whole.rows] == ["finished"] * 4
    assert [set(each.baselines) for each in whole.rows[:2]] == [{"random", "teacher"}, set()]
    assert len(list((place / "experts").glob("*"))) == 4, "one store for each method's recipe and seed"
    for each in whole.rows:
        scores = json.loads((out / each.folder / "scores.json").read_text())
        assert tuple(scores["architecture"]["convnet-d1-w4"]["final"]) == each.accuracies
        assert each.labels == "hard"
        assert each.protocol.startswith("Protocol MTT: 2 epochs")
    assert (out / "sweep.md").read_text() == markdown(sweep_table(whole))
    assert "| random real | random real, a teacher’s labels |" in (out / "sweep.md").read_text()
    assert "\\toprule" in (out / "sweep.tex").read_text()
    assert "2 methods × 2 seeds on digits-ipc1" in (out / "sweep.txt").read_text()
    page = (out / "report.html").read_text()
    for each in whole.rows:
        assert f'href="{each.folder}/report.html"' in page
        assert (out / each.folder / "report.html").exists()
    assert "<svg" in page


def test_a_sweep_is_compared_and_watched(
    place: Path, whole: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = place / "whole"
    assert [path.name for path in runs_in(out)] == [each.folder for each in whole.rows]
    assert main(["compare", str(out), "--format", "markdown"]) == 0
    assert capsys.readouterr().out.count("2 runs") == 3, "each method, and real images with a teacher's labels"
    assert main(["compare", *map(str, sorted(out.glob("*"))), "--format", "markdown"]) == 0
    capsys.readouterr()
    assert main(["watch", str(out)]) == 0
    said = capsys.readouterr().out
    assert all(each.folder in said for each in whole.rows)
    assert "4 rows are finished, 0 failed, 0 are left" in said


@pytest.mark.slow
def test_a_sweep_that_is_killed_is_resumed_and_adds_what_is_new(
    place: Path, whole: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "killed"
    words = words_of(place, "killed", "--workers", "2", "--threads", "2")
    process = subprocess.Popen([sys.executable, "-m", "astdistill", *words], env=dict(os.environ))
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if (found := Sweep.read(out)) is not None and found.of("finished"):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = Sweep.read(out)
    assert before is not None
    assert 0 < len(before.of("finished")) < 4
    view = look(out)
    assert view is not None
    assert not view.running
    assert view_table(view).row_count >= 5
    first = out / before.of("finished")[0].folder / "scores.partial.json"
    written = first.stat().st_mtime_ns
    fewer = [word for word in words if word != "--quiet"]
    assert main(fewer) == 0
    found = Sweep.read(out)
    assert found is not None
    assert [each.accuracies for each in found.rows] == [each.accuracies for each in whole.rows]
    assert first.stat().st_mtime_ns == written, "a finished row was run again"
    capsys.readouterr()
    more = [{"mtt,ast": "mtt"}.get(word, word) for word in fewer]
    more[more.index("--seeds") + 1] = "3"
    be_quiet(False)
    assert main(more) == 0
    said = capsys.readouterr().err
    assert "The plan adds 1 row: digits-ipc1-mtt-seed2." in said
    assert "The plan drops 2 rows, whose folders stay: digits-ipc1-ast-seed0" in said


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("words", [("sweep", "digits-ipc1"), ("run", "digits-ipc1", "--seeds", "2")])
def test_a_folder_with_a_report_of_others_or_a_run_is_refused(
    words: tuple[str, ...],
    dry: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, file, told in (("a", "report.html", "which no sweep wrote"), ("b", "config.json", "holds a run")):
        Path(name).mkdir()
        Path(name, file).write_text("{}")
        assert main([*words, "--out", name, *dry]) == 2
        assert told in capsys.readouterr().err
        assert [path.name for path in Path(name).iterdir()] == [file]
        assert Path(name, file).read_text() == "{}"


def test_rows_that_fail_are_lines_with_their_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose numbers contradict, one whose experts diverge, and one that meets an error of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    words = ["sweep", "digits-ipc1", "--methods", "mtt", "--seeds", "1", "--workers", "1", "--quiet", "--out", "s"]
    words += ["--set", "evaluation.baselines="]
    words += ["--set", *SET, "distill.max_experts=1,7", "method.expert.lr=0.01,1e20"]
    run = sweeps.run_experiment
    monkeypatch.setattr(sweeps, "run_experiment", lambda *given: run(*given))
    assert main(words) == 1
    found = Sweep.read(Path("s"))
    assert found is not None
    states = {each.settings: (each.state, each.error) for each in found.rows}
    assert states == {
        "max_experts=1, lr=0.01": ("finished", ""),
        "max_experts=1, lr=1e20": ("failed", "DivergedError"),
        "max_experts=7, lr=0.01": ("failed", "InputError"),
        "max_experts=7, lr=1e20": ("failed", "InputError"),
    }
    said = capsys.readouterr().out
    assert "--distill.max-experts 7 is more than the 1 experts" in said
    assert "stopped being finite" in said

    def odd(*given: Any) -> None:
        raise KeyError("odd")

    monkeypatch.setattr(sweeps, "run_experiment", odd)
    words = [
        word.replace(f"distill.iterations={SETTINGS['distill.iterations']}", "distill.iterations=3") for word in words
    ]
    assert main(words) == 1
    found = Sweep.read(Path("s"))
    assert found is not None
    (first, *_) = found.rows
    assert first.sentence.startswith("KeyError: 'odd' (all of it: ")
    error_file = Path(f"s/{first.folder}.error.txt")
    assert "in odd" in error_file.read_text()
    monkeypatch.setattr(sweeps, "run_experiment", run)
    assert main(words) == 1
    assert not error_file.exists()


def test_where_every_row_refuses_its_settings_the_command_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "digits-ipc1", "--set", *SET, "distill.max_experts=7", "--out", str(tmp_path / "s"), "--quiet"]
    assert main(words) == 2
    assert "--distill.max-experts 7 is more than" in capsys.readouterr().err
    (tmp_path / "s" / "sweep.json").write_text('{"title": 3}')
    assert main(words) == 2
    assert "is no sweep" in capsys.readouterr().err


def test_a_row_whose_process_is_lost_fails_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = over_seeds(preset("digits-ipc1"), 3)
    pool, lost = sweeps.pool, []

    @contextmanager
    def once(work: Any, *given: Any) -> Iterator[Any]:
        with pool(work, *given) as run:

            def stopped(jobs: Any) -> Iterator[Any]:
                if not lost:
                    lost.append(jobs[1])
                    error = LostError("One of 2 workers was killed")
                    error.job = jobs[1]
                    yield from run(jobs[:1])
                    raise error
                yield from run(jobs)

            yield stopped

    monkeypatch.setattr(sweeps, "pool", once)
    monkeypatch.setattr(
        sweeps, "run_row", lambda shared, job, bar: row("ast", job.experiment.seed, (1.0,), folder=job.folder)
    )
    monkeypatch.setattr(sweeps._Running, "prepare", lambda self: None)
    monkeypatch.setattr(sweeps, "plan_workers", lambda *given: sweeps.WorkerPlan(1, 1))
    found = sweeps.run_rows("three", rows, tmp_path)
    assert [each.state for each in found.rows] == ["finished", "failed", "finished"]
    assert found.rows[1].sentence == "One of 2 workers was killed"


@pytest.mark.slow
def test_the_library_sweeps_too(place: Path, whole: Sweep) -> None:
    settings = {name: [value] for name, value in SETTINGS.items()}
    settings |= {"experts.store": [place / "experts"], "evaluation.baselines": ["random+teacher"], "workers": [1]}
    found = ad.sweep(["digits-ipc1"], methods=["mtt"], seeds=1, settings=settings, threads=1, out=place / "library")
    assert found.rows[0].accuracies == whole.rows[0].accuracies
    assert save_sweep(found, place / "library").exists()


# The ablation.


def test_variants_are_the_whole_one_off_each_and_all_off() -> None:
    whole = preset("digits-ipc1")
    found = variants(whole)
    assert list(found) == ["ast", *(f"without {part}" for part in PARTS), NONE]
    assert found["ast"] == whole
    for part in PARTS:
        assert found[f"without {part}"].method == whole.method.without(part)
    assert all(found[NONE].method.without(part) == found[NONE].method for part in PARTS)
    assert len({each.digest() for each in found.values()}) == len(found)


def test_a_part_that_is_off_already_is_left_out() -> None:
    whole = preset("digits-ipc1")
    found = variants(whole.replace(method=whole.method.without("penalty")))
    assert "without penalty" not in found
    assert "without clipping" in found


def test_a_method_without_the_parts_is_refused() -> None:
    with pytest.raises(InputError, match="'mtt' has none of AST's six parts"):
        variants(with_method(preset("digits-ipc1"), "mtt"))


def test_every_seed_has_its_own_experts_and_draws() -> None:
    first, second = (seeded(preset("digits-ipc1"), number) for number in (0, 1))
    assert (first.seed, first.experts.seed) == (0, 0)
    assert (second.seed, second.experts.seed) == (1, 1)
    rows = ablation(preset("digits-ipc1"), 2)
    assert rows[1].folder == "without-clipping-seed0"
    assert all(each.experiment.evaluation.baselines == () for each in rows)


@pytest.mark.slow
def test_the_ablation_runs_and_goes_on_with_folders_of_an_earlier_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    fewer = [
        word for part in ("penalty", "representative", "intermediate", "perturbation") for word in ("--without", part)
    ]
    words = ["run", "ablation", "--base", "digits-ipc1", "--seeds", "1", *fewer, *TINY, "--workers", "1"]
    assert main(words) == 0
    assert "without balanced" in capsys.readouterr().out
    out = Path("runs/ablation-digits-ipc1")
    found = Sweep.read(out)
    assert found is not None
    assert list(dict.fromkeys(each.method for each in found.rows)) == [
        "ast",
        "without clipping",
        "without balanced",
        NONE,
    ]
    assert len(found.rows) == 4
    assert len(list(Path("experts").glob("*"))) == 2, "with and without clipping"
    images, written = load(out / "ast-seed0").images, (out / "ast-seed0" / "scores.partial.json").stat().st_mtime_ns
    (out / "sweep.json").unlink()
    (out / "ablation.json").write_text("{}")
    assert main(words) == 0
    assert torch.equal(load(out / "ast-seed0").images, images)
    assert (out / "ast-seed0" / "scores.partial.json").stat().st_mtime_ns == written, "a network was trained again"
    assert Sweep.read(out) == found
    assert RunDir(out / "ast-seed0").page.exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "--base cifar100-ten-ipc10"),
        (["--base", "digits-ipc2"], "digits-ipc1"),
        (["--base", "digits-ipc1", "--seeds", "0"], "--seeds 0 was given"),
    ],
)
def test_wrong_words_are_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "ablation", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_dry_run_tells_the_cost_of_every_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "ablation", "--base", "digits-ipc1", *TINY, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("shared") == 4, "of eight variants four have the whole method's experts"
    assert not list(tmp_path.iterdir())


def test_every_row_of_real_images_has_a_column() -> None:
    assert tuple(BASELINES) == ROWS
