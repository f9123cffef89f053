"""Frozen, validated records: every recipe, method and setting is one, and a variant is its difference."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, model_serializer, model_validator

from .errors import InputError

FINITE = ConfigDict(allow_inf_nan=False)
"""For records of settings, no number of which may be infinite."""


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
        """Twelve hexadecimal digits that change when any field does."""
        return digest(self.to_json())


class Part(Record):
    """A record whose fields may be filled by any subclass, also one from a user's own package.

    Its JSON names the class by import path, so a file written with a user's part is read back with it.
    """

    model_config = FINITE

    @model_serializer(mode="wrap")
    def _with_import_path(self, handler: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        return {"part": f"{type(self).__module__}:{type(self).__qualname__}", **handler(self)}

    @model_validator(mode="wrap")
    @classmethod
    def _by_import_path(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping) or "part" not in data:
            return handler(data)
        fields = dict(data)
        found = import_name(str(fields.pop("part")))
        if not (isinstance(found, type) and issubclass(found, cls)):
            raise InputError(f"'{data['part']}' is not a {cls.__name__}; name a subclass as 'package.module:Class'.")
        return handler(fields) if found is cls else found.model_validate(fields)


def import_name(path: str) -> Any:
    """The object at `package.module:name`. Raises InputError when it is not there."""
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for piece in name.split("."):
            found = getattr(found, piece)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"Cannot import '{path}' ({error}); write 'package.module:name' of something importable.") from error
    return found


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
