"""What stands in a path: a name or an id."""

from __future__ import annotations

import uuid

from tenants.errors import NotFound


def as_uuid(text: str) -> uuid.UUID:
    """A UUID in its usual form. Raises NotFound: a malformed id is the id of nothing."""
    try:
        found = uuid.UUID(text)
    except ValueError:
        raise NotFound from None
    if str(found) != text.lower():
        raise NotFound
    return found


def as_reference(text: str) -> str:
    """A name or id as it may be looked up. Raises NotFound for what no name can be (PostgreSQL knows no NUL)."""
    if not text.isprintable() or len(text) > 255:
        raise NotFound
    return text
