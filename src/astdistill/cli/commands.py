"""A verb made of a record and a function: its flags are the record's fields, and what is typed makes the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, get_type_hints

import click
from click.shell_completion import CompletionItem
from pydantic import ValidationError

from ..runtime.config import Record
from ..runtime.errors import InputError, refused
from ..runtime.progress import quietly
from .flags import Flag, Place, Positional, Typed, kind_of, names_of, params_of, words_for_click

TRUST = "Allow importing this module, which a file names"
WORDS = "astdistill.words"
"""Where a context keeps the words that it was made of."""
COLUMNS = 80
"""Help is no wider, so that it reads the same on every terminal."""


class Command(click.Command):
    """A verb: its flags are those of records, and its function is called with the records that were typed.

    Args:
        name: The words after `astdistill`.
        function: Called with the record; what it returns is the exit code (None is 0) or goes to the caller.
        kind: The class of the record. Its docstring is what help says first, and its `common` names the flags that
            the short help shows, where they are not all.
    """

    def __init__(self, name: str, function: Callable[..., Any], kind: type[Record]) -> None:
        common = [
            click.Option(["-q", "--quiet"], is_flag=True, help="Show no progress"),
            click.Option(["-v", "--verbose"], is_flag=True, help="Show a traceback with an error"),
            click.Option(["--trust"], multiple=True, metavar="MODULE", help=TRUST),
            click.Option(["-h", "--help"], is_flag=True, is_eager=True, expose_value=False, callback=_help(brief=True)),
            click.Option(["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_help(brief=False)),
        ]
        super().__init__(name, add_help_option=False)
        self.function, self.kind, self.prog, self.common = function, kind, f"astdistill {name}", common
        self.records: dict[str, Record | type[Record]] = {"": kind}
        self.params = [*params_of(kind), *common]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words into `ctx.params`. Raises InputError for words that cannot be."""
        ctx.info_name, ctx.allow_extra_args = self.prog.removeprefix("astdistill "), True
        ctx.meta[WORDS] = args
        args = words_for_click(args, self.params, self.prog, lenient=ctx.resilient_parsing)
        super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            raise InputError(f"Unexpected argument '{ctx.args[0]}'. Leave it out, or see: {self.prog} --help")
        return ctx.args

    def invoke(self, ctx: click.Context) -> Any:
        """Call the function with the record that was typed."""
        before = ctx.find_root().params
        ctx.ensure_object(dict)["verbose"] = ctx.params["verbose"] or before["verbose"]
        with quietly() if ctx.params["quiet"] or before["quiet"] else nullcontext():
            return self.call(ctx)

    def call(self, ctx: click.Context) -> Any:
        """The function's answer."""
        return self.function(self.record(ctx, self.kind))

    def record(self, ctx: click.Context, base: Record | type[Record], at: str = "") -> Any:
        """The record that the typed words make of `base`, whose flags lie at `at`. Raises InputError for values that it
        refuses, and where a required one is missing."""
        changes: dict[Place, Any] = {}
        fields = [param for param in self.params if isinstance(param, Flag | Positional) and param.place[0] == at]
        for param in fields:
            given = typed(ctx.params.get(str(param.name)), param, self.prog)
            if given is not None:
                changes[param.place[1:]] = given.value
        fields_of_base = kind_of(base).model_fields
        required = [name for name, info in fields_of_base.items() if isinstance(base, type) and info.is_required()]
        absent = [name for name in required if not any(place[0] == name for place in changes)]
        if absent:
            names = [next(param.flag for param in fields if param.place == (at, name)) for name in absent]
            verb = "is"
            if len(names) > 1:
                verb = "are"
            raise InputError(f"{' and '.join(names)} {verb} missing; see: {self.prog} --help")
        return _changed(base, changes, (), self.prog)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The flags that begin so, or further values of the last flag, where it takes several."""
        options = [param for param in self.params if isinstance(param, click.Option) and not param.hidden]
        if not incomplete.startswith("-"):
            word = next((word for word in reversed(ctx.meta[WORDS]) if word.startswith("--")), "")
            many = [each for each in options if isinstance(each, Flag) and each.flag == word and each.kind.many]
            return [item for each in many for item in each.kind.shell_complete(ctx, each, incomplete)]
        names = [(name, _row(param, True)[1]) for param in options for name in names_of(param)]
        return [CompletionItem(name, help=about) for name, about in names if name.startswith(incomplete)]

    def get_usage(self, ctx: click.Context) -> str:
        """One line: the words and their order."""
        words = [param for param in self.params if isinstance(param, Positional)]
        return " ".join(
            [f"usage: {self.prog}", *(f"{each.flag}{' ...' * each.kind.many}" for each in words), "[FLAGS]"]
        )

    def about(self) -> str:
        """What help says first."""
        return " ".join((self.kind.__doc__ or "").partition("\n\nArgs:")[0].split())

    def show(self, brief: bool) -> str:
        """The help: all flags, or those that are common and the groups of the others."""
        page = click.HelpFormatter(width=COLUMNS)
        page.write(self.get_usage(click.Context(self)) + "\n")
        page.write_paragraph()
        page.write_text(self.about())
        flags = [param for param in self.params if isinstance(param, click.Option) and not param.hidden]
        words = [(each.flag, each.about) for each in self.params if isinstance(each, Positional) and each.about]
        often = getattr(self.kind, "common", None)
        own = [flag for flag in flags if "." not in flag.opts[0]]
        first = [
            each for each in own if not brief or often is None or not isinstance(each, Flag) or _end(each) in often
        ]
        _section(page, "", [*words, *(_row(flag, brief) for flag in first)])
        rest = [flag for flag in flags if flag not in first and isinstance(flag, Flag)]
        if brief:
            groups = _groups(rest, _outermost)
            _section(page, "More flags, shown by --help-all:", [_summary(*each) for each in groups.items()])
            return page.getvalue()
        for name, each in _groups(rest, lambda name: name.rpartition(".")[0]).items():
            _section(page, f"{name}.*", [_row(flag, False) for flag in each])
        return page.getvalue()


def _groups(flags: Iterable[Flag], group: Callable[[str], str]) -> dict[str, list[Flag]]:
    """The flags by the group of their names, in the order of the first of each."""
    groups: dict[str, list[Flag]] = {}
    for flag in flags:
        groups.setdefault(group(flag.flag), []).append(flag)
    return groups


def _outermost(name: str) -> str:
    """The part of a flag's name before its first dot; empty for one without dots."""
    head, dot, _ = name.partition(".")
    if not dot:
        return ""
    return head


