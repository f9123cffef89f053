"""Words that are no flags, and values that cannot be: one sentence in this house's words, exit code 2, and nothing
written."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from astdistill.cli.flags import call, read
from astdistill.cli.main import VERBS, main
from astdistill.runtime.config import Record
from astdistill.runtime.errors import InputError

RUN = ("run", "digits-ipc1")
HELP = "See: astdistill run digits-ipc1 --help"
CASES: list[tuple[tuple[str, ...], str]] = [
    ((*RUN, "--ipc", "0"), f"--ipc cannot be 0; choose 1 or more. {HELP}"),
    ((*RUN, "--ipc", "-1"), f"--ipc cannot be -1; choose 1 or more. {HELP}"),
    ((*RUN, "--ipc", "two"), f"--ipc cannot be 'two'; give a whole number. {HELP}"),
    ((*RUN, "--ipc"), "--ipc needs a value; see: astdistill run digits-ipc1 --help"),
    ((*RUN, "--workers", "x"), f"--workers cannot be 'x'; give a whole number. {HELP}"),
    ((*RUN, "--distill.inner-steps", "-3"), f"--distill.inner-steps cannot be -3; choose 1 or more. {HELP}"),
    ((*RUN, "--distill.lr-img", "0"), f"--distill.lr-img cannot be 0.0; choose a number above 0. {HELP}"),
    ((*RUN, "--distill.lr-img", "inf"), f"--distill.lr-img cannot be inf; choose a finite number. {HELP}"),
    ((*RUN, "--method.momentum", "2"), f"--method.momentum cannot be 2.0; choose a number below 1. {HELP}"),
    ((*RUN, "--method.expert.lr-drop", "2"), f"--method.expert.lr-drop cannot be 2.0; choose 1 or less. {HELP}"),
    ((*RUN, "--evaluation.recipe.epochs", "0"), f"--evaluation.recipe.epochs cannot be 0; choose 1 or more. {HELP}"),
    (
        (*RUN, "--part", "estimator=Truncated", "--method.estimator.k", "0"),
        f"--method.estimator.k cannot be 0; choose 1 or more. {HELP}",
    ),
    ((*RUN, "--experts.count", "0"), f"--experts.count cannot be 0; choose 1 or more. {HELP}"),
    (
        (*RUN, "--data.whiten", "zac"),
        "There is no --data.whiten 'zac'. Did you mean 'zca'? Known: none, standard, zca.",
    ),
    ((*RUN, "--distill.augmentation", "flip_colour"), "There is no augmentation 'colour'. Did you mean 'color'?"),
    (
        (*RUN, "--iterations", "3"),
        "There is no flag --iterations. Did you mean --distill.iterations? All are listed by:",
    ),
    ((*RUN, "--distill.iteration", "3"), "There is no flag --distill.iteration. Did you mean --distill.iterations?"),
    ((*RUN, "--datta=x"), "There is no flag --datta. Did you mean --data?"),
    ((*RUN, "twice"), "'twice' is one word more than astdistill run digits-ipc1 takes; leave it out, or see:"),
    ((*RUN, "--part"), "--part needs a value; see: astdistill run digits-ipc1 --help"),
    ((*RUN, "--log"), "--log needs a value; see: astdistill run digits-ipc1 --help"),
    ((*RUN, "--log", "nothing"), "There is no logger 'nothing'. Known: tensorboard, wandb."),
    (("demo", "digits-ipc1"), "'digits-ipc1' is one word more than astdistill demo takes"),
    (("run", "ablation", "--base", "digits-ipc1", "--seeds", "x"), "--seeds cannot be 'x'; give a whole number."),
    (
        ("run", "ablation", "digits-ipc1"),
        "The ablation needs the cell that it takes apart: astdistill run ablation --base digits-ipc1",
    ),
    (("evaluate",), "PATH is missing; see: astdistill evaluate --help"),
    (("evaluate", "a", "b"), "'b' is one word more than astdistill evaluate takes"),
    (
        ("evaluate", "a", "--lr", "foo"),
        "--lr cannot be 'foo'; give a number, learned or search. See: astdistill evaluate --help",
    ),
    (("evaluate", "a", "--gama", "1"), "There is no flag --gama. Did you mean --gamma?"),
    (("export",), "PATH and --format are missing; see: astdistill export --help"),
    (("export", "nowhere", "--formt", "png"), "There is no flag --formt. Did you mean --format?"),
    (("import-set", "nowhere", "--data", "digits"), "--out is missing; see: astdistill import-set --help"),
    (("import-buffers", "x", "--data"), "--data.source needs a value"),
    (("compare", "x", "--format", "html"), "There is no --format 'html'. Known: latex, markdown, text."),
    (("watch", "x", "--every", "often"), "--every cannot be 'often'; give a number."),
    (("textures", "x", "--tile", "y"), "--tile cannot be 'y'; give a whole number."),
    (("doctor", "--jsn"), "There is no flag --jsn. Did you mean --json?"),
    (("presets", "--engine", "foo"), "There is no --engine 'foo'. Known: auto, compiled,"),
]


@pytest.mark.parametrize("columns", ["80", "40"])
@pytest.mark.parametrize(
    ("words", "sentence"), CASES, ids=lambda value: "-".join(value)[:50] if isinstance(value, tuple) else None
)
def test_one_sentence_says_what_was_given_what_is_allowed_and_what_to_type(
    words: tuple[str, ...],
    sentence: str,
    columns: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", columns)
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"astdistill: {sentence}")
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


class Box(Record):
    """A record of one field."""

    size: int = 1
    """How large."""


def test_what_is_read_is_the_record_or_the_call() -> None:
    def doubled(size: int, /, times: int = 2) -> int:
        """A product."""
        return size * times

    assert read(Box, ["--size", "3"], "try").size == 3
    assert call(doubled, ["4", "--times", "5"], "try") == 20


def test_a_call_fails_with_its_own_error_and_only_after_all_words_are_known() -> None:
    def refused(size: int, /) -> None:
        """Refuse."""
        raise InputError(f"{size} it is")

    with pytest.raises(InputError, match="4 it is"):
        call(refused, ["4"], "try")
    with pytest.raises(InputError, match="'5' is one word more than try takes"):
        call(refused, ["4", "5"], "try")


@pytest.mark.parametrize("verb", [*VERBS, "run ablation"])
def test_help_fits_a_terminal_and_every_flag_says_what_it_does(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main([*verb.split(), "--help"])
    assert not stop.value.code
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    assert f"usage: astdistill {verb}" in lines[0]
    mute = [
        line for line, below in pairwise(lines) if re.fullmatch(r"--\S+( \S+)?", line) and below.startswith("(default")
    ]
    assert not mute


def test_the_list_of_verbs_fits_a_terminal() -> None:
    words = [
        sys.executable,
        "-c",
        "import os; os.environ['COLUMNS'] = '80'; from astdistill.cli.main import main; main(['--help'])",
    ]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert max(map(len, shown.splitlines())) < 80


def test_the_ablation_names_its_own_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "ablation", "--help"])
    shown = capsys.readouterr().out
    assert "--base PRESET" in shown
    assert "--seeds N" in shown
