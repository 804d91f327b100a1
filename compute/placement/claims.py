"""Taking and giving back room on hosts: the writer of `Host.used_*` and of Allocation.

Lock order (never varied): instance -> group -> host rows by id -> inserts -> grants from leaf to root -> quota rows from leaf to
root -> limits of grants from leaf to root. Freeing takes no more locks than the host's row and, for what fills a
reservation, the grants'.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from django.db import transaction

from compute.models import Allocation, Grant, Host
from compute.placement.cells import cells_text, count_cells, pin
from compute.placement.loader import HOST_COLUMNS, HOST_TABLES, host_from_row
from compute.placement.reservations import NOTHING, ReservationUsedUp, draw, fill, lock_chain
from compute.scheduler import topology
from compute.scheduler.capacity import fits
from compute.scheduler.model import HostState, Resources
from compute.scheduler.topology import CellShare, NumaAsk
from tenants import prepared
from tenants.models.ids import new_id


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a consumer goes and how much it takes there. With `grant_id` it fills that grant's reservation.

    The consumer is an instance, or a migration that holds the room of one where it is going to.

    `numa`: what it asks of NUMA cells. What is dedicated to it by that is not among `resources`; nor is it ever of a
    reservation, which is a promise of shared room.
    """

    host_id: uuid.UUID
    resources: Resources
    grant_id: uuid.UUID | None = None
    numa: NumaAsk | None = None
    consumer_type: Literal["instance", "migration"] = "instance"

    @property
    def dedicated(self) -> Resources:
        """What it has to itself, beside `resources`."""
        if self.numa is None:
            return NOTHING
        return Resources(self.numa.vcpus * self.numa.pinned, self.numa.memory_mib if self.numa.page_kib else 0, 0)


class ClaimRefused(Exception):
    """The host no longer takes the request: it filled up or left service between ranking and claim."""


class GrantUsedUp(ClaimRefused):
    """Not the host refuses: others have drawn the reservation's last units. No other host would do."""


# No key of a host ever changes, so those who only point at it (foreign keys) need not wait; the pool's row is read, not
# locked, or all hosts of a pool would queue behind one another.
_LOCK: Final = "FOR NO KEY UPDATE OF h"
_LOCK_IF_FREE: Final = "FOR NO KEY UPDATE OF h SKIP LOCKED"
# The pool's ratios are of when the statement began: a claim that waited for its host may hold some that were lowered
# meanwhile. What they make of the host stands on its locked row.
_LEFT: Final = """
h.ceiling_vcpus - h.used_vcpus - h.held_vcpus, h.ceiling_memory_mib - h.used_memory_mib - h.held_memory_mib,
h.ceiling_disk_gib - h.used_disk_gib - h.held_disk_gib,
"""
_HOSTS: Final = " ".join(("SELECT", _LEFT, HOST_COLUMNS, "FROM", HOST_TABLES, "WHERE h.id = ANY(%s)"))
_WRITE: Final = """
WITH allocated AS (
    INSERT INTO compute_allocation (id, host_id, consumer_type, consumer_id, grant_id, vcpus, memory_mib, disk_gib,
                                    dedicated_vcpus, dedicated_memory_mib, cells, created_at)
    SELECT a.id, %(host)s, a.type, a.consumer, a.grant_id, a.vcpus, a.memory_mib, a.disk_gib, a.own_vcpus,
           a.own_memory, a.cells::jsonb, statement_timestamp()
    FROM unnest(%(ids)s::uuid[], %(types)s::text[], %(consumers)s::uuid[], %(grants)s::uuid[], %(vcpus)s::int[], %(memory)s::int[],
                %(disk)s::int[], %(own_vcpus)s::int[], %(own_memory)s::int[], %(cells)s::text[])
         AS a(id, type, consumer, grant_id, vcpus, memory_mib, disk_gib, own_vcpus, own_memory, cells)
)
"""
_MOVE: Final = """
UPDATE compute_host SET
    used_vcpus = used_vcpus + %(used_vcpus)s, used_memory_mib = used_memory_mib + %(used_memory)s,
    used_disk_gib = used_disk_gib + %(used_disk)s, used_instances = used_instances + %(instances)s,
    held_vcpus = held_vcpus + %(held_vcpus)s, held_memory_mib = held_memory_mib + %(held_memory)s,
    held_disk_gib = held_disk_gib + %(held_disk)s
WHERE id = %(host)s
"""
_WRITE_AND_MOVE: Final = _WRITE + _MOVE


def claim(*, wanted: Mapping[uuid.UUID, Seat]) -> None:
    """Allocate for each consumer id -> seat, or raise ClaimRefused for all.

    Locks the host rows by id, asks the same `fits()` that ranking asked on the sums as they are now (closing the race
    between two schedulers with the same snapshot), then writes allocations and sums. A seat with a grant is taken from
    room that was set aside, for which nobody else can have been let in. The caller rolls back to a savepoint on
    ClaimRefused, so that a refused host does not stay locked.
    """
    per_host: dict[uuid.UUID, dict[uuid.UUID, Seat]] = {}
    for consumer, seat in wanted.items():
        per_host.setdefault(seat.host_id, {})[consumer] = seat
    hosts = {one.host.id: one for one in _locked(f"{_HOSTS} ORDER BY h.id {_LOCK}", [list(per_host)])}
    drawn: dict[uuid.UUID, int] = {}
    for host_id in sorted(per_host):
        _take(hosts.get(str(host_id)), per_host[host_id], drawn)
    _draw(drawn)


