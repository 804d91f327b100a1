"""Instances as the pages show them: status, the actions that it allows, how to get in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from compute.models import Instance
from compute.selectors.instances import status_of

# status -> actions that make sense; the services decide again, under the row's lock.
_ACTIONS = {
    "running": ("stop", "reboot"),
    "paused": ("stop", "reboot"),
    "crashed": ("start",),
    "stopped": ("start", "resize"),
    "suspended": ("start",),
    "error": ("start", "stop", "reboot"),
    "unknown": ("start", "stop", "reboot"),
    "stopping": (),
}


@dataclass(frozen=True, slots=True)
class Row:
    instance: Instance
    status: str
    actions: tuple[str, ...]
    address: str

    @property
    def busy(self) -> bool:
        return self.instance.open_operation_id is not None  # type: ignore[attr-defined]  # annotated by the selector

    @property
    def lease_over(self) -> bool:
        """Whether its lease has ended."""
        ends_at = self.instance.lease_ends_at
        return ends_at is not None and ends_at <= timezone.now()

    @property
    def lease_near(self) -> bool:
        """Whether its lease is to do something to it within a day."""
        ends_at, row = self.instance.lease_ends_at, self.instance
        if ends_at is None or ends_at > timezone.now() + timedelta(days=1) or row.state == "deleting":
            return False
        return row.lease_action == "delete" or row.desired_power == "running"


def row_of(instance: Instance) -> Row:
    """One row; needs an instance from `selectors.instances`, which has all of it at hand."""
    status = status_of(instance)
    ports = list(instance.ports.all())
    settled = instance.state in ("active", "error") and instance.open_operation_id is None  # type: ignore[attr-defined]
    return Row(
        instance=instance,
        status=status,
        actions=_ACTIONS.get(status, ()) if settled else (),
        address=ports[0].address if ports else "",
    )