def _end(flag: Flag) -> str:
    """The field of the command's own record that the flag sets, or sets something in."""
    return flag.place[1]


def _summary(name: str, flags: list[Flag]) -> tuple[str, str]:
    ends = ", ".join(flag.flag.removeprefix(f"{name}.").removeprefix("--") for flag in flags)
    if len(ends) >= 48:
        ends = f"{ends[:44].rpartition(', ')[0]}, …"
    if not name:
        return "others", ends
    return f"{name}.*", ends


def _row(param: click.Option, brief: bool) -> tuple[str, str]:
    if isinstance(param, Flag):
        return param.row(brief)
    texts = {"--help": "Show this help", "--help-all": "Show all flags with full descriptions"}
    value = ""
    if isinstance(param.metavar, str):
        value = f" {param.metavar}"
    return ", ".join(param.opts) + value, param.help or texts[param.opts[-1]]


def _section(page: click.HelpFormatter, title: str, rows: list[tuple[str, str]]) -> None:
    if not rows:
        return
    page.write_paragraph()
    if title:
        page.write(title + "\n")
    with page.indentation():
        page.write_dl(rows, col_max=28)


def _help(brief: bool) -> Callable[[click.Context, click.Parameter, bool], None]:
    """What --help and --help-all do."""

    def shown(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing and isinstance(ctx.command, Command):
            click.echo(ctx.command.show(brief), nl=False)
            ctx.exit()

    return shown


def typed(value: Any, param: Any, prog: str) -> Typed | None:
    """What was typed for a flag or a word, if anything was."""
    if isinstance(param, Positional):
        if value in (None, ()):
            return None
        words = [value]
        if param.kind.many:
            words = list(value)
        return Typed(param.kind.read(words, prog))
    if param.repeated:
        if not value:
            return None
        return Typed(tuple(each for one in value for each in one.value))
    if isinstance(value, Typed | None):
        return value
    return Typed(value)


def _changed(base: Record | type[Record], changes: Mapping[Place, Any], at: Place, prog: str) -> Any:
    """The record with the values at their places, from the innermost records outwards."""
    kind, values = kind_of(base), {}
    if not isinstance(base, type):
        values = {name: getattr(base, name) for name in kind.model_fields}
    for name in dict.fromkeys(place[0] for place in changes):
        below = {place[1:]: value for place, value in changes.items() if place[0] == name and place[1:]}
        inner = values.get(name, kind.model_fields[name].default)
        if below:
            values[name] = _changed(inner, below, (*at, name), prog)
        else:
            values[name] = changes[(name,)]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise refused(error, ".".join(at), prog) from error


def command(name: str) -> Callable[[Callable[[Any], Any]], Command]:
    """Makes a command of a function of one record, by the record's class."""

    def made(function: Callable[[Any], Any]) -> Command:
        (kind,) = [hint for key, hint in get_type_hints(function).items() if key != "return"]
        return Command(name, function, kind)

    return made
