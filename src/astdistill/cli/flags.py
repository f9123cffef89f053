"""From the fields of a record to flags, and the words in which a value or a flag is refused.

click takes words apart and completes them in a shell; here is what it does not know of: records of records, flags with
several values, and values that pydantic reads.
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
from ..runtime.errors import InputError, refused, unknown

WANTED = {
    int: ("N", "a whole number"),
    float: ("NUMBER", "a number"),
    Path: ("PATH", "a path"),
    str: ("NAME", "a word"),
}
"""What help calls a value of that type, and what an error says of it."""
FILLED = ("--architectures", "--method.learn")
"""Flags of many values that have one at least: none would be taken for the usual ones, or leave nothing to learn."""
END = "\0"
"""Ends each value of a flag on its way through click, which gives a flag one string; no word can hold it."""
Place = tuple[str, ...]
"""Where a value belongs: the name of a record of the command ('' for its only one), then names of fields."""


@dataclass(frozen=True)
class Word:
    """How a field is typed, where that is not a flag with one value: `Annotated[type, Word(…)]`."""

    metavar: str = ""
    positional: bool = False
    """A word without a flag; several where the field is a tuple."""
    repeated: bool = False
    """The flag may be given again, which adds to it."""
    flag: str = ""
    """The flag, where it is not the field's name; one with a dash stands as it is."""
    short: str = ""
    """For a record: its field that the flag of the record's own name sets."""
    names: Callable[[], Iterable[str]] = tuple
    """What a shell may complete it to, and what stands in the description for {names}."""


@dataclass(frozen=True)
class Typed:
    """A value that was typed; None in its place means that nothing was."""

    value: Any


class Kind(click.ParamType):
    """The type of a field, read from words as pydantic reads it."""

    def __init__(self, annotation: Any, flag: str, word: Word) -> None:
        self.word, self.annotation, self.flag, self.name = word, annotation, flag, flag
        self.leaves = list(dict.fromkeys(_leaves(annotation)))
        self.choices = [leaf for leaf in self.leaves if isinstance(leaf, str)]
        self.types = [leaf for leaf in self.leaves if leaf in WANTED]
        self.nothing = [["None"]]
        if str not in self.types:
            self.nothing.append(["none"])
        self.many = any(get_origin(part) is tuple for part in (annotation, *get_args(annotation)))
        self.metavar = word.metavar or "|".join([*self.choices, *(WANTED[kind][0] for kind in self.types)])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What the words of one flag mean. Raises InputError for words that the type does not take."""
        if not isinstance(value, str):
            return value
        words, prog = [value], "astdistill"
        if END in value or not value:
            words = value.split(END)[:-1]
        if ctx is not None:
            prog = ctx.command_path
        return Typed(self.read(words, prog))

    def read(self, words: list[str], prog: str) -> Any:
        """The value of the words. Raises InputError, which names the flag, the word, what is allowed, and `prog`."""
        if types.NoneType in self.leaves and words in self.nothing:
            return None
        if Path in self.types and "" in words:  # which pathlib takes for the current folder
            raise InputError(f"{self.flag} names nothing; give a path. See: {prog} --help")
        typed: Any = words
        if not self.many:
            if len(words) > 1:  # of a list in a file; words of a command line are one each
                raise InputError(f"{self.flag} takes one value, not {', '.join(words)}. See: {prog} --help")
            typed = words[-1]
        try:
            return TypeAdapter(self.annotation).validate_python(typed)
        except ValidationError as error:
            raise self._refused(error, words, prog) from error

    def _refused(self, error: ValidationError, words: list[str], prog: str) -> InputError:
        first = error.errors()[0]
        if isinstance(first.get("ctx", {}).get("error"), InputError):
            return refused(error)
        bad = next((word for word in words if word == first["input"]), " ".join(words))
        if self.choices and not self.types:
            return unknown(self.flag, bad, self.choices)
        wanted = [*(WANTED[kind][1] for kind in self.types), *self.choices]
        return InputError(f"{self.flag} cannot be '{bad}'; give {_either(wanted)}. See: {prog} --help")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The choices, or the shell's own files."""
        names = [*self.choices, *self.word.names()]
        items = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        if Path in self.types:
            items.append(CompletionItem(incomplete, type="file"))
        return items


