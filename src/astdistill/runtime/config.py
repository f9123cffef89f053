"""Frozen, validated records: every recipe, method and setting is one, and a variant is its difference."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any, ClassVar, Self
from weakref import WeakValueDictionary

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .errors import InputError, unknown
from .objects import place
from .trust import import_name, live

PathOrUrl = Annotated[Path, AfterValidator(place)]
"""A field that holds a path, or an address in the cloud (`objects.Url`)."""
Share = Annotated[float, Field(gt=0, lt=1)]
"""A field, or each item of one, that holds a share of a whole."""
FINITE = ConfigDict(allow_inf_nan=False)
"""For records of settings, no number of which may be infinite, nor beyond `SIZES`."""
SIZES = (1e-30, 1e30)
"""Of numbers in settings other than 0: float32, in which they are used, has room for these and for their products with
what networks have."""
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
"""Built-in parts by the name of today, with the one that the first files have, where it is another.

Saved runs are told apart by digests of the first names, so nothing on the right ever changes. A new part needs no line.
One that is renamed needs its new name on the left; one without a line gets one, with its old name on the right.
"""
_TODAY = {old: name for name, first in _FIRST_WRITTEN.items() for old in (first, first.rpartition(":")[2])}


class Record(BaseModel):
    """A frozen pydantic model that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    renamed: ClassVar[Mapping[str, str]] = {}
    """Fields that had another name in earlier versions: old name → today's. Old names are read as today's, and digests
    are made with the first one, so that a new name makes no other record. The first of several old names is listed
    first."""
    gone: ClassVar[Mapping[str, str]] = {}
    """Fields that another record has now: old name → how it is written today. They are refused with that."""

    @model_validator(mode="before")
    @classmethod
    def _by_todays_fields(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return cls._read(data)

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Values by the fields of today. Raises InputError for those that another record has now."""
        for name in cls.gone.keys() & data.keys():
            raise InputError(f"{cls.__name__} no longer has '{name}'; give {cls.gone[name]} in its place.")
        return _with_keys(data, renamed_fields(cls))

    @field_validator("*", mode="after")
    @classmethod
    def _of_a_size(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse numbers that no saved file could hold, and those of settings that float32 would take for 0 or for
        infinity."""
        power = 63 + ("seed" in (info.field_name or ""))  # JSON has 64 bits, torch's counts 63
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, int) and not -(2**63) <= each < 2**power:
                raise PydanticCustomError("size", "choose a whole number below 2^{power}", {"power": power})
        if not isinstance(value, float) or not value or cls.model_config.get("allow_inf_nan", True):
            return value
        if not SIZES[0] <= abs(value) <= SIZES[1]:
            raise PydanticCustomError("size", "choose one of a size from 1e-30 to 1e30")
        return value

    def unread(self) -> tuple[str, ...]:
        """Fields that have no effect, given the values of the others, by name; inside a record that is a field, by
        dotted name. A person who gives one is told so."""
        return ()

    def replace(self, **changes: Any) -> Self:
        """The same record with some fields changed, validated again."""
        known, changes = type(self).model_fields, self._read(changes)
        wrong = [name for name in changes if name not in known]
        if wrong:
            raise InputError(f"{type(self).__name__} has no field '{wrong[0]}'; its fields are {', '.join(known)}.")
        return type(self).model_validate({name: getattr(self, name) for name in known} | changes)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary from which `model_validate` rebuilds an equal record."""
        return self.model_dump(mode="json", serialize_as_any=True)

    def first_written(self) -> dict[str, Any]:
        """What `to_json` gives, with every part and every renamed field by its first name: the form whose digest
        outlives all renaming."""
        return as_first_written(_by_first_fields(self, self.to_json()))

    def digest(self) -> str:
        """Twelve hexadecimal digits that change when any field does, and not when a built-in part or a field is
        renamed."""
        return digest(self.first_written())


def explained(kind: type[Record], field: str) -> str:
    """The text below a field in the source of its class, or of the base class that has one where only the default is
    another; '' where there is none, or no source.

    pydantic reads these texts of every class when it is made, which is a third of the time that the package takes to
    import; help alone wants them.
    """
    texts = (_texts(each).get(field, "") for each in kind.__mro__ if field in vars(each).get("__annotations__", {}))
    return next(filter(None, texts), "")


@cache
def _texts(kind: type) -> dict[str, str]:
    """The texts below the fields of a class, without those of its base classes."""
    try:
        source = dedent(inspect.getsource(kind))
    except (OSError, TypeError):  # typed into Python itself
        return {}
    tree = ast.parse(source).body[0]
    found = {}
    for field, below in pairwise(getattr(tree, "body", ())):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = getattr(below.value, "value", None)
            if isinstance(text, str):
                found[field.target.id] = inspect.cleandoc(text)
    return found


class Component(Record):
    """A record whose fields may be filled by any subclass, also one from a user's own package.

    Its JSON names the class, so that a file is read back with it: a part of this package by its name alone, wherever
    its file lies, and any other as `package.module:Class`. A name without a colon is therefore never a user's.
    """

    model_config = FINITE

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        _LIVE[f"{cls.__module__}:{cls.__qualname__}"] = cls
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
"""The parts of this package by name; each enters itself when its class is made."""
_LIVE: WeakValueDictionary[str, type[Component]] = WeakValueDictionary()
"""Every part that this process has, also a user's own, by the name that files give it."""


