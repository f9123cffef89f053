"""The three verbs as a user types them, from files of another code base to a distilled set and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from problems import exit_code
from reference_mtt import rows_of, write_buffers

from astdistill.data.synthetic import load
from astdistill.experts.store import TrajectoryStore

TINY = [
    "--method.expert.epochs", "3", "--model", "convnet-d1-w4", "--distill.iterations", "4", "--method.step.max-start-epoch", "2",
    "--method.step.syn-steps", "4", "--quiet",
]  # fmt: skip
DATA = ["--data", "digits"]


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def imported(*words: str) -> TrajectoryStore:
    """The one store in `mine`, imported from the two experts of the one in `experts`."""
    assert exit_code("experts", "digits-ipc1", "--experts.count", "2", *TINY) == 0
    original = TrajectoryStore.open("experts")
    write_buffers(Path("buffers"), [[rows_of(original, 0), rows_of(original, 1)]])
    assert (
        exit_code("import-buffers", "buffers", *DATA, "--model", "convnet-d1-w4", "--store", "mine", "--quiet", *words)
        == 0
    )
    return TrajectoryStore.open("mine")


@pytest.mark.drawn
@pytest.mark.slow
def test_experts_come_in_and_are_distilled_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    store = imported("--method", "ast")
    shown = capsys.readouterr().out
    assert f"Next:    astdistill distill PRESET --experts.store mine --experts.imported {store.folder.name}" in shown
    assert "%; chance is 10.0 %" in shown
    assert (store.folder / "quality.png").stat().st_size > 1000
    assert store.identity.recipe.penalty == 2.0
    before = files()
    use = ["--experts.store", "mine", "--experts.imported", store.folder.name]
    assert exit_code("distill", "digits-ipc1", *TINY, *use, "--out", "a") == 0
    assert exit_code("distill", "digits-ipc1", *TINY, "--experts.count", "2", "--out", "b") == 0
    assert torch.equal(load("a").images, load("b").images)
    assert {path: bytes for path, bytes in files().items() if path in before} == before
    assert json.loads(Path("a/config.json").read_text())["experts"]["imported"] == store.folder.name
    capsys.readouterr()
    assert exit_code("experts", "digits-ipc1", *TINY, *use) == 0
    assert "│ – " in capsys.readouterr().out.replace("     –", "│ –")
    assert exit_code("distill", "digits-ipc1", *TINY, "--out", "a") == 2
    assert "experts.imported was" in capsys.readouterr().err


@pytest.mark.slow
def test_imported_experts_cost_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    name = imported().folder.name
    assert (
        exit_code("run", "digits-ipc1", *TINY[:-1], "--experts.store", "mine", "--experts.imported", name, "--dry-run")
        == 0
    )
    (row,) = [line for line in capsys.readouterr().out.splitlines() if f"experts of {name}" in line]
    assert ": 0.0 s, " in row


def test_imported_experts_that_do_not_fit_are_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = imported()
    use = ["--experts.store", "mine", "--experts.imported", store.folder.name]
    before, name = files(), store.folder.name
    capsys.readouterr()
    for words, sentence in (
        ([*use[:2], "--experts.imported", f"{name[:-1]}x"], f"Did you mean '{name}'?"),
        ([*use, "--model", "convnet-d1-w5"], "give --model convnet-d1-w4."),
        ([*use, "--method.step.max-start-epoch", "3"], "--method.step.max-start-epoch 2 or less"),
        ([*use, "--distill.max-experts", "3"], "holds 2; "),
        ([*use, "--data.whiten", "zca"], "were trained on other data (preprocessing"),
        ([*use, "--data.per-class", "50"], "were trained on other data"),
        (["--experts.store", f"mine/{name}"], f"--experts.store mine --experts.imported {name}"),
    ):
        for verb in ("distill", "run"):
            assert exit_code(verb, "digits-ipc1", *TINY, *words) == 2, words
            message = capsys.readouterr().err
            assert sentence in message
            assert len([line for line in message.splitlines() if "no effect" not in line]) == 1
        assert files() == before


def test_a_set_goes_out_and_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("distill", "digits-ipc1", *TINY, "--experts.count", "1", "--out", "made") == 0
    assert exit_code("export", "made", "--format", "mtt", "--out", "files") == 0
    shown = capsys.readouterr().out
    for name in ("images_best.pt", "labels_best.pt", "lr.pt"):
        assert str(Path("files") / name) in shown
    assert "made on digits, whiten standard" in shown
    assert exit_code("import-set", "files", *DATA, "--model", "convnet-d1-w4", "--out", "back") == 0
    assert "astdistill evaluate back" in capsys.readouterr().out
    assert torch.equal(load("back").images, load("made").images)
    assert torch.equal(load("back").lr, load("made").lr)
    assert exit_code("evaluate", "back", "--epochs", "2", "--networks", "1", "--baselines", "random", "--quiet") == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["import-buffers", *DATA], "No buffer was named"),
        (["import-buffers", "nowhere"], "Say which data"),
        (["import-buffers", "nowhere", *DATA], "There is no file or folder nowhere"),
        (["import-buffers", ".", "--data=digits"], "holds no replay_buffer_0.pt"),
        (["import-buffers", ".", *DATA, "--method", "mt"], "Did you mean 'mtt'?"),
        (["import-buffers", ".", "--data.source", "digit"], "holds no replay_buffer_0.pt"),
        (["import-set", ".", "--out", "out"], "Say which data"),
        (["import-set", ".", *DATA, "--out", "out"], "holds no images_best.pt"),
        (["import-set", ".", *DATA, "--out", "out", "--lr", "0.01"], "holds no images_best.pt"),
        (["import-set", ".", "--data", "digit", "--out", "out"], "Did you mean 'digits'?"),
        (["export", "nowhere", "--format", "mtt", "--out", "out"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*words) == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["import-buffers", "import-set", "export"])
def test_help_names_flags(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(verb, "--help-all") == 0
    shown = capsys.readouterr().out
    wanted = {"import-buffers": "--store", "import-set": "--lr", "export": "--format"}
    assert wanted[verb] in shown
    assert "images_best.pt" in shown or verb == "import-buffers"
