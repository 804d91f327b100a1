"""Taking and giving back room on hosts: the writer of `Host.used_*` and of Allocation.

Lock order (never varied): instance -> host rows by id -> inserts -> grants from leaf to root -> quota rows from leaf to
root -> limits of grants from leaf to root. Freeing takes no more locks than the host's row and, for what fills a
reservation, the grants'.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import F

from compute.models import Allocation, Grant, Host
from compute.placement.loader import host_inventory, host_used
from compute.placement.reservations import NOTHING, ReservationUsedUp, draw, fill, lock_chain
from compute.scheduler.capacity import fits
from compute.scheduler.model import Resources


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a consumer goes and how much it takes there. With `grant_id` it fills that grant's reservation."""

    host_id: uuid.UUID
    resources: Resources
    grant_id: uuid.UUID | None = None


class ClaimRefused(Exception):
    """The host no longer takes the request: it filled up or left service between ranking and claim."""


def claim(*, wanted: Mapping[uuid.UUID, Seat]) -> None:
    """Allocate for each consumer instance id -> seat, or raise ClaimRefused for all.

    Locks the host rows by id, asks the same `fits()` that ranking asked on the sums as they are now (closing the race
    between two schedulers with the same snapshot), then writes allocations and sums. A seat with a grant is taken from
    room that was set aside, for which nobody else can have been let in. The caller rolls back to a savepoint on
    ClaimRefused, so that a refused host does not stay locked.
    """
    per_host: dict[uuid.UUID, dict[uuid.UUID, Seat]] = {}
    for consumer, seat in wanted.items():
        per_host.setdefault(seat.host_id, {})[consumer] = seat
    # `of=("self",)`: the pool's row is read, not locked, or all hosts of a pool would queue behind one another.
    locked = Host.objects.select_for_update(of=("self",)).select_related("pool").filter(id__in=per_host).order_by("id")
    hosts = {host.id: host for host in locked}
    drawn: dict[uuid.UUID, int] = {}
    for host_id in sorted(per_host):
        host = hosts.get(host_id)
        if host is None or host.admin_state != "enabled" or host.observed_state != "up":
            raise ClaimRefused(f"host {host_id} left service")
        _take(host, per_host[host_id], drawn)
    for grant_id in sorted(drawn):
        try:
            draw(chain=lock_chain(grant_id), units=drawn[grant_id])
        except ReservationUsedUp as error:
            raise ClaimRefused(str(error)) from None


def _take(host: Host, seats: Mapping[uuid.UUID, Seat], drawn: dict[uuid.UUID, int]) -> None:
    """Write the allocations of one locked host; add what its seats draw to `drawn`, grant id -> units."""
    open_to_all, reserved = NOTHING, NOTHING
    for seat in seats.values():
        if seat.grant_id is None:
            open_to_all = open_to_all + seat.resources
        else:
            reserved = reserved + seat.resources
    if fits(host_inventory(host), host_used(host), open_to_all):
        raise ClaimRefused(f"host {host.id} filled up")
    for seat in seats.values():
        if seat.grant_id is not None:
            try:
                more = fill(host_id=host.id, grant=Grant.unscoped.get(id=seat.grant_id), amount=seat.resources)
            except (ReservationUsedUp, Grant.DoesNotExist) as error:
                raise ClaimRefused(str(error)) from None
            drawn[seat.grant_id] = drawn.get(seat.grant_id, 0) + more
    Allocation.objects.bulk_create(
        Allocation(
            host_id=host.id,
            consumer_type="instance",
            consumer_id=consumer,
            grant_id=seat.grant_id,
            vcpus=seat.resources.vcpus,
            memory_mib=seat.resources.memory_mib,
            disk_gib=seat.resources.disk_gib,
        )
        for consumer, seat in seats.items()
    )
    total = open_to_all + reserved
    _move(host.id, used=total, held=NOTHING - reserved, instances=len(seats))


def _move(host_id: uuid.UUID, *, used: Resources, held: Resources, instances: int) -> None:
    """Add to a host's sums."""
    Host.objects.filter(id=host_id).update(
        used_vcpus=F("used_vcpus") + used.vcpus,
        used_memory_mib=F("used_memory_mib") + used.memory_mib,
        used_disk_gib=F("used_disk_gib") + used.disk_gib,
        used_instances=F("used_instances") + instances,
        held_vcpus=F("held_vcpus") + held.vcpus,
        held_memory_mib=F("held_memory_mib") + held.memory_mib,
        held_disk_gib=F("held_disk_gib") + held.disk_gib,
    )


def release(*, consumer_type: str, consumer_id: uuid.UUID) -> bool:
    """Give back a consumer's room. Return False when it held none: exactly-once comes from the row's own deletion.

    Room of a reservation goes back to that reservation: what was in use is set aside again.
    """
    held_by = Allocation.objects.filter(consumer_type=consumer_type, consumer_id=consumer_id)
    # Hosts first, as everybody does: whoever re-arranges promises holds them while it writes allocations.
    hosts = Host.objects.select_for_update(of=("self",)).filter(id__in=held_by.values("host_id")).order_by("id")
    list(hosts.values_list("id"))
    rows = list(held_by.select_for_update())
    for row in rows:
        amount = Resources(row.vcpus, row.memory_mib, row.disk_gib)
        held = NOTHING if row.grant_id is None else amount
        _move(row.host_id, used=NOTHING - amount, held=held, instances=-1)
        row.delete()
        if row.grant_id is not None:
            grant = Grant.unscoped.get(id=row.grant_id)
            less = fill(host_id=row.host_id, grant=grant, amount=amount, sign=-1)
            draw(chain=lock_chain(grant.id), units=less)
    return bool(rows)
