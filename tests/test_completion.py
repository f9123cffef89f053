"""Tab in real shells: bash, zsh and fish complete verbs, presets, methods, flags and values."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import forking
import pytest

import astdistill
from astdistill.cli.main import VERBS

PACKAGE = Path(astdistill.__file__).parents[1]
LINES = {
    "bash": 'eval "$(_ASTDISTILL_COMPLETE=bash_source astdistill)"',
    "zsh": 'eval "$(_ASTDISTILL_COMPLETE=zsh_source astdistill)"',
    "fish": "_ASTDISTILL_COMPLETE=fish_source astdistill | source",
}
"""What docs/command-line.md tells users to write into the start file of each shell."""
SCRIPT = """#!/bin/sh
if [ -n "$_ASTDISTILL_COMPLETE" ]; then exec {python} -m astdistill "$@"; fi
echo "TYPED[$*]"
"""
"""The command: completion is the real one's, anything else is printed."""
BASH = """
{line}
COMP_WORDS=("$@"); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
_astdistill_completion astdistill
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell that finds the command, and none of the user's own settings."""
    command = tmp_path / "bin" / "astdistill"
    command.parent.mkdir()
    command.write_text(SCRIPT.format(python=forking.python()))
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "HOME": str(tmp_path), "TERM": "dumb", "LC_ALL": "C.UTF-8", "PS1": "> "}
    return {**os.environ, **own, "PYTHONPATH": str(PACKAGE), "XDG_CONFIG_HOME": str(tmp_path)}


def needed(shell: str) -> str:
    """The path of a shell; skips the test where it is not installed."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    return path


def bash(environment: dict[str, str], *words: str) -> list[str]:
    """What bash offers for the last of the words, which are cut as bash cuts them."""
    script = BASH.format(line=LINES["bash"])
    ran = subprocess.run(
        [needed("bash"), "-c", script, "bash", *words], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
    return ran.stdout.split()


def test_the_documented_lines_are_those_that_are_tried() -> None:
    page = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text(encoding="utf-8")
    for line in LINES.values():
        assert line in page


@pytest.mark.started_anew
def test_bash_completes_a_flag(environment: dict[str, str]) -> None:
    assert bash(environment, "astdistill", "run", "digits-ipc1", "--dry") == ["--dry-run"]


def test_bash_completes_verbs_presets_methods_flags_and_values(environment: dict[str, str]) -> None:
    assert set(VERBS) == set(bash(environment, "astdistill", ""))
    assert bash(environment, "astdistill", "ev") == ["evaluate"]
    assert bash(environment, "astdistill", "-q", "--v") == ["--version", "--verbose"]
    assert bash(environment, "astdistill", "run", "digits-i") == ["digits-ipc1"]
    assert bash(environment, "astdistill", "run", "--ipc", "2", "digits-i") == ["digits-ipc1"]
    assert bash(environment, "astdistill", "run", "abl") == ["ablation"]
    assert bash(environment, "astdistill", "run", "ablation", "--ba") == ["--base"]
    assert bash(environment, "astdistill", "run", "digits-ipc1", "--method", "ast-as") == ["ast-as-released"]
    assert bash(environment, "astdistill", "run", "--dry") == ["--dry-run"]
    assert bash(environment, "astdistill", "run", "--evaluation.baselines", "random", "--dev") == ["--device"]
    several = ("run", "digits-ipc1", "--evaluation.baselines", "random", "km")
    assert bash(environment, "astdistill", *several) == ["kmeans"]


def test_bash_completes_a_value_behind_an_equals_sign(environment: dict[str, str]) -> None:
    assert bash(environment, "astdistill", "run", "digits-ipc1", "--method", "=", "mt") == ["mtt"]
    assert "mtt" in bash(environment, "astdistill", "run", "digits-ipc1", "--method", "=")
    assert bash(environment, "astdistill", "run", "digits-ipc1", "--method", "=", "mtt", "--dev") == ["--device"]


@pytest.mark.parametrize("wrong", [("--method", "nope"), ("--config", "nope.yaml"), ("--ipc", "x"), ("--nope",)])
def test_words_that_are_wrong_print_nothing_into_the_line(environment: dict[str, str], wrong: tuple[str, ...]) -> None:
    assert bash(environment, "astdistill", "run", *wrong, "--dev") == ["--device"]


class Typist:
    """Someone at a terminal in which a shell runs."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.terminal, side = pty.openpty()
        self.process = subprocess.Popen(
            command, env=environment, stdin=side, stdout=side, stderr=side, start_new_session=True
        )
        os.close(side)
        self.seen = ""

    def types(self, keys: str, until: str) -> None:
        """Send the keys, and wait until the text stands in what the terminal shows since then."""
        self.seen = ""
        os.write(self.terminal, keys.encode())
        end = time.monotonic() + 90
        while until not in self.seen:
            if time.monotonic() > end or self.process.poll() is not None:
                pytest.fail(f"after {keys!r} there is no {until!r} in {self.seen!r}")
            if select.select([self.terminal], [], [], 0.2)[0]:
                self.seen += os.read(self.terminal, 4096).decode(errors="replace")


@pytest.fixture(params=["bash", "zsh"])
def typist(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Typist]:
    """One at each shell, with completion switched on as the documentation says."""
    options = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}[request.param]
    made = Typist([needed(request.param), *options], environment)
    begin = {"bash": "", "zsh": "autoload -Uz compinit && compinit -u -D; "}[request.param]
    made.types(f"{begin}{LINES[request.param]}; echo be''gun\n", until="begun")
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.terminal)


def test_tab_finishes_the_word(typist: Typist) -> None:
    for keys, whole in (
        ("astdistill ev\t", "evaluate"),
        ("astdistill run digits-i\t", "run digits-ipc1"),
        ("astdistill run digits-ipc1 --method ast-as\t", "run digits-ipc1 --method ast-as-released"),
        ("astdistill run digits-ipc1 --method=ast-as\t", "run digits-ipc1 --method=ast-as-released"),
        ("astdistill run --ipc 2 --dry\t", "run --ipc 2 --dry-run"),
    ):
        typist.types(keys, until=whole.split("=")[-1].split()[-1])
        typist.types("\n", until=f"TYPED[{whole}]")
        assert f"TYPED[{whole}]" in typist.seen


def test_fish_completes_verbs_presets_methods_flags_and_values(environment: dict[str, str]) -> None:
    lines = {
        "astdistill ev": "evaluate",
        "astdistill run digits-i": "digits-ipc1",
        "astdistill run digits-ipc1 --method ast-as": "ast-as-released",
        "astdistill run digits-ipc1 --method=ast-as": "--method=ast-as-released",
        "astdistill run --ipc 2 --dry": "--dry-run",
    }
    asked = "; ".join(f"complete -C '{line}'" for line in lines)
    ran = subprocess.run(
        [needed("fish"), "--no-config", "-c", f"{LINES['fish']}; {asked}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.partition("\t")[0] for line in ran.stdout.splitlines()] == list(lines.values())
    assert ran.stderr == ""