def built_in_components(kind: type[Component]) -> dict[str, type[Component]]:
    """The parts of this package that are a `kind`, by name."""
    return {name: part for name, part in _BUILT_IN.items() if issubclass(part, kind)}


def name_of(kind: type[Component]) -> str:
    """What files call a part: its name where it is built in, otherwise `package.module:Class`."""
    name = kind.__qualname__
    if _BUILT_IN.get(name) is kind:
        return name
    return f"{kind.__module__}:{name}"


def find_component(name: str) -> Any:
    """The part of this package called `name`, today or in files of earlier versions, or what a path
    `package.module:Class` names.

    Raises InputError where there is none of that name, and where finding it would import what only a file names.
    """
    component = _BUILT_IN.get(todays_name(name)) or _LIVE.get(name)
    if component is not None:
        return component
    if name.isidentifier():
        raise unknown("part", name, _BUILT_IN, where="in this package; name one of your own as 'package.module:Class'")
    if name.startswith(f"{_PACKAGE}."):  # nothing of it is imported for a file's sake; the caller sees to its kind
        component = live(name)
    if component is None:
        component = import_name(name)
    return component


def todays_name(name: str) -> str:
    """What a part is called now, by its name now or in files of earlier versions."""
    return _TODAY.get(name, name)


def as_first_written(value: Any) -> Any:
    """A JSON-ready value with every part by the name in its first files: the form whose digest outlives all
    renaming."""
    return _respelled(value, lambda name: _FIRST_WRITTEN.get(todays_name(name), name))


def by_todays_names(value: Any) -> Any:
    """A JSON-ready value, perhaps of an earlier version, with every part by the name that it has now."""
    return _respelled(value, todays_name)


def _respelled(value: Any, spelling: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_respelled(each, spelling) for each in value]
    if not isinstance(value, dict):
        return value
    inner = {name: _respelled(each, spelling) for name, each in value.items()}
    if isinstance(inner.get("part"), str):
        inner["part"] = spelling(inner["part"])
    return inner


def renamed_fields(kind: type[Record]) -> dict[str, str]:
    """Old names of fields of a record with today's, those of its base classes included."""
    tables = (vars(base).get("renamed", {}) for base in reversed(kind.__mro__))
    return {old: new for table in tables for old, new in table.items()}


def _with_keys(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`data` with the keys in `names` replaced. Raises InputError where a value is given by both."""
    for old, new in names.items():
        if old in data and new in data:
            raise InputError(f"'{old}' is now called '{new}', and both are given; leave out '{old}'.")
    return {names.get(name, name): value for name, value in data.items()}


def _by_first_fields(value: Any, shown: Any) -> Any:
    """`shown`, the JSON of `value`, with the renamed fields of every record in it by their first names."""
    if isinstance(value, Record) and isinstance(shown, dict):
        first = {new: old for old, new in reversed(renamed_fields(type(value)).items())}
        return {
            first.get(name, name): _by_first_fields(getattr(value, name, None), inner) for name, inner in shown.items()
        }
    if isinstance(value, tuple | list) and isinstance(shown, list):
        return [_by_first_fields(each, inner) for each, inner in zip(value, shown, strict=True)]
    if isinstance(value, Mapping) and isinstance(shown, dict):
        return {name: _by_first_fields(value.get(name), inner) for name, inner in shown.items()}
    return shown


def moved(tree: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """A nested dictionary with each value that `table` names put elsewhere: dotted path → dotted path.

    Nothing given is changed. Raises InputError where both places have a value.
    """
    changed, placed = dict(tree), set()
    for old, new in table.items():
        value = _taken(changed, old.split("."))
        if value is _ABSENT:
            continue
        if new in placed or _given(tree, new.split(".")):
            raise InputError(f"'{old}' is now called '{new}', and both are given; leave out '{old}'.")
        _put(changed, new.split("."), value)
        placed.add(new)
    return changed


_ABSENT = object()


def _taken(tree: dict[str, Any], path: list[str]) -> Any:
    """The value at `path`, which it no longer has afterwards; dictionaries on the way are copied first."""
    for name in path[:-1]:
        if not isinstance(tree.get(name), Mapping):
            return _ABSENT
        tree[name] = tree = dict(tree[name])
    return tree.pop(path[-1], _ABSENT)


def _given(tree: Any, path: list[str]) -> bool:
    """Whether there is a value at `path`; those of a record on the way are not counted as given."""
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return False
        tree = tree[name]
    return True


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value at `path`; a record on the way becomes a dictionary of its values."""
    for name in path[:-1]:
        inner = tree.get(name, {})
        if isinstance(inner, Record):
            inner = inner.to_json()
        tree[name] = tree = dict(inner or {})
    tree[path[-1]] = value


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
