"""Commands made of a record and a function: the fields of the record are the flags, and typed values fill the
record."""

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
from .flags import Flag, Place, Positional, Typed, click_arguments, kind_of, names_of, params_of

TRUST = "Allow importing this module, which a file names"
WORDS = "astdistill.words"
"""Key of `Context.meta` for the arguments that the context was made of."""
COLUMNS = 80
"""Width of help, the same on every terminal."""


class Command(click.Command):
    """A subcommand. Its flags are the fields of a record, and its function is called with the record of typed values.

    Args:
        name: The words after `astdistill`.
        function: Called with the record. Its result is the exit code (None is 0) or is returned to the caller.
        kind: The class of the record. Its docstring is the first text of help, and its `common` names the flags in the
            short help, if not all.
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
        """Parse the arguments into `ctx.params`. Raises InputError for invalid ones."""
        ctx.info_name, ctx.allow_extra_args = self.prog.removeprefix("astdistill "), True
        ctx.meta[WORDS] = args
        args = click_arguments(args, self.params, self.prog, lenient=ctx.resilient_parsing)
        super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            raise InputError(f"Unexpected argument '{ctx.args[0]}'. Leave it out, or see: {self.prog} --help")
        return ctx.args

    def invoke(self, ctx: click.Context) -> Any:
        """Call the function with the record of typed values."""
        root_params = ctx.find_root().params
        ctx.ensure_object(dict)["verbose"] = ctx.params["verbose"] or root_params["verbose"]
        with quietly() if ctx.params["quiet"] or root_params["quiet"] else nullcontext():
            return self.call(ctx)

    def call(self, ctx: click.Context) -> Any:
        """Call the function, and return its result."""
        return self.function(self.record(ctx, self.kind))

    def record(self, ctx: click.Context, base: Record | type[Record], prefix: str = "") -> Any:
        """`base` with the typed values of the flags whose place begins with `prefix`. Raises InputError for values that
        the record refuses, and for missing required ones."""
        changes: dict[Place, Any] = {}
        fields = [param for param in self.params if isinstance(param, Flag | Positional) and param.place[0] == prefix]
        for param in fields:
            parsed = typed(ctx.params.get(str(param.name)), param, self.prog)
            if parsed is not None:
                changes[param.place[1:]] = parsed.value
        fields_of_base = kind_of(base).model_fields
        required = [name for name, info in fields_of_base.items() if isinstance(base, type) and info.is_required()]
        missing = [name for name in required if not any(place[0] == name for place in changes)]
        if missing:
            names = [next(param.flag for param in fields if param.place == (prefix, name)) for name in missing]
            verb = "is"
            if len(names) > 1:
                verb = "are"
            raise InputError(f"{' and '.join(names)} {verb} missing; see: {self.prog} --help")
        return _with_values(base, changes, (), self.prog)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The flags that begin with `incomplete`, or further values of the last flag if it takes several."""
        options = [param for param in self.params if isinstance(param, click.Option) and not param.hidden]
        if not incomplete.startswith("-"):
            flag = next((flag for flag in reversed(ctx.meta[WORDS]) if flag.startswith("--")), "")
            multi_valued = [each for each in options if isinstance(each, Flag) and each.flag == flag and each.kind.many]
            return [item for each in multi_valued for item in each.kind.shell_complete(ctx, each, incomplete)]
        names = [(name, _help_row(param, True)[1]) for param in options for name in names_of(param)]
        return [CompletionItem(name, help=about) for name, about in names if name.startswith(incomplete)]

    def get_usage(self, ctx: click.Context) -> str:
        """The usage line: the command and the order of its arguments."""
        positionals = [param for param in self.params if isinstance(param, Positional)]
        return " ".join(
            [f"usage: {self.prog}", *(f"{each.flag}{' ...' * each.kind.many}" for each in positionals), "[FLAGS]"]
        )

    def about(self) -> str:
        """The first text of help."""
        return " ".join((self.kind.__doc__ or "").partition("\n\nArgs:")[0].split())

    def help_text(self, brief: bool) -> str:
        """The help text: all flags, or the common flags and the groups of the others."""
        page = click.HelpFormatter(width=COLUMNS)
        page.write(self.get_usage(click.Context(self)) + "\n")
        page.write_paragraph()
        page.write_text(self.about())
        flags = [param for param in self.params if isinstance(param, click.Option) and not param.hidden]
        arguments = [(each.flag, each.about) for each in self.params if isinstance(each, Positional) and each.about]
        common = getattr(self.kind, "common", None)
        ungrouped = [flag for flag in flags if "." not in flag.opts[0]]
        listed = [
            each
            for each in ungrouped
            if not brief or common is None or not isinstance(each, Flag) or _field_name(each) in common
        ]
        _section(page, "", [*arguments, *(_help_row(flag, brief) for flag in listed)])
        remaining = [flag for flag in flags if flag not in listed and isinstance(flag, Flag)]
        if brief:
            groups = _group_flags(remaining, _first_component)
            _section(page, "More flags, shown by --help-all:", [_group_row(*each) for each in groups.items()])
            return page.getvalue()
        for name, each in _group_flags(remaining, lambda name: name.rpartition(".")[0]).items():
            _section(page, f"{name}.*", [_help_row(flag, False) for flag in each])
        return page.getvalue()