def claim_first(*, consumer: uuid.UUID, seat: Seat, hosts: Sequence[uuid.UUID]) -> Seat | None:
    """Allocate on the first of the hosts that nobody else holds at this moment; None where all are held, or gone.

    `seat` says what is taken, wherever. As `claim`, but never waits: schedulers that like the same host best take the
    next best rather than a place in its queue. Raises ClaimRefused where that host no longer takes the request.
    """
    order = list(hosts)
    sql = f"{_HOSTS} ORDER BY array_position(%s, h.id) LIMIT 1 {_LOCK_IF_FREE}"
    found = _locked(sql, [order, order])
    if not found:
        return None
    seat = replace(seat, host_id=uuid.UUID(found[0].host.id))
    drawn: dict[uuid.UUID, int] = {}
    _take(found[0], {consumer: seat}, drawn)
    _draw(drawn)
    return seat


@dataclass(frozen=True, slots=True)
class _Locked:
    """A host as its locked row says, and what may come to its sums at most."""

    host: HostState
    left: Resources


def _locked(sql: str, parameters: list[Any]) -> list[_Locked]:
    return [_Locked(host_from_row(row[3:]), Resources(*row[:3])) for row in prepared.run(sql, parameters)]


def _take(locked: _Locked | None, seats: Mapping[uuid.UUID, Seat], drawn: dict[uuid.UUID, int]) -> None:
    """Write the allocations of one locked host; add what its seats draw to `drawn`, grant id -> units."""
    if locked is None or locked.host.admin_state != "enabled" or locked.host.observed_state != "up":
        raise ClaimRefused("the host left service")
    host = locked.host
    open_to_all, reserved = NOTHING, NOTHING
    for seat in seats.values():
        if seat.grant_id is None:
            open_to_all = open_to_all + seat.resources
        else:
            reserved = reserved + seat.resources
    if fits(host.inventory, host.used, open_to_all) or not open_to_all <= locked.left:
        raise ClaimRefused(f"host {host.id} filled up")
    shares = _place_cells(host, seats)
    host_id = uuid.UUID(host.id)
    for seat in seats.values():
        if seat.grant_id is not None:
            try:
                more = fill(host_id=host_id, grant=Grant.unscoped.get(id=seat.grant_id), amount=seat.resources)
            except (ReservationUsedUp, Grant.DoesNotExist) as error:
                raise ClaimRefused(str(error)) from None
            drawn[seat.grant_id] = drawn.get(seat.grant_id, 0) + more
    allocated: dict[str, Any] = {
        "ids": [new_id() for _ in seats],
        "types": [seat.consumer_type for seat in seats.values()],
        "consumers": list(seats),
        "grants": [seat.grant_id for seat in seats.values()],
        "vcpus": [(seat.resources + seat.dedicated).vcpus for seat in seats.values()],
        "memory": [(seat.resources + seat.dedicated).memory_mib for seat in seats.values()],
        "disk": [seat.resources.disk_gib for seat in seats.values()],
        "own_vcpus": [seat.dedicated.vcpus for seat in seats.values()],
        "own_memory": [seat.dedicated.memory_mib for seat in seats.values()],
        "cells": [cells_text(shares[consumer]) if consumer in shares else None for consumer in seats],
    }
    moved = _moved(host_id, used=open_to_all + reserved, held=NOTHING - reserved, instances=len(seats))
    prepared.send(_WRITE_AND_MOVE, {**allocated, **moved})
    if shares:
        rows = dict(zip(seats, allocated["ids"], strict=True))
        pin(host_id=host_id, shares={rows[consumer]: found for consumer, found in shares.items()})


def _place_cells(host: HostState, seats: Mapping[uuid.UUID, Seat]) -> dict[uuid.UUID, tuple[CellShare, ...]]:
    """Return what each consumer that asks gets of which cell, by the same function that ranking asked."""
    cells, shares = host.cells, {}
    for consumer, seat in seats.items():
        if seat.numa is None:
            continue
        found = topology.place(cells, seat.numa)
        if found is None:
            raise ClaimRefused(f"host {host.id} has no NUMA cells left for it")
        shares[consumer] = found
        cells = topology.take(cells, found)
    return shares


def _draw(drawn: Mapping[uuid.UUID, int]) -> None:
    for grant_id in sorted(drawn):
        try:
            draw(chain=lock_chain(grant_id), units=drawn[grant_id])
        except ReservationUsedUp as error:
            raise GrantUsedUp(str(error)) from None


