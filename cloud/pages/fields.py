"""Forms: values as typed, and errors beside the fields they are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tenants.errors import DomainError, InvalidInput


@dataclass(slots=True)
class Form:
    """What a form shows: `values` by field, `errors` by field (sentences), `refusal` for what is about no single field."""

    values: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)
    refusal: DomainError | None = None

    def refuse(self, error: DomainError, *, fields: Mapping[str, str] | None = None) -> None:
        """Take an error of a service. `fields` maps other names, or whole codes, to the form's own fields.

        A pointer "/keypairs/0" belongs to the field "keypairs"; what fits no field on the form becomes the notice.
        """
        names = dict(fields or {})
        left = False
        for fault in error.errors if isinstance(error, InvalidInput) else []:
            name = fault["pointer"].strip("/").split("/")[0]
            name = names.get(name, name)
            if name in self.values:
                self.errors.setdefault(name, []).append(fault["detail"])
            else:
                left = True
        if error.code in names:
            self.errors.setdefault(names[error.code], []).append(error.detail)
        elif left or not self.errors:
            self.refusal = error


def whole_number(text: str) -> int:
    """Return a whole number as typed, or raise InvalidInput-ready ValueError; digits only, so "1e3" and "٣" are refused."""
    if not text.isascii() or not text.isdecimal() or len(text) > 16:
        raise ValueError(text)
    return int(text)
