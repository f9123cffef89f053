"""Flags made of the fields of records, and the errors for invalid flags and values.

click splits the arguments and completes them in a shell. This module adds nested records, flags with several values,
and values that pydantic validates.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from click.shell_completion import CompletionItem
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ..runtime.config import Record, explained
from ..runtime.errors import InputError, flag_name, refused, unknown

TYPE_NAMES = {
    int: ("N", "a whole number"),
    float: ("NUMBER", "a number"),
    Path: ("PATH", "a path"),
    str: ("NAME", "a word"),
}
"""The placeholder of each type in help, and its name in errors."""
NON_EMPTY = ("--architectures", "--method.learn")
"""Flags of many values that need at least one: none would mean the defaults, or leave nothing to learn."""
END = "\0"
"""Ends each value of a flag inside click, which gives a flag one string; no argument can contain it."""
Place = tuple[str, ...]
"""The location of a value: the name of a record of the command ('' for its only one), then names of fields."""


@dataclass(frozen=True)
class Word:
    """How a field is typed, if not as a flag with one value: `Annotated[type, Word(…)]`."""

    metavar: str = ""
    positional: bool = False
    """An argument without a flag; several if the field is a tuple."""
    repeated: bool = False
    """The flag may be repeated, which adds values."""
    flag: str = ""
    """The flag, if it is not the field's name; a name that begins with a dash is not changed."""
    short: str = ""
    """For a record: the field that is set by a flag with the record's own name."""
    names: Callable[[], Iterable[str]] = tuple
    """Values for shell completion, which also replace {names} in the description."""


@dataclass(frozen=True)
class Typed:
    """A value that was typed. None in place of a `Typed` means that nothing was typed."""

    value: Any


class Kind(click.ParamType):
    """The click type of a field, which parses arguments as pydantic does."""

    def __init__(self, annotation: Any, flag: str, word: Word) -> None:
        self.word, self.annotation, self.flag, self.name = word, annotation, flag, flag
        self.leaves = list(dict.fromkeys(_leaves(annotation)))
        self.choices = [leaf for leaf in self.leaves if isinstance(leaf, str)]
        self.types = [leaf for leaf in self.leaves if leaf in TYPE_NAMES]
        self.none_values = [["None"]]
        if str not in self.types:
            self.none_values.append(["none"])
        self.many = any(get_origin(part) is tuple for part in (annotation, *get_args(annotation)))
        self.pairs = get_origin(annotation) is tuple and any(map(_is_pair, get_args(annotation)))
        self.metavar = word.metavar or "|".join([*self.choices, *(TYPE_NAMES[kind][0] for kind in self.types)])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the values of one flag. Raises InputError for values that the type does not accept."""
        if not isinstance(value, str):
            return value
        values, prog = [value], "astdistill"
        if END in value or not value:
            values = value.split(END)[:-1]
        if ctx is not None:
            prog = ctx.command_path
        return Typed(self.read(values, prog))

    def read(self, values: list[str], prog: str) -> Any:
        """Parse the values. Raises InputError, which names the flag, the value, what is allowed, and `prog`."""
        if types.NoneType in self.leaves and values in self.none_values:
            return None
        if Path in self.types and "" in values:  # pathlib reads it as the current folder
            raise InputError(f"{self.flag} names nothing; give a path. See: {prog} --help")
        raw: Any = values
        if not self.many:
            if len(values) > 1:  # a list in a file; the command line gives one value
                raise InputError(f"{self.flag} takes one value, not {', '.join(values)}. See: {prog} --help")
            raw = values[-1]
        try:
            return TypeAdapter(self.annotation).validate_python(raw)
        except ValidationError as error:
            raise self._value_error(error, values, prog) from error

    def _value_error(self, error: ValidationError, values: list[str], prog: str) -> InputError:
        first = error.errors()[0]
        if isinstance(first.get("ctx", {}).get("error"), InputError):
            return refused(error)
        bad = next((value for value in values if value == first["input"]), " ".join(values))
        if self.choices and not self.types:
            return unknown(self.flag, bad, self.choices)
        accepted = [*(TYPE_NAMES[kind][1] for kind in self.types), *self.choices]
        if self.pairs:
            accepted = ["pairs of two whole numbers: 1:10 10:50"]
        return InputError(f"{self.flag} cannot be '{bad}'; give {_join_or(accepted)}. See: {prog} --help")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The choices that begin with `incomplete`, and files if the field takes a path."""
        names = [*self.choices, *self.word.names()]
        items = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        if Path in self.types:
            items.append(CompletionItem(incomplete, type="file"))
        return items