def _group_flags(flags: Iterable[Flag], group: Callable[[str], str]) -> dict[str, list[Flag]]:
    """The flags by the group of their names, in order of first occurrence."""
    groups: dict[str, list[Flag]] = {}
    for flag in flags:
        groups.setdefault(group(flag.flag), []).append(flag)
    return groups


def _first_component(name: str) -> str:
    """The part of a flag's name before its first dot; empty for a name without dots."""
    head, dot, _ = name.partition(".")
    if not dot:
        return ""
    return head


def _field_name(flag: Flag) -> str:
    """The field of the command's own record that the flag sets, or in which it sets a nested field."""
    return flag.place[1]


def _group_row(name: str, flags: list[Flag]) -> tuple[str, str]:
    listed = ", ".join(flag.flag.removeprefix(f"{name}.").removeprefix("--") for flag in flags)
    if len(listed) >= 48:
        listed = f"{listed[:44].rpartition(', ')[0]}, …"
    if not name:
        return "others", listed
    return f"{name}.*", listed


def _help_row(param: click.Option, brief: bool) -> tuple[str, str]:
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
    """The click callback of --help and --help-all."""

    def show_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing and isinstance(ctx.command, Command):
            click.echo(ctx.command.help_text(brief), nl=False)
            ctx.exit()

    return show_help


def typed(value: Any, param: Any, prog: str) -> Typed | None:
    """The parsed value of a flag or a positional argument, or None if it was not typed."""
    if isinstance(param, Positional):
        if value in (None, ()):
            return None
        arguments = [value]
        if param.kind.many:
            arguments = list(value)
        return Typed(param.kind.read(arguments, prog))
    if param.repeated:
        if not value:
            return None
        return Typed(tuple(each for occurrence in value for each in occurrence.value))
    if isinstance(value, Typed | None):
        return value
    return Typed(value)


def _with_values(base: Record | type[Record], changes: Mapping[Place, Any], prefix: Place, prog: str) -> Any:
    """The record with the values at their places. Nested records are changed first."""
    kind, values = kind_of(base), {}
    if not isinstance(base, type):
        values = {name: getattr(base, name) for name in kind.model_fields}
    for name in dict.fromkeys(place[0] for place in changes):
        inner_changes = {place[1:]: value for place, value in changes.items() if place[0] == name and place[1:]}
        inner_base = values.get(name, kind.model_fields[name].default)
        if inner_changes:
            values[name] = _with_values(inner_base, inner_changes, (*prefix, name), prog)
        else:
            values[name] = changes[(name,)]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise refused(error, ".".join(prefix), prog) from error


def command(name: str) -> Callable[[Callable[[Any], Any]], Command]:
    """Decorator that makes a command of a function with one parameter, whose annotation is the class of the record."""

    def decorate(function: Callable[[Any], Any]) -> Command:
        (kind,) = [hint for key, hint in get_type_hints(function).items() if key != "return"]
        return Command(name, function, kind)

    return decorate
