"""Whether the arguments of a public function are of the kinds that it says, found before anything is computed.

pydantic's `validate_call` is not used: in its strict mode it refuses numpy's numbers and text for a path, otherwise it
takes "5" for 5 and True for 1.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from .errors import InputError

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
PLAIN: dict[Any, type | tuple[type, ...]] = {
    int: numbers.Integral,
    float: numbers.Real,
    **{kind: kind for kind in (str, bool, bytes)},
}
"""What stands for a plain kind; numpy's numbers are among them."""
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", types.NoneType: "None"}
EXAMPLES = {
    "Dataset": "the data themselves, for example astdistill.load_dataset('digits')",
    "EvalRecipe": "a protocol, for example astdistill.PROTOCOLS['mtt']",
    "Method": "a method, for example astdistill.methods.MTT",
    "SyntheticSet": "a distilled set, for example astdistill.load('runs/demo')",
    "TrajectoryStore": "the store that astdistill.train_experts gives, or astdistill.TrajectoryStore.open(FOLDER)",
}
"""How to come by a value of that class."""


@functools.cache
def with_checked_kinds(function: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """The same function, which raises InputError for an argument of another kind than its annotation names.

    Kinds that nobody can tell by looking at the value, and names that it has not, are left to the function.
    """
    signature, space = inspect.signature(function), inspect.unwrap(function).__globals__
    kinds = {name: _evaluated(each.annotation, space) for name, each in signature.parameters.items()}

    @functools.wraps(function)
    def checked(*arguments: Arguments.args, **named: Arguments.kwargs) -> Answer:
        try:
            given = signature.bind(*arguments, **named).arguments
        except TypeError:  # which the call itself raises in Python's own words
            given = {}
        for name, value in given.items():
            each = signature.parameters[name]
            single = each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
            if single and value is not each.default and not fits(value, kinds[name]):
                raise _refused(function.__name__, name, value, kinds[name])
        return function(*arguments, **named)

    return checked


def _evaluated(annotation: Any, space: dict[str, Any]) -> Any:
    """What an annotation stands for; `Any` where only a type checker knows."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, space)  # the text of our own function
    except (NameError, AttributeError, TypeError):
        return Any


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind, as far as the value shows it."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inside)
    if origin is Literal:  # whose unknown words the function answers with the nearest
        return type(value) in {type(each) for each in inside}
    if origin in (tuple, Sequence):
        return _fits_each(value, origin, inside)
    if origin is not None:
        kind = {Callable: object}.get(origin, origin)
        return isinstance(value, kind) and (kind is not object or callable(value))
    return _is_a(value, kind)


def _fits_each(value: Any, origin: Any, inside: tuple[Any, ...]) -> bool:
    """Whether a value is a list or a tuple of such values, of that length where the kind says one."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        return False
    if origin is tuple and Ellipsis not in inside:
        return len(value) == len(inside) and all(map(fits, value, inside))
    return all(fits(each, inside[0]) for each in value)


def _is_a(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if not isinstance(kind, type) or kind in (Any, inspect.Parameter.empty):
        return True
    if issubclass(kind, PurePath):
        return isinstance(value, str | os.PathLike)
    return isinstance(value, PLAIN.get(kind, kind))


def _refused(function: str, name: str, value: Any, kind: Any) -> InputError:
    wanted = ", or ".join(dict.fromkeys(_said(kind)))
    text = repr(value)
    if len(text) > 80:
        text = f"{text[:79]}…"
    return InputError(f"{function}({name}={text}) was called; give {wanted}.")


def _said(kind: Any) -> Iterator[str]:
    """The kinds in words."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        for each in inside:
            yield from _said(each)
    elif origin is tuple and Ellipsis not in inside:
        yield f"{len(inside)} values in a tuple"
    elif origin in (tuple, Sequence):
        yield f"a list, each of {' or '.join(_said(inside[0]))}"
    elif origin is Literal:
        yield from map(repr, inside)
    elif isinstance(kind, type) and issubclass(kind, PurePath):
        yield "a path"
    elif origin is Callable:
        yield "a function"
    elif kind in WORDS or kind is None:
        yield WORDS[kind or types.NoneType]
    else:
        own = getattr(origin or kind, "__name__", str(kind))
        yield EXAMPLES.get(own, f"a value of {own}")
