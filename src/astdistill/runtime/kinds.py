"""What public functions share: their arguments are checked before anything is computed, and they can differentiate
wherever they are called.

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
from contextlib import ExitStack, contextmanager
from pathlib import PurePath
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import torch

from .errors import InputError
from .text import brief

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
PLAIN: dict[Any, type | tuple[type, ...]] = {
    int: numbers.Integral,
    float: numbers.Real,
    **{kind: kind for kind in (str, bool, bytes)},
}
"""The types that are accepted for a plain annotation; numpy's numbers are among them."""
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", types.NoneType: "None"}
EXAMPLES = {
    "Dataset": "the data themselves, for example astdistill.load_dataset('digits')",
    "EvalRecipe": "a protocol, for example astdistill.PROTOCOLS['mtt']",
    "Method": "a method, for example astdistill.methods.MTT",
    "SyntheticSet": "a distilled set, for example astdistill.load('runs/demo')",
    "TrajectoryStore": "the store that astdistill.train_experts gives, or astdistill.TrajectoryStore.open(FOLDER)",
}
"""How to obtain a value of that class."""


@contextmanager
def usual_torch() -> Iterator[None]:
    """Inside the block, or the function that it decorates, autograd is on and new tensors are on the CPU if no device
    is named, whatever the calling thread has set by `torch.no_grad`, `torch.inference_mode` or
    `torch.set_default_device`.

    The default dtype is that of all threads, and stays: each tensor of this package names its own.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # also turns autograd on
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def checked_kinds(function: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """Wrap a function so that it raises InputError for an argument that does not match its annotation, and so that it
    computes as in `usual_torch`.

    Types that cannot be determined from the value, and unknown argument names, are left to the function.
    """
    signature, namespace = inspect.signature(function), inspect.unwrap(function).__globals__
    kinds = {
        name: _resolve_annotation(parameter.annotation, namespace) for name, parameter in signature.parameters.items()
    }

    @functools.wraps(function)
    def checked(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Answer:
        try:
            bound = signature.bind(*arguments, **keywords).arguments
        except TypeError:  # the call below raises the same
            bound = {}
        for name, value in bound.items():
            parameter = signature.parameters[name]
            single = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if single and value is not parameter.default and not fits(value, kinds[name]):
                raise _argument_error(function.__name__, name, value, kinds[name])
        with usual_torch():
            return function(*arguments, **keywords)

    return checked


with_checked_kinds = functools.cache(checked_kinds)
"""The same, and the same wrapper for the same function."""


def _resolve_annotation(annotation: Any, namespace: dict[str, Any]) -> Any:
    """The type that an annotation stands for; `Any` if only type checkers know it."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, namespace)  # part of the source of this package
    except (NameError, AttributeError, TypeError):
        return Any


def fits(value: Any, kind: Any) -> bool:
    """Whether a value matches a type annotation, as far as the value shows it."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inside) and not (_is_empty(value) and any(map(_is_path, inside)))
    if origin is Literal:  # the function itself suggests the nearest for an unknown value
        return type(value) in {type(each) for each in inside}
    if origin in (tuple, Sequence):
        return _fits_each(value, origin, inside)
    if origin is not None:
        kind = {Callable: object}.get(origin, origin)
        return isinstance(value, kind) and (kind is not object or callable(value))
    return _is_instance(value, kind)


def _fits_each(value: Any, origin: Any, inside: tuple[Any, ...]) -> bool:
    """Whether a value is a list or a tuple of such items, of the annotated length if there is one."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        return False
    if origin is tuple and Ellipsis not in inside:
        return len(value) == len(inside) and all(map(fits, value, inside))
    return all(fits(each, inside[0]) for each in value)


def _is_instance(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if not isinstance(kind, type) or kind in (Any, inspect.Parameter.empty):
        return True
    if _is_path(kind):
        return isinstance(value, str | os.PathLike) and not _is_empty(value)
    if isinstance(value, bool) and kind in (int, float):
        return False
    return isinstance(value, PLAIN.get(kind, kind))


def _is_path(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, PurePath)


def _is_empty(value: Any) -> bool:
    """Whether a value is an empty text, which pathlib reads as the current folder."""
    return isinstance(value, str) and not value


def _argument_error(function: str, name: str, value: Any, kind: Any) -> InputError:
    expected = ", or ".join(dict.fromkeys(_describe(kind)))
    if _is_empty(value) and "a path" in expected:
        expected = "a path, which an empty text is not"
    return InputError(f"{function}({name}={brief(value)}) was called; give {expected}.")


def _describe(kind: Any) -> Iterator[str]:
    """Descriptions of the types that an annotation allows."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        for each in inside:
            yield from _describe(each)
    elif origin is tuple and Ellipsis not in inside:
        yield f"{len(inside)} values in a tuple"
    elif origin in (tuple, Sequence):
        yield f"a list, each of {' or '.join(_describe(inside[0]))}"
    elif origin is Literal:
        yield from map(repr, inside)
    elif _is_path(kind):
        yield "a path"
    elif origin is Callable:
        yield "a function"
    elif kind in WORDS or kind is None:
        yield WORDS[kind or types.NoneType]
    else:
        class_name = getattr(origin or kind, "__name__", str(kind))
        yield EXAMPLES.get(class_name, f"a value of {class_name}")