class Flag(click.Option):
    """The flag of one field."""

    def __init__(
        self, place: Place, name: str, info: FieldInfo, told: Callable[[], str] = str, hidden: bool = False
    ) -> None:
        word = _word(info)
        kind = Kind(info.annotation, name, word)
        variable = f"{name.strip('-').replace('-', '_').replace('.', '__')}__flag"
        self.opposite, spelled = "", name
        how: dict[str, Any] = {"type": kind, "multiple": word.repeated}
        if info.annotation is bool:
            head, dot, tail = name.removeprefix("--").rpartition(".")
            self.opposite = f"--{head}{dot}no-{tail}"
            spelled, how = f"{name}/{self.opposite}", {"default": None, "is_flag": True}
        super().__init__([variable, spelled], hidden=hidden, **how)
        self.place, self.flag, self.kind, self.repeated, self.shown = place, name, kind, word.repeated, None
        self._told = told

    @property
    def about(self) -> str:
        """What help says of it."""
        about = self._told().replace("`", "")
        if "{names}" in about:
            about = about.replace("{names}", ", ".join(sorted(self.kind.word.names())))
        return " ".join(about.split())

    def row(self, brief: bool) -> tuple[str, str]:
        """What help says of it: the flag with its value, and its sentence (all of them unless `brief`) with the
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
        if self.shown is None or self.shown is False or self.shown in ((), "") or self.required:
            return ""
        if self.shown is True:
            return f" (default; {self.opposite} switches it off)"
        shown = str(self.shown)
        if isinstance(self.shown, tuple):
            shown = " ".join(map(str, self.shown))
        if len(shown) >= 40:
            return ""
        return f" (default: {shown})"


class Positional(click.Argument):
    """The words of one field that has no flag."""

    def __init__(self, place: Place, info: FieldInfo, told: Callable[[], str]) -> None:
        word = _word(info)
        name = word.metavar or place[-1].upper()
        kind, count = Kind(info.annotation, name, word), 1
        if kind.many:
            count = -1  # click's word for any number
        super().__init__([f"{place[-1]}__word"], type=_One(kind), nargs=count, required=False)
        self.place, self.kind, self.flag, self._told = place, kind, name, told

    @property
    def about(self) -> str:
        """What help says of it."""
        return " ".join(self._told().split())


class _One(click.ParamType):
    """One word as it was typed; the field's own type reads all of them together."""

    name = "word"

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return self.kind.shell_complete(ctx, param, incomplete)


def params_of(record: Record | type[Record], at: Place = ("",), moved: Mapping[str, str] | None = None) -> list[Any]:
    """The flags and words of a record, or of a kind of records, its own fields before those of the records in it.

    A record that is None has no flags. Names that fields had once are flags too, hidden from help: those in `renamed`
    of a record's class, and dotted ones in `moved`.
    """
    params = list(_params(record, at))
    names = {param.flag for param in params}
    for old, new in (moved or {}).items():
        flag, target = _flag(("", *old.split("."))), _flag(("", *new.split(".")))
        known = [param for param in params if isinstance(param, Flag) and param.flag == target]
        params += [_alias(param, flag) for param in known[:1] if flag not in names]
    return params


def kind_of(record: Record | type[Record]) -> type[Record]:
    """The class of a record, or that class itself."""
    if isinstance(record, type):
        return record
    return type(record)


def _value(record: Record | type[Record], name: str) -> Any:
    """What a field holds in the record, or in a new one of that class."""
    if isinstance(record, type):
        return record.model_fields[name].get_default(call_default_factory=True)
    return getattr(record, name)


def _params(record: Record | type[Record], at: Place) -> Iterator[Any]:
    kind = kind_of(record)
    inner: list[tuple[Any, Place]] = []
    for name, info in kind.model_fields.items():
        value, place, word = _value(record, name), (*at, name), _word(info)
        if isinstance(value, Record):
            inner.append((value, place))
            if word.short:
                yield _made((*place, word.short), _flag(place), type(value), word.short)
        elif word.positional:
            yield Positional(place, info, partial(_told, kind, name))
        elif not any(_is_record(leaf) for leaf in _leaves(info.annotation)):
            flag = copy(_made(place, _flag((*at, word.flag or name)), kind, name))
            if not info.is_required():
                flag.shown = value
            yield flag
            old = [old for old, new in getattr(kind, "renamed", {}).items() if new == name]
            yield from (_alias(flag, _flag((*at, each))) for each in old)
    for value, place in inner:
        yield from _params(value, place)


