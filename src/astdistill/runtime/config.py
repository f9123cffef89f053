"""Frozen, validated records. Every recipe, method and setting is a record; a variant is the same record with changed
fields."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self
from weakref import WeakValueDictionary

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .errors import InputError, refused, suggestion, unknown
from .objects import path_or_url
from .trust import import_name, live

PathOrUrl = Annotated[Path, AfterValidator(path_or_url)]
"""A field that holds a path, or an address in the cloud (`objects.Url`)."""
Share = Annotated[float, Field(gt=0, lt=1)]
"""A field, or each item of one, that holds a fraction between 0 and 1, both excluded."""
FINITE = ConfigDict(allow_inf_nan=False)
"""Configuration of records of settings, whose numbers must be finite and within `SIZES`."""
SIZES = (1e-30, 1e30)
"""Smallest and largest magnitude of settings other than 0: they are used in float32, which has to hold them and their
products with the values in networks."""
_FIRST_WRITTEN = {
    "StepFilter": "astdistill.methods.parts.accept:Accept",
    "LossThreshold": "astdistill.methods.parts.accept:LossThreshold",
    "ImageInit": "astdistill.methods.parts.init:Init",
    "RealInit": "astdistill.methods.parts.init:RealInit",
    "CorrectInit": "astdistill.methods.parts.init:CorrectInit",
    "NoiseInit": "astdistill.methods.parts.init:NoiseInit",
    "FileInit": "astdistill.methods.parts.init:FileInit",
    "RepresentativeInit": "astdistill.methods.parts.init:RepresentativeInit",
    "RepresentativeInitAsReleased": "astdistill.methods.parts.init:RepresentativeInitAsReleased",
    "SyntheticLabels": "astdistill.methods.parts.labels:TargetInit",
    "HardLabels": "astdistill.methods.parts.labels:HardTargets",
    "ExpertLabels": "astdistill.methods.parts.labels:ExpertTargets",
    "SegmentLabels": "astdistill.methods.parts.labels:TargetTargets",
    "MatchingLoss": "astdistill.methods.parts.matching:Goal",
    "FinalMatchingLoss": "astdistill.methods.parts.matching:FinalGoal",
    "NearestMatchingLoss": "astdistill.methods.parts.matching:NearestGoal",
    "IntermediateMatchingLoss": "astdistill.methods.parts.matching:IntermediateGoal",
    "IntermediateMatchingLossAsReleased": "astdistill.methods.parts.matching:IntermediateGoalAsReleased",
    "SyntheticLr": "astdistill.methods.parts.rate:Rate",
    "LogSyntheticLr": "astdistill.methods.parts.rate:LogRate",
    "RawSyntheticLr": "astdistill.methods.parts.rate:RawRate",
    "SegmentSampler": "astdistill.methods.parts.start:Sample",
    "UniformSampler": "astdistill.methods.parts.start:UniformSample",
    "GrowingWindow": "astdistill.methods.parts.start:GrowingWindow",
    "Perturbation": "astdistill.methods.parts.start:Perturb",
    "WeightPerturbation": "astdistill.methods.parts.start:WeightPerturbation",
    "WeightPerturbationAsReleased": "astdistill.methods.parts.start:WeightPerturbationAsReleased",
    "InnerWeight": "astdistill.methods.parts.start:InnerWeight",
    "BalancedWeight": "astdistill.methods.parts.start:BalancedWeight",
    "BalancedWeightAsReleased": "astdistill.methods.parts.start:BalancedWeightAsReleased",
    "Backprop": "astdistill.unroll.backprop:Backprop",
    "Estimator": "astdistill.unroll.estimator:Estimator",
    "FirstOrder": "astdistill.unroll.first_order:FirstOrder",
    "Recompute": "astdistill.unroll.recompute:Recompute",
    "Truncated": "astdistill.unroll.truncated:Truncated",
}
"""Built-in parts by their current name, with their name in the first files, if that is another one.

