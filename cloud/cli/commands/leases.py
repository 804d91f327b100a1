"""Leases as people type them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

from cloud.cli.errors import USAGE, CliError

_LENGTH: Final = re.compile(r"(?:(\d{1,9})w)?(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
_SECONDS: Final = (604_800, 86_400, 3600, 60, 1)


def read_lease(text: str, action: str | None) -> dict[str, Any]:
    """Return a lease for a body, of `8h`, `1d12h`, or a time with its zone. Raises CliError."""
    lease: dict[str, Any] = {} if action is None else {"action": action}
    length = _LENGTH.fullmatch(text)
    if text and length:
        parts = [int(part or 0) for part in length.groups()]
        return lease | {"seconds": sum(number * size for number, size in zip(parts, _SECONDS, strict=True))}
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise CliError(
            f"a lease is a length, as 90m, 8h or 1d12h, or a time, as 2030-01-31T12:00:00Z; not {text}", USAGE
        )
    return lease | {"ends_at": moment.isoformat()}
