"""Words that are no flags, and values that cannot be: one sentence in this house's words, exit code 2, and nothing
written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from click import UsageError
from pydantic import Field

from astdistill.cli.commands import Command, command
from astdistill.cli.flags import Word
from astdistill.cli.main import VERBS, cli, main
from astdistill.cli.options import parse
from astdistill.distillation.settings import DistillSettings
from astdistill.experiment import config
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.runtime.config import Record
from astdistill.runtime.errors import InputError
from astdistill.runtime.progress import Output

RUN = ("run", "digits-ipc1")
HELP = "See: astdistill run digits-ipc1 --help"
CASES: list[tuple[tuple[str, ...], str]] = [
    ((*RUN, "--ipc", "0"), f"--ipc cannot be 0; choose 1 or more. {HELP}"),
    ((*RUN, "--ipc", "-1"), f"--ipc cannot be -1; choose 1 or more. {HELP}"),
    ((*RUN, "--ipc", "two"), f"--ipc cannot be 'two'; give a whole number. {HELP}"),
    ((*RUN, "--ipc"), "--ipc needs a value; see: astdistill run digits-ipc1 --help"),
    ((*RUN, "--workers", "x"), f"--workers cannot be 'x'; give a whole number. {HELP}"),
    ((*RUN, "--method.step.syn-steps", "-3"), f"--method.step.syn-steps cannot be -3; choose 1 or more. {HELP}"),
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
        "There is no --data.whiten 'zac'. Did you mean 'zca'? Known: none, rat, standard, zca.",
    ),
    ((*RUN, "--distill.augmentation", "flip_colour"), "There is no augmentation 'colour'. Did you mean 'color'?"),
    (
        (*RUN, "--iterations", "3"),
        "There is no flag --iterations. Did you mean --distill.iterations? All are listed by:",
    ),
    ((*RUN, "--distill.iteration", "3"), "There is no flag --distill.iteration. Did you mean --distill.iterations?"),
    ((*RUN, "--datta=x"), "There is no flag --datta. Did you mean --data?"),
    ((*RUN, "twice"), "Unexpected argument 'twice'. Leave it out, or see: astdistill run digits-ipc1 --help"),
    ((*RUN, "--part"), "--part needs a value; see: astdistill run digits-ipc1 --help"),
    ((*RUN, "--log"), "--log needs a value; see: astdistill run digits-ipc1 --help"),
    ((*RUN, "--log", "nothing"), "There is no logger 'nothing'. Known: tensorboard, wandb."),
    (("demo", "digits-ipc1"), "Unexpected argument 'digits-ipc1'. Leave it out, or see: astdistill demo --help"),
    (("run", "ablation", "--base", "digits-ipc1", "--seeds", "x"), "--seeds cannot be 'x'; give a whole number."),
    (
        ("run", "ablation", "digits-ipc1"),
        "Name the preset of the ablation: astdistill run ablation --base digits-ipc1",
    ),
    (("evaluate",), "PATH is missing; see: astdistill evaluate --help"),
    (("evaluate", "a", "b"), "Unexpected argument 'b'. Leave it out, or see: astdistill evaluate --help"),
    (
        ("evaluate", "a", "--lr", "foo"),
        "--lr cannot be 'foo'; give a number, learned or search. See: astdistill evaluate --help",
    ),
    (("evaluate", "a", "--gama", "1"), "There is no flag --gama. Did you mean --gamma?"),
    (("export",), "PATH and --format are missing; see: astdistill export --help"),
    (("export", "nowhere", "--formt", "png"), "There is no flag --formt. Did you mean --format?"),
    (("import-set", "nowhere", "--data", "digits"), "--out is missing; see: astdistill import-set --help"),
    (("import-buffers", "x", "--data"), "--data needs a value"),
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


class Crate(Record):
    """A record of every kind of field."""

    renamed: ClassVar[Mapping[str, str]] = {"lenght": "length"}

    word: Annotated[str, Word(positional=True)]
    """The first word."""
    more: Annotated[tuple[Path, ...], Word(positional=True)] = ()
    """The others."""
    length: int | None = Field(default=None, ge=1)
    """How long."""
    open: bool = True
    """Whether it is open."""
    kind: Literal["low", "high"] = "low"
    """What it is."""
    rate: float | Literal["auto"] = "auto"
    """How fast."""
    pair: tuple[int, int] = (1, 2)
    """Two numbers."""
    names: tuple[str, ...] | None = ("a",)
    """Any number of names."""
    tags: Annotated[tuple[str, ...], Word(repeated=True)] = ()
    """May be repeated."""
    box: Annotated[Box, Word(short="size")] = Box()
    """A record inside."""
    lid: Box | None = None
    """A record that is not there."""


def crate(*words: str) -> Crate:
    made = Command("try", lambda given: given, Crate)
    with made.make_context("try", list(words)) as ctx:
        return made.call(ctx)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--length", "3"], {"length": 3}),
        (["--length=3"], {"length": 3}),
        (["--length", "3", "--length", "None"], {"length": None}),
        (["--lenght", "3"], {"length": 3}),
        (["--no-open"], {"open": False}),
        (["--no-open", "--open"], {}),
        (["--kind", "high"], {"kind": "high"}),
        (["--rate", "-0.5"], {"rate": -0.5}),
        (["--rate", "1e-3", "--rate", "auto"], {}),
        (["--pair", "-3", "4"], {"pair": (-3, 4)}),
        (["--names"], {"names": ()}),
        (["--names", "b", "c", "--open"], {"names": ("b", "c")}),
        (["--names", "None"], {"names": None}),
        (["--names", ""], {"names": ("",)}),
        (["--tags", "a", "b", "--tags", "c"], {"tags": ("a", "b", "c")}),
        (["--box.size", "4"], {"box": Box(size=4)}),
        (["--box", "5"], {"box": Box(size=5)}),
        (["d", "e"], {"more": (Path("d"), Path("e"))}),
        (["--", "-f"], {"more": (Path("-f"),)}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_every_kind_of_field_is_read(words: list[str], changes: dict[str, object]) -> None:
    assert crate("first", *words) == Crate(word="first").replace(**changes)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "WORD is missing; see: astdistill try --help"),
        (["w", "--length", "0"], "--length cannot be 0; choose 1 or more. See: astdistill try --help"),
        (["w", "--lenght", "x"], "--lenght cannot be 'x'; give a whole number."),
        (["w", "--open=3"], "Option '--open' does not take a value."),
        (["w", "--pair", "1", "b"], "--pair cannot be 'b'; give a whole number."),
        (["w", "--box.size", "b"], "--box.size cannot be 'b'; give a whole number."),
        (["w", "--lid.size", "1"], "There is no flag --lid.size. Did you mean --box.size?"),
        (["w", "-x"], "There is no flag -x."),
        (["w", "--length", "--open"], "--length needs a value; see: astdistill try --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_read_is_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises((InputError, UsageError)) as error:
        crate(*words)
    assert str(error.value).startswith(sentence)


def test_a_function_of_a_record_is_a_command_and_its_own_errors_are_its_own() -> None:
    @command("try")
    def refused(given: Box) -> None:
        raise InputError(f"{given.size} it is")

    with refused.make_context("try", ["--size", "4"]) as ctx, pytest.raises(InputError, match="4 it is"):
        refused.call(ctx)
    with pytest.raises(InputError, match="Unexpected argument '5'"):
        refused.make_context("try", ["5"])


@pytest.mark.parametrize("flag", ["--help", "-h", "--help-all"])
@pytest.mark.parametrize("verb", [*VERBS, "run ablation"])
def test_help_fits_a_terminal_and_every_flag_says_what_it_does(
    verb: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb.split(), flag]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: astdistill {verb}")
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 40 or flag == "--help-all"
    assert "§" not in "".join(lines)
    for line, below in pairwise([*lines, ""]):
        if line.startswith("  --") and len(line.split("  ")) < 3:
            assert below.startswith(" " * 8), f"{line} says nothing"


def test_help_shows_what_is_often_used_and_names_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "digits-ipc1", "--help"])
    shown = capsys.readouterr().out
    assert "--data PATH" in shown
    assert "--distill.*" in shown
    assert "--distill.lr-img" not in shown
    main(["run", "digits-ipc1", "--help-all"])
    shown = capsys.readouterr().out
    assert "--distill.lr-img NUMBER" in shown
    assert "--tags" not in shown
    assert "--method.name" in shown
    assert "--published" not in shown


def test_flags_may_stand_before_the_preset() -> None:
    flags = ["--quiet", "--ipc", "2", "--method", "mtt", "--evaluation.baselines", "random", "--device", "cpu"]
    before, after = parse("run", [*flags, "digits-ipc1"]), parse("run", ["digits-ipc1", *flags])
    assert before == after
    assert before.experiment.method.name == "mtt"
    assert (before.experiment.ipc, before.experiment.evaluation.baselines) == (2, ("random",))


def test_names_of_earlier_versions_are_taken_and_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(DistillSettings, "renamed", {"rate": "lr_img"}, raising=False)
    monkeypatch.setattr(config, "MOVED", {"expert.number": "experts.count"}, raising=False)
    found = parse("run", ["digits-ipc1", "--distill.rate", "7", "--expert.number", "3"]).experiment
    assert (found.distill.lr_img, found.experts.count) == (7, 3)
    main(["run", "digits-ipc1", "--help-all"])
    shown = capsys.readouterr().out
    assert "distill.rate" not in shown
    assert "expert.number" not in shown


def test_numbers_of_trajectory_matching_are_taken_where_they_were_and_offered_to_no_other_family(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--distill.inner-steps", "7", "--distill.matched-epochs", "1", "--distill.batch-syn", "5"]
    found = parse("run", ["digits-ipc1", *words, "--method.step.max-start-epoch", "4"]).experiment.method.step
    assert found == TrajectoryMatching(syn_steps=7, expert_epochs=1, max_start_epoch=4, batch_syn=5)
    for method, shown in (("ast", True), ("dm", False)):
        main(["run", "digits-ipc1", "--method", method, "--help-all"])
        text = capsys.readouterr().out
        assert ("--method.step.syn-steps" in text) is shown
        assert "inner-steps" not in text
        assert "--distill.trajectories" not in text
    for flag in ("--distill.inner-steps", "--method.step.syn-steps"):
        assert main(["run", "digits-ipc1", "--method", "dm", flag, "7"]) == 2
        assert f"The method dm has no setting {flag}; leave it out" in capsys.readouterr().err


def test_another_step_of_the_family_keeps_the_numbers() -> None:
    part = ["--part", "step=users_paper:Halved"]
    found = parse("run", ["digits-ipc1", "--distill.inner-steps", "7", *part]).experiment.method.step
    assert (type(found).__name__, found.counts) == ("Halved", "7/2/10")


def test_a_rate_without_a_place_names_three_that_have_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--lr", "3"]) == 2
    near = "--method.expert.lr, --evaluation.recipe.lr or --distill.lr-img"
    assert f"There is no flag --lr. Did you mean {near}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["run", "--data"], ["experts", "--data", "--ipc", "1"], ["tune", "--ipc", "1", "--data"]]
)
def test_data_without_a_value_is_no_missing_preset(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("astdistill: --data needs a value, for example --data photos")
    assert main(["demo", "--data"]) == 2
    assert capsys.readouterr().err.startswith("astdistill: --data needs a value")


def test_quiet_and_verbose_may_stand_before_the_verb_or_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["-v", "watch", "nowhere", "--once"], ["watch", "nowhere", "--once", "-v"]):
        assert main(words) == 2
        message = capsys.readouterr().err
        assert message.startswith("Traceback")
        assert message.splitlines()[-1].startswith("astdistill: There is no run in nowhere yet")
    heard: list[bool] = []
    for words in (["-q", "listen"], ["listen", "-q"], ["listen"]):
        _heard(words, heard)
    assert heard == [True, True, False]


def _heard(words: list[str], heard: list[bool]) -> None:
    """Whether a verb is quiet that is called with these words, in a process that was not."""
    made = Command("listen", lambda given: heard.append(Output.quiet), Box)
    before, Output.quiet = Output.quiet, False
    try:
        with (
            cli.make_context("astdistill", words) as ctx,
            made.make_context("listen", words[words.index("listen") + 1 :], parent=ctx) as inner,
        ):
            made.invoke(inner)
        assert Output.quiet is False
    finally:
        Output.quiet = before


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed_for_each_shell(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_ASTDISTILL_COMPLETE", f"{shell}_source")
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda self: None)
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert f"_ASTDISTILL_COMPLETE={shell}_complete" in shown


def test_the_list_of_verbs_fits_a_terminal() -> None:
    words = [
        sys.executable,
        "-c",
        "import os; os.environ['COLUMNS'] = '80'; from astdistill.cli.main import main; main(['--help'])",
    ]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert max(map(len, shown.splitlines())) < 80


def test_the_ablation_names_its_own_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "ablation", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--base PRESET" in shown
    assert "--seeds N" in shown
