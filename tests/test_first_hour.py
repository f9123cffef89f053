"""The script behind `make first-hour`: it sees what fails, and reads everything that the pages have a reader do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from first_hour.first_hour import PAGES, ROOT, Failed, Shell, Step, checkout_of, read_through, steps


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    opened = Shell(tmp_path, dict(os.environ))
    yield opened
    opened.close()


def test_the_shell_says_how_a_command_ended_and_keeps_what_it_set(shell: Shell) -> None:
    assert shell.type("mark=kept")[0] == 0
    assert shell.type("(exit 3)")[0] == 3
    assert shell.type("false && true")[0] == 1
    assert shell.type("no-such-command")[0] == 127
    assert shell.type("echo $mark   # a comment")[1].strip() == "kept"
    assert shell.type("exit 4")[0] != 0


def test_the_first_command_that_fails_ends_it(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [Step("one", "true"), Step("two", "echo because; (exit 2)"), Step("three", "touch reached")]
    monkeypatch.setattr("first_hour.first_hour.steps", lambda page: said)
    with pytest.raises(Failed, match=r"page.md: two\nended with exit code 2:\nbecause"):
        read_through("page.md", shell, tmp_path)
    assert not (tmp_path / "reached").exists()
    assert "three" not in capsys.readouterr().out


def test_every_page_has_commands_and_a_copied_file_is_what_the_page_shows(shell: Shell, tmp_path: Path) -> None:
    for page in PAGES:
        assert any(step.typed.startswith("astdistill ") for step in steps(page))
    saved = next(step for step in steps("docs/your-own-network.md") if step.shown == "(save my_network.py)")
    assert shell.type(saved.typed)[0] == 0
    assert "def small(channels: int" in (tmp_path / "my_network.py").read_text(encoding="utf-8")


def test_the_copied_checkout_has_the_whole_source(tmp_path: Path) -> None:
    copy = checkout_of(tmp_path)
    for part in ("src", "tests/data/frozen"):
        ours = {path.relative_to(ROOT) for path in (ROOT / part).rglob("*") if "__pycache__" not in path.parts}
        assert ours == {path.relative_to(copy) for path in (copy / part).rglob("*")}
    assert not (copy / ".git").exists()