Saved runs are identified by digests of the first names, so nothing on the right ever changes. A new part needs no
entry. A renamed part needs its new name on the left; if it has no entry yet, add one with its old name on the right.
"""
_CURRENT_NAMES = {old: name for name, first in _FIRST_WRITTEN.items() for old in (first, first.rpartition(":")[2])}


class _RecordType(type(BaseModel)):
    """The type of the classes of records, whose calls raise InputError.

    pydantic itself calls no class: errors in nested records keep their place, which names the flag on the command line.
    """

    __hash__ = type.__hash__  # as it is anyway; type checkers do not see it in a computed base

    if not TYPE_CHECKING:  # type checkers read the fields as the signature

        def __call__(cls, *arguments: Any, **fields: Any) -> Any:
            with _in_one_sentence(cls):
                return super().__call__(*arguments, **fields)


@contextmanager
def _in_one_sentence(kind: type[BaseModel]) -> Iterator[None]:
    """Raise InputError for the first thing that pydantic refuses in a record of that kind."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            raise _no_field(kind, str(first["loc"][0])) from None
        raise refused(error, kind.__name__) from None


def _no_field(kind: type[BaseModel], name: str) -> InputError:
    fields = [*kind.model_fields]
    return InputError(
        f"{kind.__name__} has no field '{name}'.{suggestion(name, fields)} Its fields: {', '.join(fields) or 'none'}."
    )