@cache
def _made(place: Place, name: str, kind: type[Record], field: str) -> Flag:
    """The flag of a field, made once: a command of a preset is read three times, with sixty flags each time."""
    return Flag(place, name, kind.model_fields[field], partial(_told, kind, field))


def _told(kind: type[Record], field: str) -> str:
    """What a field's own description says, or the text below it."""
    return kind.model_fields[field].description or explained(kind, field)


def _alias(flag: Flag, name: str) -> Flag:
    return _hidden(flag.place, name, flag.kind.annotation, flag.repeated)


@cache
def _hidden(place: Place, name: str, annotation: Any, repeated: bool) -> Flag:
    info = FieldInfo(annotation=annotation, metadata=[Word(repeated=repeated)])
    return Flag(place, name, info, hidden=True)


def _flag(place: Place) -> str:
    if place[-1].startswith("-"):
        return place[-1]
    return "--" + ".".join(place[1:]).replace("_", "-")


def _is_record(leaf: Any) -> bool:
    return isinstance(leaf, type) and issubclass(leaf, Record)


def _word(info: FieldInfo) -> Word:
    return next((each for each in info.metadata if isinstance(each, Word)), Word())


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types and the choices that an annotation is made of."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from inside
    elif origin in (Union, types.UnionType, tuple):
        for part in inside:
            if part is not ...:
                yield from _leaves(part)
    elif origin is Annotated:
        yield from _leaves(inside[0])
    else:
        yield annotation


def words_for_click(words: Sequence[str], params: Iterable[Any], prog: str, lenient: bool = False) -> list[str]:
    """The words with the values of each flag as one word, for click, which takes one; a flag takes all words up to the
    next flag where it has many values.

    Raises InputError for flags that do not exist and for those without a value; `lenient` leaves these out.
    """
    flags = {name: param for param in params if isinstance(param, click.Option) for name in names_of(param)}
    typed = {name: param for name, param in flags.items() if isinstance(param, Flag) and not param.is_flag}
    rest, out = list(words), []
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*out, word, *rest]
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        flag = flags.get(name)
        if not _is_flag(word):
            out.append(word)
        elif flag is None and not lenient:
            raise no_flag(name, flags, prog)
        elif flag is None:
            rest = rest[bool(rest and not equals and not _is_flag(rest[0])) :]
        elif name not in typed:
            out.append(name + equals + value)
        else:
            values, flag = [value], typed[name]
            if not equals:
                values = _values(rest, flag)
            if values or (flag.kind.many and not flag.repeated and flag.flag not in FILLED):
                out += [name, END.join([*values, ""])]
            elif not lenient:
                raise InputError(f"{name} needs a value; see: {prog} --help")
    return out


def names_of(param: click.Option) -> list[str]:
    """The flag with its other spellings, and its opposite."""
    return [*param.opts, *param.secondary_opts]


def _values(rest: list[str], flag: Flag) -> list[str]:
    """Take the values of a flag from the words that follow it."""
    within = rest
    if not flag.kind.many:
        within = rest[:1]
    count = next((number for number, word in enumerate(within) if _is_flag(word)), len(within))
    values, rest[:] = rest[:count], rest[count:]
    return values


def _is_flag(word: str) -> bool:
    """Whether a word is a flag, and neither a negative number nor the dash that stands for standard input."""
    try:
        float(word)
    except ValueError:
        return len(word) > 1 and word.startswith("-")
    return False


def no_flag(word: str, flags: Iterable[str], prog: str) -> InputError:
    """The error for a flag that does not exist, with the nearest ones: those that end in the same name, or in one that
    begins with it, one of each record, and otherwise the one that is spelled most alike."""
    known, wanted = list(flags), word.lstrip("-").rpartition(".")[2]
    ends = [flag for flag in known if flag.lstrip("-").rpartition(".")[2] == wanted]
    ends += [flag for flag in known if flag.rpartition(".")[2].startswith(f"{wanted}-")]
    one_of_each = {flag.rpartition(".")[0]: flag for flag in reversed(ends)}
    near = sorted(one_of_each.values(), key=ends.index)[:3] or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    hint = ""
    if near:
        hint = f" Did you mean {_either(near)}?"
    return InputError(f"There is no flag {word}.{hint} All are listed by: {prog} --help-all")


def _either(words: Sequence[str]) -> str:
    """`one, two or three`."""
    return ", ".join([*words[:-2], " or ".join(words[-2:])])
