"""Shapes of what people type, checked in one place for every door."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from tenants.errors import InvalidInput

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_TAG_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,62})")
USER_DATA_LIMIT = 65_535


def check_name(name: Any, *, pointer: str = "/name") -> str:
    """Return a name that can be a guest's host name (RFC 1123: lower-case letters, digits, inner hyphens, up to 63)."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput.field(
            pointer,
            "invalid_name",
            "A name is 1 to 63 lower-case letters, digits and hyphens, and begins and ends with a letter or digit.",
        )
    return name


def check_tags(tags: Any) -> dict[str, str]:
    """Return tags: at most 32, keys up to 63 characters, values up to 255 without control characters."""
    if not isinstance(tags, dict) or len(tags) > 32:
        raise InvalidInput.field("/tags", "invalid_tags", "Tags are an object of at most 32 texts.")
    for key, value in tags.items():
        if not isinstance(key, str) or not _TAG_KEY.fullmatch(key):
            raise InvalidInput.field(
                "/tags", "invalid_tags", "A tag's key is up to 63 letters, digits, dots, slashes, hyphens."
            )
        if not isinstance(value, str) or len(value) > 255 or has_control(value):
            raise InvalidInput.field(f"/tags/{key}", "invalid_tags", "A tag's value is text of up to 255 characters.")
    return tags


def check_user_data(text: Any) -> str:
    """Return cloud-init user data: text of at most 64 KiB, line breaks and tabs being the only control characters."""
    if not isinstance(text, str) or len(text.encode()) > USER_DATA_LIMIT or has_control(text, allowed="\n\r\t"):
        raise InvalidInput.field("/user_data", "invalid_user_data", "User data is text of at most 65,535 bytes.")
    return text


def has_control(text: str, *, allowed: str = "") -> bool:
    """Return whether text holds control characters, lone surrogates or the like, beyond the allowed ones."""
    return any(unicodedata.category(char) in ("Cc", "Cs", "Co", "Cn") and char not in allowed for char in text)