class Record(BaseModel, metaclass=_RecordType):
    """A frozen pydantic model that refuses unknown fields, with an InputError where it is made in Python."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    renamed: ClassVar[Mapping[str, str]] = {}
    """Fields that had another name in earlier versions: old name → today's. Old names are read as today's, and digests
    are made with the first one, so that a new name makes no other record. The first of several old names is listed
    first."""
    gone: ClassVar[Mapping[str, str]] = {}
    """Fields that another record has now: old name → how it is written today. They are refused with that."""

    @model_validator(mode="before")
    @classmethod
    def _translate_fields(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return cls._read(data)

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Translate fields to their current names. Raises InputError for fields that have moved to another record."""
        for name in cls.gone.keys() & data.keys():
            raise InputError(f"{cls.__name__} no longer has '{name}'; give {cls.gone[name]} in its place.")
        return _rename_keys(data, renamed_fields(cls))

    @field_validator("*", mode="after")
    @classmethod
    def _check_size(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse numbers that no saved file can hold, and numbers in settings that float32 would round to 0 or to
        infinity."""
        power = 63 + ("seed" in (info.field_name or ""))  # integers have 64 bits in JSON, 63 in torch's counts
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, int) and not -(2**63) <= each < 2**power:
                raise PydanticCustomError("size", "choose a whole number below 2^{power}", {"power": power})
        if not isinstance(value, float) or not value or cls.model_config.get("allow_inf_nan", True):
            return value
        if not SIZES[0] <= abs(value) <= SIZES[1]:
            raise PydanticCustomError("size", "choose one of a magnitude from 1e-30 to 1e30")
        return value

    def unread(self) -> tuple[str, ...]:
        """Names of the fields that have no effect, given the values of the others; dotted names for fields of nested
        records. The user is warned when one of them is given."""
        return ()

    def replace(self, **changes: Any) -> Self:
        """The same record with some fields changed, validated again. Raises InputError for fields and values that it
        does not have."""
        with _in_one_sentence(type(self)):
            return self.changed(**changes)

    def changed(self, **changes: Any) -> Self:
        """The result of `replace`, with pydantic's ValidationError for invalid values, which has their place."""
        fields, changes = type(self).model_fields, self._read(changes)
        for name in changes:
            if name not in fields:
                raise _no_field(type(self), name)
        return type(self).model_validate({name: getattr(self, name) for name in fields} | changes)

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            with _in_one_sentence(type(self)):
                super().__setattr__(name, value)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary from which `model_validate` rebuilds an equal record."""
        return self.model_dump(mode="json", serialize_as_any=True)

    def first_written(self) -> dict[str, Any]:
        """The result of `to_json`, with every part and every renamed field by its first name: the digest of this form
        does not change when something is renamed."""
        return as_first_written(_with_first_field_names(self, self.to_json()))

    def digest(self) -> str:
        """Twelve hexadecimal digits that change when any field does, and not when a built-in part or a field is
        renamed."""
        return digest(self.first_written())


def explained(kind: type[Record], field: str) -> str:
    """The docstring below a field in the source of its class, or of the base class that has one if only the default is
    overridden; '' if there is none, or no source.

    pydantic can read these texts when a class is defined, but that takes a third of the import time of the package, and
    only the help needs them.
    """
    texts = (
        _field_docstrings(each).get(field, "")
        for each in kind.__mro__
        if field in vars(each).get("__annotations__", {})
    )
    return next(filter(None, texts), "")


@cache
def _field_docstrings(kind: type) -> dict[str, str]:
    """The docstrings below the fields of a class, without those of its base classes."""
    try:
        source = dedent(inspect.getsource(kind))
    except (OSError, TypeError):  # defined in an interactive session
        return {}
    tree = ast.parse(source).body[0]
    texts = {}
    for field, following in pairwise(getattr(tree, "body", ())):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(following, ast.Expr):
            text = getattr(following.value, "value", None)
            if isinstance(text, str):
                texts[field.target.id] = inspect.cleandoc(text)
    return texts


class Component(Record):
    """A record that, as the type of a field, accepts any subclass, including one from a user's package.

    Its JSON names the class, so that a file is read back with it: a part of this package by its name alone, in whatever
    module it is defined, and any other as `package.module:Class`. A name without a colon is therefore never a user's.
    """

    model_config = FINITE

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        _DEFINED[f"{cls.__module__}:{cls.__qualname__}"] = cls
        if cls.__module__.partition(".")[0] != _PACKAGE or "<locals>" in cls.__qualname__:
            return
        name, other = cls.__qualname__, _BUILT_IN.get(cls.__qualname__, cls)
        if other.__module__ != cls.__module__:
            raise TypeError(f"{cls.__module__} and {other.__module__} both have a part '{name}'; call one otherwise.")
        _BUILT_IN[name] = cls

    @model_serializer(mode="wrap")
    def _with_name(self, handler: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        return {"part": name_of(type(self)), **handler(self)}

    @model_validator(mode="wrap")
    @classmethod
    def _by_name(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping) or "part" not in data:
            return handler(data)
        fields = dict(data)
        name = str(fields.pop("part"))
        kind = find_component(name)
        if not (isinstance(kind, type) and issubclass(kind, cls)):
            raise InputError(f"'{name}' is not a {cls.__name__}; name a subclass as 'package.module:Class'.")
        if kind is cls:
            return handler(fields)
        return kind.model_validate(fields)


_PACKAGE = __name__.partition(".")[0]
_BUILT_IN: dict[str, type[Component]] = {}
"""The parts of this package by name; each class registers itself when it is defined."""
_DEFINED: WeakValueDictionary[str, type[Component]] = WeakValueDictionary()
"""Every part that is defined in this process, including those of users, by its name in files."""


def built_in_components(kind: type[Component]) -> dict[str, type[Component]]:
    """The parts of this package that are a `kind`, by name."""
    return {name: part for name, part in _BUILT_IN.items() if issubclass(part, kind)}


def name_of(kind: type[Component]) -> str:
    """The name of a part in files: the class name for a built-in part, otherwise `package.module:Class`."""
    name = kind.__qualname__
    if _BUILT_IN.get(name) is kind:
        return name
    return f"{kind.__module__}:{name}"


def find_component(name: str) -> Any:
    """The built-in part called `name`, now or in files of earlier versions, or the object at `package.module:Class`.

    Raises InputError if there is none of that name, and if finding it would import a module that only a file names.
    """
    component = _BUILT_IN.get(todays_name(name)) or _DEFINED.get(name)
    if component is not None:
        return component
    if name.isidentifier():
        raise unknown(
            "part", name, _BUILT_IN, context="in this package; name one of your own as 'package.module:Class'"
        )
    if name.startswith(f"{_PACKAGE}."):  # a file never causes an import of it; the caller checks the type
        component = live(name)
    if component is None:
        component = import_name(name)
    return component


def todays_name(name: str) -> str:
    """The current name of a part, given its current name or one from files of earlier versions."""
    return _CURRENT_NAMES.get(name, name)


def as_first_written(value: Any) -> Any:
    """A JSON-ready value with every part by its name in the first files: the digest of this form does not change when a
    part is renamed."""
    return _rename_parts(value, lambda name: _FIRST_WRITTEN.get(todays_name(name), name))


def by_todays_names(value: Any) -> Any:
    """A JSON-ready value, possibly of an earlier version, with every part by its current name."""
    return _rename_parts(value, todays_name)


def _rename_parts(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_rename_parts(each, rename) for each in value]
    if not isinstance(value, dict):
        return value
    inner = {name: _rename_parts(each, rename) for name, each in value.items()}
    if isinstance(inner.get("part"), str):
        inner["part"] = rename(inner["part"])
    return inner


def renamed_fields(kind: type[Record]) -> dict[str, str]:
    """Old names of the fields of a record, mapped to the current ones; those of its base classes included."""
    tables = (vars(base).get("renamed", {}) for base in reversed(kind.__mro__))
    return {old: new for table in tables for old, new in table.items()}


def _rename_keys(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`data` with the keys in `names` replaced. Raises InputError if a value is given under both names."""
    for old, new in names.items():
        if old in data and new in data:
            raise InputError(f"'{old}' is now called '{new}', and both are given; leave out '{old}'.")
    return {names.get(name, name): value for name, value in data.items()}


def _with_first_field_names(value: Any, dumped: Any) -> Any:
    """`dumped`, the JSON of `value`, with the renamed fields of every record in it by their first names."""
    if isinstance(value, Record) and isinstance(dumped, dict):
        first = {new: old for old, new in reversed(renamed_fields(type(value)).items())}
        return {
            first.get(name, name): _with_first_field_names(getattr(value, name, None), inner)
            for name, inner in dumped.items()
        }
    if isinstance(value, tuple | list) and isinstance(dumped, list):
        return [_with_first_field_names(each, inner) for each, inner in zip(value, dumped, strict=True)]
    if isinstance(value, Mapping) and isinstance(dumped, dict):
        return {name: _with_first_field_names(value.get(name), inner) for name, inner in dumped.items()}
    return dumped


def moved(tree: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """A copy of a nested dictionary with values moved according to `table`: dotted path → dotted path.

    The input is not changed. Raises InputError if both paths have a value.
    """
    changed, used = dict(tree), set()
    for old, new in table.items():
        value = _pop(changed, old.split("."))
        if value is _ABSENT:
            continue
        if new in used or _has_value(tree, new.split(".")):
            raise InputError(f"'{old}' is now called '{new}', and both are given; leave out '{old}'.")
        _put(changed, new.split("."), value)
        used.add(new)
    return changed


_ABSENT = object()


def _pop(tree: dict[str, Any], path: list[str]) -> Any:
    """Remove the value at `path` and return it; dictionaries along the path are copied first."""
    for name in path[:-1]:
        if not isinstance(tree.get(name), Mapping):
            return _ABSENT
        tree[name] = tree = dict(tree[name])
    return tree.pop(path[-1], _ABSENT)


def _has_value(tree: Any, path: list[str]) -> bool:
    """Whether there is a value at `path`; values inside a record along the path do not count."""
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return False
        tree = tree[name]
    return True


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value at `path`; a record along the path becomes a dictionary of its values."""
    for name in path[:-1]:
        inner = tree.get(name, {})
        if isinstance(inner, Record):
            inner = inner.to_json()
        tree[name] = tree = dict(inner or {})
    tree[path[-1]] = value


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
