"""Leases as they are asked for: how long, and what happens then."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from compute.errors import InvalidState
from compute.models import Instance
from compute.outbox import database_now
from tenants.errors import InvalidInput
from tenants.models import Tenant
from tenants.services.access import Actor, authorize

LEAST_SECONDS: Final = 60
MOST_SECONDS: Final = 10 * 365 * 86_400
ACTIONS: Final = ("stop", "delete")


@dataclass(frozen=True, slots=True)
class LeaseAsk:
    """A lease as somebody wants it: `seconds` from now, or until `ends_at`, which has its zone; one of the two.

    `action`: "stop" or "delete"; "": what the present lease does, and "stop" where there is none.
    """

    seconds: int | None = None
    ends_at: datetime | None = None
    action: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it is kept. `ends_at` None: for ever, with `action` ""."""

    ends_at: datetime | None = None
    action: str = ""

    @classmethod
    def of(cls, instance: Instance) -> Lease:
        """Return the lease that the instance has."""
        return cls(instance.lease_ends_at, instance.lease_action)

    def told(self) -> dict[str, Any] | None:
        """Return it as JSON data, for the audit trail; None: for ever."""
        return None if self.ends_at is None else {"ends_at": self.ends_at.isoformat(), "action": self.action}


def take_lease(
    *, actor: Actor, tenant: Tenant | uuid.UUID, asked: LeaseAsk | None, present: Lease | None = None
) -> Lease:
    """Return the lease that is asked for, counted by the database's clock; the actor may do itself what it is to do.

    Raises InvalidInput where it is too short or too long, or not told how long; PermissionDenied, NotFound.
    """
    if asked is None:
        return Lease()
    if (asked.seconds is None) == (asked.ends_at is None):
        raise InvalidInput.field("/lease", "one_of", "A lease has either seconds or ends_at.")
    action = asked.action or (present.action if present else "") or "stop"
    if action not in ACTIONS:
        raise InvalidInput.field("/lease/action", "invalid_choice", "When a lease ends: stop or delete.")
    now = database_now()
    if asked.seconds is not None:
        if not LEAST_SECONDS <= asked.seconds <= MOST_SECONDS:
            raise InvalidInput.field("/lease/seconds", "out_of_range", _RANGE)
        ends_at = now + timedelta(seconds=asked.seconds)
    else:
        assert asked.ends_at is not None
        ends_at = asked.ends_at
        if not LEAST_SECONDS <= (ends_at - now).total_seconds() <= MOST_SECONDS:
            raise InvalidInput.field("/lease/ends_at", "out_of_range", _RANGE)
    authorize(actor, f"instance.{action}", tenant)
    return Lease(ends_at, action)


def check_lease_runs(instance: Instance) -> None:
    """Raise InvalidState where the instance's lease has ended: what is started then would be stopped at once."""
    if instance.lease_ends_at is None or instance.lease_ends_at > database_now():
        return
    fate = "it is going to be deleted" if instance.lease_action == "delete" else "it stays stopped"
    raise InvalidState(
        f"The lease of {instance.name} has ended, and {fate}. Give it another lease, or none, first.",
        state="lease ended",
    )


_RANGE: Final = (
    f"A lease ends in {LEAST_SECONDS} seconds at the earliest, and in 10 years ({MOST_SECONDS} s) at the latest."
)