class Flag(click.Option):
    """The flag of one field."""

    def __init__(
        self, place: Place, name: str, info: FieldInfo, describe: Callable[[], str] = str, hidden: bool = False
    ) -> None:
        word = _word_of(info)
        kind = Kind(info.annotation, name, word)
        variable = f"{name.strip('-').replace('-', '_').replace('.', '__')}__flag"
        self.opposite, declaration = "", name
        attributes: dict[str, Any] = {"type": kind, "multiple": word.repeated}
        if info.annotation is bool:
            head, dot, tail = name.removeprefix("--").rpartition(".")
            self.opposite = f"--{head}{dot}no-{tail}"
            declaration, attributes = f"{name}/{self.opposite}", {"default": None, "is_flag": True}
        super().__init__([variable, declaration], hidden=hidden, **attributes)
        self.place, self.flag, self.kind, self.repeated, self.shown_default = place, name, kind, word.repeated, None
        self._describe = describe

    @property
    def about(self) -> str:
        """The description in help."""
        about = self._describe().replace("`", "")
        if "{names}" in about:
            about = about.replace("{names}", ", ".join(sorted(self.kind.word.names())))
        return " ".join(about.split())

    def row(self, brief: bool) -> tuple[str, str]:
        """The row of help: the flag with its value, and its description (only the first sentence if `brief`) with the
        default."""
        value, about = "", self.about
        if not self.is_flag:
            value = f" {self.kind.metavar}{' ...' * self.kind.many}"
        if len(value) > 26:
            value = " NAME"
        if brief:
            about = about.partition(". ")[0].rstrip(".")
        elif value == " NAME" and self.kind.choices:
            about += f" One of: {', '.join(self.kind.choices)}."
        return self.flag + value, about + self._default()

    def _default(self) -> str:
        if self.shown_default is None or self.shown_default is False or self.shown_default in ((), "") or self.required:
            return ""
        if self.shown_default is True:
            return f" (default; {self.opposite} switches it off)"
        text = str(self.shown_default)
        if isinstance(self.shown_default, tuple):
            text = " ".join(map(str, self.shown_default))
        if len(text) >= 40:
            return ""
        return f" (default: {text})"


class Positional(click.Argument):
    """The arguments of a field that has no flag."""

    def __init__(self, place: Place, info: FieldInfo, describe: Callable[[], str]) -> None:
        word = _word_of(info)
        name = word.metavar or place[-1].upper()
        kind, count = Kind(info.annotation, name, word), 1
        if kind.many:
            count = -1  # click's value for any number
        super().__init__([f"{place[-1]}__word"], type=_RawValue(kind), nargs=count, required=False)
        self.place, self.kind, self.flag, self._describe = place, kind, name, describe

    @property
    def about(self) -> str:
        """The description in help."""
        return " ".join(self._describe().split())


class _RawValue(click.ParamType):
    """One argument as it was typed; the field's own type parses all of them together."""

    name = "word"

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return self.kind.shell_complete(ctx, param, incomplete)


def params_of(
    record: Record | type[Record], prefix: Place = ("",), moved: Mapping[str, str] | None = None
) -> list[Any]:
    """The flags and positional arguments of a record or a class of records. Its own fields come before those of nested
    records.

    A nested record that is None has no flags. Old names of fields are flags too, hidden from help: those in `renamed`
    of a record's class, and dotted ones in `moved`.
    """
    params = list(_params(record, prefix))
    names = {param.flag for param in params}
    for old, new in (moved or {}).items():
        flag, target = _flag_name(("", *old.split("."))), _flag_name(("", *new.split(".")))
        matching = [param for param in params if isinstance(param, Flag) and param.flag == target]
        params += [_alias_flag(param, flag) for param in matching[:1] if flag not in names]
    return params


def kind_of(record: Record | type[Record]) -> type[Record]:
    """The class of a record, or the class itself."""
    if isinstance(record, type):
        return record
    return type(record)


def _field_value(record: Record | type[Record], name: str) -> Any:
    """The value of a field in the record, or its default in the class."""
    if isinstance(record, type):
        return record.model_fields[name].get_default(call_default_factory=True)
    return getattr(record, name)


def _params(record: Record | type[Record], prefix: Place) -> Iterator[Any]:
    kind = kind_of(record)
    nested: list[tuple[Any, Place]] = []
    for name, info in kind.model_fields.items():
        value, place, word = _field_value(record, name), (*prefix, name), _word_of(info)
        if isinstance(value, Record):
            nested.append((value, place))
            if word.short:
                yield _cached_flag((*place, word.short), _flag_name(place), type(value), word.short)
        elif word.positional:
            yield Positional(place, info, partial(_describe_field, kind, name))
        elif not any(_is_record(leaf) for leaf in _leaves(info.annotation)):
            flag = copy(_cached_flag(place, _flag_name((*prefix, word.flag or name)), kind, name))
            if not info.is_required():
                flag.shown_default = value
            yield flag
            old = [old for old, new in getattr(kind, "renamed", {}).items() if new == name]
            yield from (_alias_flag(flag, _flag_name((*prefix, each))) for each in old)
    for value, place in nested:
        yield from _params(value, place)


@cache
def _cached_flag(place: Place, name: str, kind: type[Record], field: str) -> Flag:
    """The flag of a field, cached: a command with a preset is parsed three times, with sixty flags each time."""
    return Flag(place, name, kind.model_fields[field], partial(_describe_field, kind, field))


