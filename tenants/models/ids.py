"""Primary keys. Version 7 UUIDs sort by age, so indexes grow at one end and cursors page in order of age."""

from __future__ import annotations

from uuid import UUID

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    """A fresh version 7 UUID, as the standard library's type."""
    return uuid7()
