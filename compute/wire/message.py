"""The base of all wire types: frozen dataclasses to plain JSON and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, Self

WIRE_VERSION = 1


class WireError(ValueError):
    """A message that cannot be read: unknown version, missing field, wrong type."""


class Message:
    """Base of all wire types: `to_json` and `from_json` between dataclass and plain JSON data."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data (dict, list, str, int, float, bool, None)."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `to_json` wrote. Raises WireError when a field is missing or has the wrong type."""
        if not isinstance(data, dict):
            raise WireError(f"{cls.__name__}: expected an object, got {type(data).__name__}")
        hints = typing.get_type_hints(cls)
        values = {}
        for item in dataclasses.fields(cls):  # type: ignore[arg-type]
            if item.name in data:
                values[item.name] = _read(hints[item.name], data[item.name], f"{cls.__name__}.{item.name}")
        try:
            return cls(**values)
        except TypeError as error:
            raise WireError(f"{cls.__name__}: {error}") from None


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _read(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise WireError(f"{where}: {value!r} is none of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise WireError(f"{where}: expected a list")
        return tuple(_read(args[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise WireError(f"{where}: expected an object")
        return {str(key): _read(args[1], item, where) for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Message):
        return hint.from_json(value)
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise WireError(f"{where}: expected {hint.__name__}, got {type(value).__name__}")
    return value