def _moved(host_id: uuid.UUID, *, used: Resources, held: Resources, instances: int) -> dict[str, Any]:
    return {
        "host": host_id,
        "used_vcpus": used.vcpus,
        "used_memory": used.memory_mib,
        "used_disk": used.disk_gib,
        "held_vcpus": held.vcpus,
        "held_memory": held.memory_mib,
        "held_disk": held.disk_gib,
        "instances": instances,
    }


def _move(host_id: uuid.UUID, *, used: Resources, held: Resources, instances: int) -> None:
    """Add to a host's sums."""
    prepared.send(_MOVE, _moved(host_id, used=used, held=held, instances=instances))


def release(*, consumer_type: str, consumer_id: uuid.UUID) -> bool:
    """Give back a consumer's room. Return False when it held none: exactly-once comes from the row's own deletion.

    Room of a reservation goes back to that reservation: what was in use is set aside again.
    """
    held_by = Allocation.objects.filter(consumer_type=consumer_type, consumer_id=consumer_id)
    # Hosts first, as everybody does: whoever re-arranges promises holds them while it writes allocations.
    hosts = (
        Host.objects.select_for_update(no_key=True, of=("self",))
        .filter(id__in=held_by.values("host_id"))
        .order_by("id")
    )
    list(hosts.values_list("id"))
    rows = list(held_by.select_for_update())
    for row in rows:
        _give_up(row)
    return bool(rows)


def hand_over(*, migration_id: uuid.UUID, instance_id: uuid.UUID) -> bool:
    """Make the room that a migration holds its instance's, and give back what the instance had at its source.

    Never refused, whatever state the hosts are in: the guest runs there already. What it drew of a reservation at the
    source it draws at the destination where room for that is set aside, and stays in open room otherwise.
    Return False when the migration holds nothing: it was handed over before. Needs the instance's row locked.
    """
    rows = Allocation.objects.filter(consumer_id__in=[migration_id, instance_id])
    hosts = Host.objects.select_for_update(no_key=True, of=("self",)).filter(id__in=rows.values("host_id"))
    list(hosts.order_by("id").values_list("id"))
    there = rows.select_for_update().filter(consumer_type="migration", consumer_id=migration_id).first()
    if there is None:
        return False
    here = rows.select_for_update().get(consumer_type="instance", consumer_id=instance_id)
    _give_up(here)
    there.consumer_type, there.consumer_id = "instance", instance_id
    if here.grant_id is not None and _draw_there(there, here.grant_id):
        there.grant_id = here.grant_id
    there.save(update_fields=["consumer_type", "consumer_id", "grant"])
    return True


def _give_up(row: Allocation) -> None:
    """Delete an allocation, its row and its host's locked, and give back all that it held."""
    amount = _shared(row)
    held = NOTHING if row.grant_id is None else amount
    _move(row.host_id, used=NOTHING - amount, held=held, instances=-1)
    row.delete()
    if row.cells is not None:
        count_cells(row.host_id)
    if row.grant_id is not None:
        grant = Grant.unscoped.get(id=row.grant_id)
        less = fill(host_id=row.host_id, grant=grant, amount=amount, sign=-1)
        draw(chain=lock_chain(grant.id), units=less)


def _draw_there(row: Allocation, grant_id: uuid.UUID) -> bool:
    """Have an allocation in open room fill a reservation on its host instead; False where that has no room there."""
    amount = _shared(row)
    try:
        with transaction.atomic():
            more = fill(host_id=row.host_id, grant=Grant.unscoped.get(id=grant_id), amount=amount)
            draw(chain=lock_chain(grant_id), units=more)
            _move(row.host_id, used=NOTHING, held=NOTHING - amount, instances=0)
    except (ReservationUsedUp, Grant.DoesNotExist):
        return False
    return True


def _shared(row: Allocation) -> Resources:
    """Return what an allocation has of the room that the host's guests share."""
    return Resources(row.vcpus - row.dedicated_vcpus, row.memory_mib - row.dedicated_memory_mib, row.disk_gib)


def shrink(*, consumer_id: uuid.UUID, size: Resources) -> None:
    """Give back what an instance holds above `size`, no amount of which is above what it holds.

    Never refused, whatever state the host is in: room of a reservation goes back to that reservation.
    """
    held_by = Allocation.objects.filter(consumer_type="instance", consumer_id=consumer_id)
    list(Host.objects.select_for_update(no_key=True).filter(id__in=held_by.values("host_id")).values_list("id"))
    row = held_by.select_for_update().get()
    less = Resources(row.vcpus, row.memory_mib, row.disk_gib) - size
    row.vcpus, row.memory_mib, row.disk_gib = size.vcpus, size.memory_mib, size.disk_gib
    row.save(update_fields=["vcpus", "memory_mib", "disk_gib"])
    _move(row.host_id, used=NOTHING - less, held=NOTHING if row.grant_id is None else less, instances=0)
    if row.grant_id is not None:
        units = fill(host_id=row.host_id, grant=Grant.unscoped.get(id=row.grant_id), amount=less, sign=-1)
        draw(chain=lock_chain(row.grant_id), units=units)
