"""Shell completion: click's scripts, with values after `--flag=` in the form that each shell expects."""

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
"""Environment variable by which a shell requests completion, as in click's scripts."""
BREAKS = ("=", ":")
"""Characters at which bash splits a word; each becomes a word by itself."""
Items = list[CompletionItem]


class Bash(BashComplete):
    """bash splits words at some characters, and replaces only the last piece."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one to complete, and that word, with split words joined again."""
        words, incomplete = super().get_completion_args()
        joined: list[str] = []
        previous = ""
        for word in [*words, incomplete]:
            if joined and (word in BREAKS or previous in BREAKS):
                joined[-1] += word
            else:
                joined.append(word)
            previous = word
        return joined[:-1], joined[-1]

    def get_completions(self, args: list[str], incomplete: str) -> Items:
        """The completions of the last word."""
        return _completions_or_none(super().get_completions, args, incomplete)


class Zsh(ZshComplete):
    """zsh replaces the whole word."""

    def get_completions(self, args: list[str], incomplete: str) -> Items:
        """The completions of the last word."""
        return _with_flag_prefix(_completions_or_none(super().get_completions, args, incomplete), incomplete)


class Fish(FishComplete):
    """fish replaces the whole word."""

    def get_completions(self, args: list[str], incomplete: str) -> Items:
        """The completions of the last word."""
        return _with_flag_prefix(_completions_or_none(super().get_completions, args, incomplete), incomplete)


def _completions_or_none(completions: Any, args: list[str], incomplete: str) -> Items:
    """The completions, or none if earlier words are invalid: an error would be printed into the line that is being
    typed."""
    from ..runtime.errors import InputError

    try:
        return completions(args, incomplete)
    except (InputError, click.ClickException):
        return []


def _with_flag_prefix(items: Items, incomplete: str) -> Items:
    """The items with the flag and the equals sign that the incomplete word begins with, if any."""
    name, equals, _ = incomplete.partition("=")
    if not equals or not name.startswith("-"):
        return items
    return [CompletionItem(f"{name}={item.value}", item.type, item.help) for item in items]


def complete(cli: click.Command, instruction: str) -> int:
    """Print a shell's script (`bash_source`) or the completions of a word (`bash_complete`), and return the exit
    code."""
    for kind in (Bash, Zsh, Fish):
        add_completion_class(kind)
    return shell_complete(cli, {}, "astdistill", VARIABLE, instruction)
