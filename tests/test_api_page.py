"""The API page says what every argument and every field is."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

import astdistill
from astdistill.methods import Adam, Sgd, StudentOptimiser

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
NAMES = re.findall(r"^::: (\S+)$", PAGE, flags=re.MULTILINE)
SECTION = re.compile(r"^Args:\n((?:(?: {4}.*)?(?:\n|$))+)", flags=re.MULTILINE)
ENTRY = re.compile(r"^ {4}\*{0,2}(\w+): \S", flags=re.MULTILINE)


def found(name: str) -> Any:
    """What the page names: the longest part of the name that is a module, and what lies in it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            value = getattr(value, part)
        return value
    raise AssertionError(f"there is no {name}")


def shown() -> Iterator[tuple[str, Any]]:
    """Every function and class on the page, with its name; those of a module are those of its `__all__`."""
    for name in NAMES:
        value = found(name)
        if isinstance(value, ModuleType):
            yield from ((f"{name}.{inner}", getattr(value, inner)) for inner in value.__all__)
        else:
            yield name, value


SHOWN = dict(shown())
PROTOCOLS = {kind: (StudentOptimiser,) for kind in (Sgd, Adam)}
"""What classes implement without inheriting from it."""
CLASSES = {name: value for name, value in SHOWN.items() if inspect.isclass(value)}


def named(docstring: str | None) -> set[str]:
    """The arguments that a docstring names in its section `Args:`."""
    return {name for part in SECTION.findall(inspect.cleandoc(docstring or "")) for name in ENTRY.findall(part)}


def arguments(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def methods(kind: type) -> Iterator[tuple[str, Any]]:
    """The methods that a class defines itself in this package's source, and that the page shows."""
    for name, value in vars(kind).items():
        function = inspect.unwrap(getattr(value, "__func__", value))
        own = inspect.isfunction(function) and function.__module__.startswith("astdistill")
        if own and "<string>" not in function.__code__.co_filename and (name == "__call__" or name[0] != "_"):
            yield name, function


def told(kind: type, name: str) -> set[str]:
    """The arguments of a method that its docstring names, or that of the method it overrides or implements."""
    bases = [*kind.__mro__, *PROTOCOLS.get(kind, ())]
    return set().union(*(named(getattr(vars(base).get(name), "__doc__", "")) for base in bases))


def test_all_public_names_are_on_the_page() -> None:
    for name in astdistill.__all__:
        assert any(inner == f"astdistill.{name}" or inner.endswith(f".{name}") for inner in NAMES), name


@pytest.mark.parametrize("name", [name for name, value in SHOWN.items() if inspect.isfunction(value)])
def test_every_argument_of_a_function_is_documented(name: str) -> None:
    assert [each for each in arguments(SHOWN[name]) if each not in named(SHOWN[name].__doc__)] == []


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_of_a_method_is_documented(name: str) -> None:
    kind = CLASSES[name]
    absent = [
        f"{method}({each})"
        for method, function in methods(kind)
        for each in arguments(function)
        if each not in told(kind, method)
    ]
    assert absent == []


def explained(kind: type) -> set[str]:
    """The fields that have a docstring below them, in the class or in one that it inherits from."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("astdistill"):
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
            assert isinstance(body, ast.ClassDef)
            lines = zip(body.body, body.body[1:], strict=False)
            names |= {_field(line) for line, below in lines if _text(below)}
    return names


def _field(line: ast.stmt) -> str:
    """The name that the line annotates; empty where it is another line."""
    if isinstance(line, ast.AnnAssign):
        return ast.unparse(line.target)
    return ""


def _text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def fields_of(kind: Any) -> list[str]:
    """The public fields of a record or a dataclass; of other classes, what they are made of."""
    if issubclass(kind, BaseModel):
        return list(kind.model_fields)
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind) if each.name[0] != "_"]
    if inspect.isfunction(kind.__init__):
        return [name for name in arguments(kind) if name not in ("args", "kwargs", "message")]
    return []


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_of_a_class_is_documented(name: str) -> None:
    kind = CLASSES[name]
    known = explained(kind) | named(kind.__doc__)
    assert [each for each in fields_of(kind) if each not in known] == []
