"""Leases as the forms offer them: a few lengths, and what happens then."""

from __future__ import annotations

from typing import Final

from compute.services.lease_terms import LeaseAsk
from tenants.errors import InvalidInput

# Seconds, as a form sends them -> what people read.
LENGTHS: Final = {
    "3600": "1 hour",
    "28800": "8 hours",
    "86400": "1 day",
    "604800": "7 days",
    "2592000": "30 days",
}


def read_lease(length: str, action: str) -> LeaseAsk | None:
    """Return the lease that a form asks for; "": for ever. Raises InvalidInput for what no form offers."""
    if not length:
        return None
    if length not in LENGTHS:
        raise InvalidInput.field("/lease", "invalid_choice", "Choose one of the lengths.")
    return LeaseAsk(seconds=int(length), action=action)
