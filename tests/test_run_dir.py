"""Every file of a run folder has its name in one place, and an evaluation knows whose set it is of."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

import astdistill
from astdistill.cli.main import main
from astdistill.report.compare import read_finished
from astdistill.report.run import read_run
from astdistill.runtime.errors import InputError
from astdistill.runtime.run_dir import Artefact, RunDir

NAMED = {member.name for member in vars(RunDir).values() if isinstance(member, Artefact)}
TINY = (
    "--experts.count", "1", "--method.expert.epochs", "3", "--model", "convnet-d1-w4", "--distill.iterations", "3",
    "--method.step.max-start-epoch", "2", "--method.step.syn-steps", "4", "--distill.validate-every", "1",
    "--distill.validate-epochs", "1", "--distill.validate-networks", "1", "--data.validation", "0.2",
    "--distill.canvas", "2", "--evaluation.recipe.epochs", "2", "--evaluation.networks", "1",
    "--evaluation.baselines", "random", "--data.per-class", "20", "--log", "tensorboard", "--quiet", "--out", "made",
)  # fmt: skip
FURTHER = ("--networks", "1", "--epochs", "1", "--full-epochs", "1", "--baselines", "random", "--quiet")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with all that a run can leave, evaluated once more in every way, and exported."""
    place, before = tmp_path_factory.mktemp("whole"), Path.cwd()
    os.chdir(place)
    try:
        assert main(["run", "digits-ipc1", *TINY]) == 0
        assert main(["evaluate", "made", *FURTHER, "--ranking", "--continual", "2"]) == 0
        assert main(["export", "made", "--format", "npz"]) == 0
    finally:
        os.chdir(before)
    return RunDir(place / "made")


def test_every_file_of_a_run_is_named_by_the_run_folder(made: RunDir) -> None:
    further = made.evaluation("mtt", "1-epochs")
    left = {path.name for path in made.folder.iterdir()} | {path.name for path in further.folder.iterdir()}
    assert left - NAMED == {further.folder.name}
    # What only a process at work has, and another logger's folder.
    assert NAMED - left == {RunDir.live, RunDir.wandb, RunDir.lock, RunDir.writer}
    assert [path.name for path in made.frames()] == ["000000.safetensors"]
    assert made.frame(0) == made.frames()[0]


def test_an_artefact_is_a_name_on_the_class_and_a_path_on_a_folder() -> None:
    assert RunDir.scores == "scores.json"
    assert RunDir("runs/x").scores == Path("runs/x/scores.json")
    assert RunDir.around(Path("runs/x/synthetic.safetensors")).metrics == Path("runs/x/metrics.jsonl")
    assert RunDir("runs/x").evaluation("mtt", "a/b:c").folder == Path("runs/x/evaluation-mtt-a_b_c")


def test_the_reader_finds_each_of_them(made: RunDir) -> None:
    run = read_run(made.folder)
    assert run.finished
    assert run.ended
    assert len(run.metrics) == 3
    assert [line["stage"] for line in run.clock if "stage" in line] == ["experts", "distillation", "evaluation"]
    assert list(run.evaluations) == ["made", "evaluation-mtt-1-epochs"]
    assert run.scores is run.evaluations["made"]
    assert list(run.other_scores) == list(run.ranking) == list(run.arriving) == ["evaluation-mtt-1-epochs"]
    assert run.ending == "chosen on held-out images"
    assert run.start is not None
    assert run.experts
    assert run.synthetic is run.synthetic, "a file is read once"
    assert run.synthetic is not None
    assert run.method == run.synthetic.method == "ast"


def test_a_further_evaluation_belongs_to_its_run(made: RunDir) -> None:
    further = made.evaluation("mtt", "1-epochs")
    for folder in (made, further):
        home = folder.home()
        assert home is not None
        assert home.folder == made.folder
        assert read_finished(folder.folder).name == "made"
    assert RunDir(made.folder.parent).home() is None


def joined(code: str) -> set[str]:
    """The words that the code joins to a path by `/`."""
    found = (
        node.right for node in ast.walk(ast.parse(code)) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    )
    return {right.value for right in found if isinstance(right, ast.Constant) and isinstance(right.value, str)}


def test_no_other_code_joins_such_a_name_to_a_folder() -> None:
    assert joined('a / "scores.json" / name') == {"scores.json"}, "otherwise the next line could not fail"
    source = Path(astdistill.__file__).parent
    # An expert store has file names of its own, one of which is the same word.
    for path in set(source.rglob("*.py")) - set(source.glob("experts/*.py")):
        assert not joined(path.read_text(encoding="utf-8")) & NAMED, path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr_init": 0.01}, "(distill.lr_init was 0.001, now 0.01); resume with --distill.lr-init 0.001, name a new"),
        ({"lr_init": 0.01, "lr_img": 2.0}, "resume with --distill.lr-img 10.0 --distill.lr-init 0.001, name a new"),
        ({"augmentation": "flip"}, "now 'flip'); name a new folder"),
    ],
)
def test_a_run_with_other_numbers_says_how_to_go_on(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    """Usual numbers may have changed since it was begun."""
    before: dict[str, object] = {"lr_img": 10.0, "lr_init": 0.001, "augmentation": "crop"}
    RunDir(tmp_path).claim({"distill": before}, "data", "cpu")
    with pytest.raises(InputError, match=re.escape(words)):
        RunDir(tmp_path).claim({"distill": before | changes}, "data", "cpu")
