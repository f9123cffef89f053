"""Flags in a file: `--config FILE.yaml` reads them, `--save-config FILE.yaml` writes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import to_jsonable_python

from ..runtime.errors import InputError, flag_name, suggestion
from ..runtime.files import check_folder, write_text
from ..runtime.text import in_one_line, reason
from .flags import END, Flag, Positional

PRESET = "preset"
NEVER = ("config", "save_config", "dry_run", "json")
"""Flags that control what is done with settings, and are not settings."""
OF_A_RUN = {"name", "data", "experts", "method", "distill", "evaluation"}
"""Names that occur in every config.json of a run; no file of flags has all of them."""
TYPED = ("quiet", "verbose", "help", "help_all")
"""Flags of every command that are not allowed in a file."""
SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
LARGEST = 1 << 20
"""Maximum number of characters in a file of settings; a device file has no end."""
NOTHING = ("null", "~", "")
Entries = dict[str, str | list[str]]
"""Values as text, by the names of their flags with underscores: distill.lr_img."""


def read_config(path: Path) -> Entries:
    """The settings in a YAML file with nested or dotted keys. Raises InputError for an invalid file."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise InputError(f"--config {path} has more than {LARGEST:,} letters; name a YAML file of settings.")
        if path.suffix.lower() == ".toml":
            raise InputError(f"--config {path} is TOML; write a YAML file, with lines such as ipc: 10")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):  # aliases may expand without limit
            raise InputError(f"--config {path} has an alias (*name); write the value itself.")
        duplicate = next(_duplicate_keys(yaml.compose(text, Loader=yaml.BaseLoader)), None)
        if duplicate is not None:
            raise InputError(f"--config {path} has '{duplicate}' twice; leave one out.")
        tree = yaml.load(text, Loader=yaml.BaseLoader)  # only texts: `no` is not read as False
        entries = dict[str, Any](_named_settings(tree, path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} cannot be read ({reason(error)}); name a YAML file of settings.") from error
    except RecursionError:
        raise InputError(f"--config {path} has values nested too deeply; write lines such as ipc: 10") from None
    except yaml.YAMLError as error:
        message = in_one_line(error, 1000)
        raise InputError(f"--config {path} is not YAML ({message}); write lines such as ipc: 10") from error
    return entries


def _duplicate_keys(node: yaml.Node | None) -> Iterator[str]:
    """Yield the keys that occur twice in one mapping; YAML takes the last one without a warning."""
    if isinstance(node, yaml.MappingNode):
        keys = [str(key.value) for key, _ in node.value]
        yield from (key for number, key in enumerate(keys) if key in keys[:number])
        for _, value in node.value:
            yield from _duplicate_keys(value)


def _named_settings(tree: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a file by their dotted names. Raises InputError if there are none, or if one occurs
    twice."""
    if not isinstance(tree, Mapping):
        raise InputError(f"--config {path} holds no settings; write lines such as preset: digits-ipc1")
    if tree.keys() >= OF_A_RUN:
        raise InputError(
            f"--config {path} is the config.json of a run, and no file of flags; the command that began the run "
            "goes on with it, and --save-config FILE.yaml writes a file for --config."
        )
    names = set[str]()
    for name, value in _flatten(tree, "", path):
        if name in names:
            raise InputError(f"--config {path} has '{name}' twice; leave one out.")
        names.add(name)
        yield name, value


def _flatten(tree: Mapping[str, Any], prefix: str, path: Path) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = prefix + str(key).replace("-", "_")
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.", path)
        elif isinstance(value, list) and not all(isinstance(each, str) for each in value):
            raise InputError(
                f"--config {path}: '{name}' holds a list of more than plain values; write for example {name}: [a, b]"
            )
        elif END in "".join(value):
            raise InputError(f"--config {path}: '{name}' holds the sign \\0, which no value may have; take it out.")
        else:
            yield name, value


def config_path(arguments: Sequence[str]) -> Path | None:
    """The file that `--config` names among the arguments; the last one if there are several."""
    path = None
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag != "--config":
            continue
        if not equals:
            value = next(iter(arguments[number + 1 : number + 2]), "")
        if not value or value.startswith("-"):
            raise InputError("--config needs a value; name a YAML file of settings.")
        path = Path(value)
    return path


def to_arguments(entries: Entries, valued: Collection[str] = ()) -> list[str]:
    """The entries as arguments of a command line, without the preset. `valued` names the flags that are not
    switches."""
    empty = [flag_name(name) for name, value in entries.items() if value == []]
    settings = {name: value for name, value in entries.items() if value != [] and name != PRESET}
    arguments = [
        argument for name, value in settings.items() for argument in _arguments_of(name, value, name in valued)
    ]
    if empty:
        arguments = [*empty, "--no-dry-run", *arguments]  # a flag of many values ends only at the next flag
    return arguments


def _arguments_of(name: str, value: str | list[str], valued: bool) -> list[str]:
    flag = flag_name(name)
    if isinstance(value, list):
        return [f"{flag}={END.join(value)}"]
    if value in NOTHING:
        return [f"{flag}=None"]
    if valued or value not in SWITCHES:
        return [f"{flag}={value}"]
    if SWITCHES[value]:
        return [flag]
    head, dot, tail = flag.removeprefix("--").rpartition(".")
    return [f"--{head}{dot}no-{tail}"]


def name_of(param: Flag | Positional) -> str:
    """The name of the flag in a file of settings."""
    return param.flag.removeprefix("--").replace("-", "_").lower()


def overridden(entries: Entries, typed: Sequence[str], repeated: Iterable[str]) -> Entries:
    """The entries without those of repeatable flags that were also typed: typed values replace them."""
    flags = {argument.partition("=")[0].replace("_", "-") for argument in typed}
    replaced = {name for name in repeated if flag_name(name) in flags}
    return {name: value for name, value in entries.items() if name not in replaced}


def check_groups(entries: Entries, params: Iterable[Any], path: Path) -> None:
    """Raise InputError for a value in place of a group of settings, such as distill: 3."""
    names = [name_of(param) for param in params if isinstance(param, Flag | Positional)]
    for name in entries:
        members = [each.removeprefix(f"{name}.") for each in names if each.startswith(f"{name}.")]
        if members and name not in names:
            raise InputError(
                f"--config {path} has a value for '{name}', which holds settings of its own; write for example "
                f"{name}: {{{members[0]}: …}}"
            )


def check_names(entries: Entries, params: Iterable[Any], path: Path) -> None:
    """Raise InputError, with the nearest name, for an entry that no flag sets."""
    names = [name_of(param) for param in params if isinstance(param, Flag | Positional)]
    for name in entries:
        if name in TYPED:
            raise InputError(f"--config {path} has '{name}', which is typed on the command line alone; leave it out.")
        if name not in names or name in NEVER:
            hint = suggestion(name, [each for each in names if each not in NEVER])
            raise InputError(f"--config {path} has '{name}', which is no setting.{hint} All are listed by --help-all.")


def check_save(path: Path, params: Iterable[Any]) -> None:
    """Raise InputError if settings may not be written to `path`: it is a folder, or a file that does not hold settings
    of such a command."""
    if path.is_dir():
        raise InputError(f"--save-config {path} is a folder; name a file, for example {path / 'settings.yaml'}")
    check_folder(path, "--save-config", file=True)
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return
    groups = {name_of(param).partition(".")[0] for param in params if isinstance(param, Flag | Positional)}
    names = list[str]()
    if path.is_file():
        with suppress(InputError):
            names = list(read_config(path))
    if not names or any(name.partition(".")[0] not in groups for name in names):
        raise InputError(
            f"--save-config {path} exists already and holds no settings of this command; name another file, for "
            f"example {path.with_name(f'{path.stem}-2.yaml')}"
        )


def _as_typed(value: Any) -> Any:
    """A value in the form of the command line: pairs in a list are joined by a colon."""
    if not isinstance(value, list):
        return value
    return [":".join(map(str, each)) if isinstance(each, list) else each for each in value]


def save_config(
    path: Path, typed: Iterable[tuple[Flag | Positional, Any]], preset: str, named: Mapping[str, Any] | None = None
) -> None:
    """Write the typed settings, including those of a `--config` file. Those in `named`, by name, take precedence.
    `check_save` decides which file may be replaced."""
    entries: dict[str, Any] = {}
    if preset:
        entries[PRESET] = preset
    for param, value in typed:
        if name_of(param) not in (*NEVER, PRESET):
            entries[name_of(param)] = _as_typed(to_jsonable_python(value))
    entries |= named or {}
    write_text(path, yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))
