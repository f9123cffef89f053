"""Words of the command line that are rare, and what they are answered."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from problems import exit_code

import astdistill
from astdistill import report
from astdistill.cli import doctor_checks, verbs
from astdistill.cli import main as command_line
from astdistill.cli.commands import WORDS
from astdistill.cli.evaluate import Evaluate, _recipe
from astdistill.cli.findings import shortened
from astdistill.cli.flags import Flag
from astdistill.cli.main import VERBS, cli, main
from astdistill.cli.options import parse
from astdistill.cli.verify import _check_partial
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import write_json
from astdistill.runtime.run_dir import RunDir

SMALL = (
    "--model",
    "convnet-d1-w4",
    "--experts.count",
    "1",
    "--distill.iterations",
    "2",
    "--evaluation.baselines",
    "random",
)


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Both outputs on one line."""
    return " ".join("".join(capsys.readouterr()).split())


def test_help_is_a_word_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert main(["help"]) == 0
    assert capsys.readouterr().out == shown
    assert cli.list_commands(click.Context(cli)) == list(VERBS)


def test_an_exit_of_somebody_elses_code_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: object) -> int:
        sys.exit(7)

    monkeypatch.setattr(command_line, "_guarded", leave)
    with pytest.raises(SystemExit, match="7"):
        main(["list"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data:\n  per_class: 5\ndata.per_class: 6\n", "has 'data.per_class' twice; leave one out"),
        ("[1, 2]\n", "holds no settings; write lines such as preset: digits-ipc1"),
    ],
)
def test_a_file_of_settings_that_is_none(text: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text(text)
    assert exit_code("run", "digits-ipc1", "--config", "a.yaml", "--dry-run") == 2
    assert f"--config a.yaml {sentence}" in said(capsys)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: [1, 2]\n", "--seed takes one value, not 1, 2. See: astdistill run digits-ipc1 --help"),
        ("out: [a, b]\n", "--out takes one value, not a, b. See: astdistill run"),
        ('out: "a\\0b"\n', r"'out' holds the sign \0, which no value may have; take it out"),
        ("# " + "x" * 2**20, "--config a.yaml has more than 1,048,576 letters; name a YAML file of settings"),
    ],
)
def test_settings_that_a_file_cannot_give(text: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a list, the last value was taken."""
    Path("a.yaml").write_text(text)
    assert exit_code("run", "digits-ipc1", "--config", "a.yaml", "--dry-run") == 2
    assert sentence in said(capsys)


def test_settings_are_not_saved_to_a_folder_and_switches_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", "digits-ipc1", "--dry-run", "--save-config", ".") == 2
    assert "--save-config . is a folder; name a file, for example settings.yaml" in said(capsys)
    Path("a.yaml").write_text("distill:\n  snapshots: false\n")
    assert exit_code("run", "digits-ipc1", *SMALL, "--config", "a.yaml", "--dry-run") == 0
    assert "Goes to:" in said(capsys)


def test_what_does_not_fit_into_memory_is_said_before_it_is_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verbs, "free_memory", lambda: 1000)
    assert exit_code("distill", "digits-ipc1", *SMALL, "--dry-run") == 0
    shown = said(capsys)
    assert "Warning: " in shown
    assert "1.0 kB are free" in shown


def test_an_outcome_is_shown_beside_what_was_published(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from astdistill.experiment.presets import PRESETS

    known = PRESETS["cifar10-ipc1-mtt"]
    monkeypatch.setattr(verbs, "table", lambda _: None)
    monkeypatch.setattr(verbs, "taught_table", lambda _: None)
    monkeypatch.setattr(verbs, "terminal", lambda _: "")
    nothing: Any = None
    verbs._show(nothing, tmp_path, known)
    assert f"Published for cifar10-ipc1-mtt: {known.published.accuracy} % ({known.published.source})." in said(capsys)


def test_a_search_has_no_json_and_no_epochs_that_an_import_fixes(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("tune", "digits-ipc1", "--json") == 2
    assert "--json shows what a run would cost; leave it out, or use it with: astdistill run --dry-run" in said(capsys)
    assert exit_code("tune", "digits-ipc1", "--also", "M", "--experts.imported", "abc") == 2
    assert "--also M was given with --experts.imported, whose epochs are fixed; leave --also M out" in said(capsys)


def test_experts_of_pictures_whose_method_needs_none_say_the_whole_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("experts", "--data", "digits", "--method", "dm") == 2
    assert "trains no experts; distil with: astdistill run --data digits --method dm" in said(capsys)


def test_full_data_are_trained_as_long_as_an_expert_of_the_run() -> None:
    given = Evaluate(path=Path("run"), baselines=("full",))
    assert _recipe(given).full_epochs == 50, "those of MTT, where no run says so"
    Path("run").mkdir()
    write_json(RunDir("run").config, {"method": {"expert": {"epochs": 7}}})
    assert _recipe(given).full_epochs == 7
    assert _recipe(given.replace(full_epochs=3)).full_epochs == 3
    with pytest.raises(InputError, match="--epochs 5 was given, but the protocol rat counts 3000 steps; leave it out"):
        _recipe(given.replace(protocol="rat", epochs=5))


@pytest.mark.parametrize("verb", ["run", "experts", "tune"])
def test_a_protocol_of_steps_refuses_epochs(verb: str) -> None:
    words = "--protocol", "rat", "--evaluation.recipe.epochs", "5"
    with pytest.raises(
        InputError,
        match=r"--evaluation\.recipe\.epochs 5 was given, but this evaluation counts 3000 steps; leave it out",
    ):
        parse(verb, ("digits-ipc1", *words))
    assert parse(verb, ("digits-ipc1", *words[:2])).experiment.evaluation.recipe.steps


def test_a_sweep_over_a_protocol_of_steps_refuses_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("sweep", "digits-ipc1", "--protocol", "rat", "--set", "evaluation.recipe.epochs=5,6") == 2
    assert "evaluation.recipe.epochs=5 was given, but this evaluation counts 3000 steps; leave it out" in said(capsys)


def test_an_error_of_many_lines_is_shortened() -> None:
    assert shortened("a\n  b") == "a b"
    assert shortened("x" * 300) == "x" * 200 + " …"


def test_half_trained_experts_without_a_state_have_nothing_to_verify(tmp_path: Path) -> None:
    (tmp_path / "000.0123.partial").mkdir()
    assert _check_partial(tmp_path / "000.0123.partial")


def completed(*words: str, last: str = "") -> list[str]:
    """What may follow the words."""
    verb = cli.get_command(click.Context(cli), words[0])
    assert verb is not None
    ctx = click.Context(verb, info_name=words[0], resilient_parsing=True)
    ctx.meta[WORDS] = list(words)
    return [item.value for item in verb.shell_complete(ctx, last)]


def test_words_that_may_follow() -> None:
    assert "--gamma" in completed("evaluate", last="--ga")
    assert completed("evaluate", "run", "--baselines", "random", last="k") == ["kmeans", "kcenter"]
    assert completed("evaluate", "run", last="k") == []
    verb = cli.get_command(click.Context(cli), "evaluate")
    assert verb is not None
    out = next(each for each in verb.params if getattr(each, "flag", "") == "--out")
    assert isinstance(out, Flag)
    assert [item.type for item in out.kind.shell_complete(click.Context(cli), out, "ru")] == ["file"]


# the doctor on other machines


def test_the_doctor_tells_of_gpus_and_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "mem_get_info": (10**9, 8 * 10**9),
        "get_device_name": "A card",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    (found,) = doctor_checks.gpus()
    assert (found.name, found.state) == ("GPU 0", "good")
    assert found.text == "A card, 1.0 GB of 8.0 GB free; use it with --device cuda:0"
    assert doctor_checks._devices() == ["cpu", "cuda"]
    waited: list[int] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(1))
    assert doctor_checks._fastest(lambda: None, "cuda") >= 0
    assert len(waited) == 4, "the GPU is waited for before the clock is read"


def test_the_doctor_says_for_which_cuda_torch_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (found,) = doctor_checks.gpus()
    assert found.text == "none; torch is built for CUDA 13.0; everything runs on the CPU"


def test_a_package_that_was_not_installed_has_no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", absent)
    assert list(doctor_checks.extras()) == []


# names of the package


def test_names_that_are_none_are_told_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttributeError, match=r"astdistill\.report has no 'sheets'; its names are .*save_grid"):
        _ = report.sheets  # pyright: ignore
    with pytest.raises(AttributeError, match=r"astdistill has no 'distil'; its names are .*distill"):
        _ = astdistill.distil  # pyright: ignore
    found = importlib.import_module("astdistill.methods")
    monkeypatch.delattr(astdistill, "methods")
    assert astdistill.methods is found