def _describe_field(kind: type[Record], field: str) -> str:
    """The field's own description, or the text below the field."""
    return kind.model_fields[field].description or explained(kind, field)


def _alias_flag(flag: Flag, name: str) -> Flag:
    return _hidden_flag(flag.place, name, flag.kind.annotation, flag.repeated)


@cache
def _hidden_flag(place: Place, name: str, annotation: Any, repeated: bool) -> Flag:
    info = FieldInfo(annotation=annotation, metadata=[Word(repeated=repeated)])
    return Flag(place, name, info, hidden=True)


def _flag_name(place: Place) -> str:
    if place[-1].startswith("-"):
        return place[-1]
    return flag_name(".".join(place[1:]))


def _is_pair(annotation: Any) -> bool:
    """Whether a type is a pair of values, which is typed as one word."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_origin(annotation) is tuple


def _is_record(leaf: Any) -> bool:
    return isinstance(leaf, type) and issubclass(leaf, Record)


def _word_of(info: FieldInfo) -> Word:
    return next((each for each in info.metadata if isinstance(each, Word)), Word())


def _leaves(annotation: Any) -> Iterator[Any]:
    """Yield the types and the choices that an annotation is made of."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from arguments
    elif origin in (Union, types.UnionType, tuple):
        for part in arguments:
            if part is not ...:
                yield from _leaves(part)
    elif origin is Annotated:
        yield from _leaves(arguments[0])
    else:
        yield annotation


def click_arguments(arguments: Sequence[str], params: Iterable[Any], prog: str, lenient: bool = False) -> list[str]:
    """The arguments in the form that click expects, with all values of a flag as one argument. A flag of many values
    takes all arguments up to the next flag.

    Raises InputError for flags that do not exist and for those without a value; if `lenient`, they are left out.
    """
    flags = {name: param for param in params if isinstance(param, click.Option) for name in names_of(param)}
    typed = {name: param for name, param in flags.items() if isinstance(param, Flag) and not param.is_flag}
    remaining, result = list(arguments), []
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            return [*result, argument, *remaining]
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        flag = flags.get(name)
        if not _is_flag(argument):
            result.append(argument)
        elif flag is None and not lenient:
            raise no_flag(name, flags, prog)
        elif flag is None:
            remaining = remaining[bool(remaining and not equals and not _is_flag(remaining[0])) :]
        elif name not in typed:
            result.append(name + equals + value)
        else:
            values, flag = [value], typed[name]
            if not equals:
                values = _take_values(remaining, flag)
            if values or (flag.kind.many and not flag.repeated and flag.flag not in NON_EMPTY):
                result += [name, END.join([*values, ""])]
            elif not lenient:
                raise InputError(f"{name} needs a value; see: {prog} --help")
    return result


def names_of(param: click.Option) -> list[str]:
    """All spellings of the flag, and of its opposite."""
    return [*param.opts, *param.secondary_opts]


def _take_values(remaining: list[str], flag: Flag) -> list[str]:
    """Remove the values of a flag from the beginning of the remaining arguments, and return them."""
    candidates = remaining
    if not flag.kind.many:
        candidates = remaining[:1]
    count = next((number for number, argument in enumerate(candidates) if _is_flag(argument)), len(candidates))
    values, remaining[:] = remaining[:count], remaining[count:]
    return values


def _is_flag(argument: str) -> bool:
    """Whether an argument is a flag, and neither a negative number nor the dash for standard input."""
    try:
        float(argument)
    except ValueError:
        return len(argument) > 1 and argument.startswith("-")
    return False


class UnknownFlagError(InputError):
    """A flag that a command does not have."""

    def __init__(self, flag: str, message: str) -> None:
        super().__init__(message)
        self.flag = flag


def no_flag(name: str, flags: Iterable[str], prog: str) -> UnknownFlagError:
    """The error for a flag that does not exist. It suggests flags whose last component is the same or begins with the
    same name, one for each record, or else the flag with the most similar spelling."""
    names, last_part = list(flags), name.lstrip("-").rpartition(".")[2]
    matches = [flag for flag in names if flag.lstrip("-").rpartition(".")[2] == last_part]
    matches += [flag for flag in names if flag.rpartition(".")[2].startswith(f"{last_part}-")]
    one_per_record = {flag.rpartition(".")[0]: flag for flag in reversed(matches)}
    near = sorted(one_per_record.values(), key=matches.index)[:3] or difflib.get_close_matches(
        name, names, n=1, cutoff=0.6
    )
    hint = ""
    if near:
        hint = f" Did you mean {_join_or(near)}?"
    return UnknownFlagError(name, f"There is no flag {name}.{hint} All are listed by: {prog} --help-all")


def _join_or(names: Sequence[str]) -> str:
    """`one, two or three`."""
    return ", ".join([*names[:-2], " or ".join(names[-2:])])
