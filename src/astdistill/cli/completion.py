"""What a shell is told when Tab is pressed: click's scripts, with values behind `--flag=` as each shell wants them."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    shell_complete,
)

VARIABLE = "_ASTDISTILL_COMPLETE"
"""The environment variable in which a shell asks for completion, as click's scripts do."""
BREAKS = ("=", ":")
"""Where bash cuts a word in two, each of these being a word by itself."""
Items = list[CompletionItem]


class Bash(BashComplete):
    """bash: words come in pieces, and the last piece alone is replaced."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one to complete, and that word, put together again."""
        words, incomplete = super().get_completion_args()
        joined: list[str] = []
        before = ""
        for word in [*words, incomplete]:
            if joined and (word in BREAKS or before in BREAKS):
                joined[-1] += word
            else:
                joined.append(word)
            before = word
        return joined[:-1], joined[-1]

    def get_completions(self, args: list[str], incomplete: str) -> Items:
        """What the last word may become, or nothing."""
        return _quietly(super().get_completions, args, incomplete)


class Zsh(ZshComplete):
    """zsh: the whole word is replaced."""

    def get_completions(self, args: list[str], incomplete: str) -> Items:
        """What the last word may become, or nothing."""
        return _whole(_quietly(super().get_completions, args, incomplete), incomplete)


class Fish(FishComplete):
    """fish: the whole word is replaced."""

    def get_completions(self, args: list[str], incomplete: str) -> Items:
        """What the last word may become, or nothing."""
        return _whole(_quietly(super().get_completions, args, incomplete), incomplete)


def _quietly(completions: Any, args: list[str], incomplete: str) -> Items:
    """Nothing where the words before are wrong: whoever presses Tab is still typing, and an error would be printed into
    the line."""
    from ..runtime.errors import InputError

    try:
        return completions(args, incomplete)
    except (InputError, click.ClickException):
        return []


def _whole(items: Items, incomplete: str) -> Items:
    """The items with the flag and the equals sign that the word begins with, if it does."""
    name, equals, _ = incomplete.partition("=")
    if not equals or not name.startswith("-"):
        return items
    return [CompletionItem(f"{name}={item.value}", item.type, item.help) for item in items]


def complete(cli: click.Command, instruction: str) -> int:
    """Print the script of a shell (`bash_source`), or what a word may become (`bash_complete`); the exit code."""
    for kind in (Bash, Zsh, Fish):
        add_completion_class(kind)
    return shell_complete(cli, {}, "astdistill", VARIABLE, instruction)
