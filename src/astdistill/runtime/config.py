"""Frozen, validated records: every recipe, method and setting is one, and a variant is its difference."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, model_serializer, model_validator

from .errors import InputError, unknown

FINITE = ConfigDict(allow_inf_nan=False)
"""For records of settings, no number of which may be infinite."""
_FIRST_WRITTEN = {
    "Accept": "astdistill.methods.parts.accept:Accept",
    "LossThreshold": "astdistill.methods.parts.accept:LossThreshold",
    "Init": "astdistill.methods.parts.init:Init",
    "RealInit": "astdistill.methods.parts.init:RealInit",
    "CorrectInit": "astdistill.methods.parts.init:CorrectInit",
    "NoiseInit": "astdistill.methods.parts.init:NoiseInit",
    "FileInit": "astdistill.methods.parts.init:FileInit",
    "RepresentativeInit": "astdistill.methods.parts.init:RepresentativeInit",
    "RepresentativeInitAsReleased": "astdistill.methods.parts.init:RepresentativeInitAsReleased",
    "TargetInit": "astdistill.methods.parts.labels:TargetInit",
    "HardTargets": "astdistill.methods.parts.labels:HardTargets",
    "ExpertTargets": "astdistill.methods.parts.labels:ExpertTargets",
    "TargetTargets": "astdistill.methods.parts.labels:TargetTargets",
    "Goal": "astdistill.methods.parts.matching:Goal",
    "FinalGoal": "astdistill.methods.parts.matching:FinalGoal",
    "NearestGoal": "astdistill.methods.parts.matching:NearestGoal",
    "IntermediateGoal": "astdistill.methods.parts.matching:IntermediateGoal",
    "IntermediateGoalAsReleased": "astdistill.methods.parts.matching:IntermediateGoalAsReleased",
    "Rate": "astdistill.methods.parts.rate:Rate",
    "LogRate": "astdistill.methods.parts.rate:LogRate",
    "RawRate": "astdistill.methods.parts.rate:RawRate",
    "Sample": "astdistill.methods.parts.start:Sample",
    "UniformSample": "astdistill.methods.parts.start:UniformSample",
    "GrowingWindow": "astdistill.methods.parts.start:GrowingWindow",
    "Perturb": "astdistill.methods.parts.start:Perturb",
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

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def replace(self, **changes: Any) -> Self:
        """The same record with some fields changed, validated again."""
        known = type(self).model_fields
        wrong = [name for name in changes if name not in known]
        if wrong:
            raise InputError(f"{type(self).__name__} has no field '{wrong[0]}'; its fields are {', '.join(known)}.")
        return type(self).model_validate({name: getattr(self, name) for name in known} | changes)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary from which `model_validate` rebuilds an equal record."""
        return self.model_dump(mode="json", serialize_as_any=True)

    def digest(self) -> str:
        """Twelve hexadecimal digits that change when any field does, and not when a built-in part is renamed."""
        return digest(as_first_written(self.to_json()))


class Part(Record):
    """A record whose fields may be filled by any subclass, also one from a user's own package.

    Its JSON names the class, so that a file is read back with it: a part of this package by its name alone, wherever
    its file lies, and any other as `package.module:Class`. A name without a colon is therefore never a user's.
    """

    model_config = FINITE

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
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
        found = find_part(name)
        if not (isinstance(found, type) and issubclass(found, cls)):
            raise InputError(f"'{name}' is not a {cls.__name__}; name a subclass as 'package.module:Class'.")
        return handler(fields) if found is cls else found.model_validate(fields)


_PACKAGE = __name__.partition(".")[0]
_BUILT_IN: dict[str, type[Part]] = {}
"""The parts of this package by name; each enters itself when its class is made."""


def built_in_parts(kind: type[Part]) -> dict[str, type[Part]]:
    """The parts of this package that are a `kind`, by name."""
    return {name: part for name, part in _BUILT_IN.items() if issubclass(part, kind)}


def name_of(kind: type[Part]) -> str:
    """What files call a part: its name where it is built in, otherwise `package.module:Class`."""
    name = kind.__qualname__
    return name if _BUILT_IN.get(name) is kind else f"{kind.__module__}:{name}"


def find_part(name: str) -> Any:
    """The part of this package called `name`, today or in files of earlier versions, or what a path
    `package.module:Class` names.

    Raises InputError where there is none of that name.
    """
    found = _BUILT_IN.get(_TODAY.get(name, name))
    if found is None and name.isidentifier():
        raise unknown("part", name, _BUILT_IN, where="in this package; name one of your own as 'package.module:Class'")
    return import_name(name) if found is None else found


def as_first_written(value: Any) -> Any:
    """A JSON-ready value with every part by the name in its first files: the form whose digest outlives all
    renaming."""
    return _respelled(value, lambda name: _FIRST_WRITTEN.get(_TODAY.get(name, name), name))


def by_todays_names(value: Any) -> Any:
    """A JSON-ready value, perhaps of an earlier version, with every part by the name that it has now."""
    return _respelled(value, lambda name: _TODAY.get(name, name))


def _respelled(value: Any, spelling: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_respelled(each, spelling) for each in value]
    if not isinstance(value, dict):
        return value
    inner = {name: _respelled(each, spelling) for name, each in value.items()}
    return inner | {"part": spelling(inner["part"])} if isinstance(inner.get("part"), str) else inner


def import_name(path: str) -> Any:
    """The object at `package.module:name`. Raises InputError when it is not there."""
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for piece in name.split("."):
            found = getattr(found, piece)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"Cannot import '{path}' ({error}); write 'package.module:name' of something importable."
        ) from error
    return found


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
