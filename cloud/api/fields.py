"""Serializer fields that take JSON at its word: "1" is no number, 1 is no text, and an unknown field is an error."""

from __future__ import annotations

import functools
import unicodedata
import uuid
from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

LINE_BREAKS = "\n\r\t"


class Text(serializers.CharField):
    """A JSON text without control characters. `multiline` allows line breaks and tabs; nothing is trimmed."""

    default_error_messages = {"invalid": "This has to be a text.", "control": "Control characters are not allowed."}

    def __init__(self, *, multiline: bool = False, **kwargs: Any) -> None:
        kwargs.setdefault("trim_whitespace", False)
        kwargs.setdefault("max_length", 255)
        self.allowed = LINE_BREAKS if multiline else ""
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        if any(unicodedata.category(char) in ("Cc", "Cs") and char not in self.allowed for char in data):
            self.fail("control")
        return super().to_internal_value(data)


class Whole(serializers.IntegerField):
    """A JSON whole number; neither a text, nor a fraction, nor true. At most 2^53, exact in every JSON reader."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("min_value", 0)
        kwargs.setdefault("max_value", 2**53)
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return super().to_internal_value(data)


class Number(serializers.FloatField):
    """A JSON number, finite."""

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float) or data != data or abs(data) > 1e15:
            self.fail("invalid")
        return super().to_internal_value(data)


class Flag(serializers.BooleanField):
    """JSON true or false, nothing that merely looks like it."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class Moment(serializers.DateTimeField):
    """An RFC 3339 time with its zone."""

    default_error_messages = {"naive": "The time needs a zone, for example 2030-01-01T00:00:00Z."}

    def to_internal_value(self, value: Any) -> Any:
        if not isinstance(value, str):
            self.fail("invalid", format="RFC 3339")
        return super().to_internal_value(value)

    def enforce_timezone(self, value: Any) -> Any:
        if value.tzinfo is None:
            self.fail("naive")
        return super().enforce_timezone(value)


class Identifier(serializers.UUIDField):
    """A UUID in its usual form."""

    def to_internal_value(self, data: Any) -> uuid.UUID:
        if not isinstance(data, str):
            self.fail("invalid", value=data)
        return super().to_internal_value(data)


class Choice(serializers.ChoiceField):
    """One of some texts."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            self.fail("invalid_choice", input=data)
        return super().to_internal_value(data)


class StrictSerializer(serializers.Serializer[Any]):
    """What a caller sends. Unknown fields are named and refused."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = sorted(str(name) for name in set(data) - set(self.fields))
            if unknown:
                raise serializers.ValidationError(
                    {
                        name[:64]: [serializers.ErrorDetail("There is no such field.", code="unknown_field")]
                        for name in unknown[:10]
                    }
                )
        return super().to_internal_value(data)


# One object, whatever the method that answers it is called: the framework would take each `list` for an array.
@extend_schema_serializer(many=False)
class Answer(serializers.Serializer[Any]):
    """What is sent back. Fields named in `operator_only` are left out unless a cloud operator asks."""

    operator_only: tuple[str, ...] = ()

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        for name in self.operator_only:
            if self.context.get("is_operator", True):  # the schema, which has no context, tells of them
                fields[name].required = False
            else:
                del fields[name]  # not even read: it may cost a query
        return fields

    def to_representation(self, instance: Any) -> Any:
        shown = super().to_representation(instance)
        if not self.context.get("is_operator", False):
            for name in self.operator_only:
                shown.pop(name, None)
        return shown


@functools.cache
def _renderer(answer: type[Answer], is_operator: bool) -> Answer:
    # Building a serializer copies all of its fields, which costs more than a row; afterwards it is only read.
    return answer(context={"is_operator": is_operator})


def render(answer: type[Answer], row: Any, *, is_operator: bool) -> dict[str, Any]:
    """A row as JSON data, as this kind of caller may see it."""
    shown: dict[str, Any] = _renderer(answer, is_operator).to_representation(row)
    return shown
