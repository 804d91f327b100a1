"""Setting room aside for promises, on all hosts of a pool at once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db.models import F, Sum

from compute.models import Allocation, Grant, GrantUse, Host, Instance, Pool, SetAside
from compute.placement.inventory import apply_ceilings
from compute.placement.loader import host_inventory, host_used
from compute.placement.reservations import (
    NOTHING,
    ReservationUsedUp,
    draw,
    fill,
    lock_chain,
    spare_units,
    unit_columns,
    unit_of,
)
from compute.scheduler.model import Resources
from compute.scheduler.promises import SlotHost, Unit, Unplaceable, set_aside, tolerated
from tenants.models import Tenant
from tenants.services import tree

# A host that has just gone quiet still counts: it may be a hiccup, and its room is not given to anybody meanwhile.
IN_SERVICE = ("up", "suspect")


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one unit's promises in a pool stand: `tolerated` host losses, -1 where not all units have a slot now."""

    unit: Unit
    promised: int
    slots: int
    tolerated: int


def promised_units(*, pool_id: uuid.UUID) -> dict[Unit, int]:
    """Return unit -> how many units the topmost grants of the pool promise."""
    totals: dict[Unit, int] = {}
    for grant in Grant.unscoped.filter(pool_id=pool_id, parent=None, units__gt=0):
        totals[unit_of(grant)] = totals.get(unit_of(grant), 0) + grant.units
    return totals


def verdicts(*, pool_id: uuid.UUID) -> tuple[Verdict, ...]:
    """Return how the promises of a pool stand, by unit. Two queries, no lock."""
    slots: dict[Unit, list[int]] = {}
    rows = SetAside.objects.filter(
        host__pool_id=pool_id, host__admin_state="enabled", host__observed_state__in=IN_SERVICE
    )
    for row in rows:
        slots.setdefault(unit_of(row), []).append(row.slots)
    return tuple(
        Verdict(unit, units, sum(slots.get(unit, [])), tolerated(slots.get(unit, []), units))
        for unit, units in sorted(promised_units(pool_id=pool_id).items())
    )


def lock_hosts(*, pool_id: uuid.UUID) -> list[Host]:
    """Lock all hosts of a pool, by id: nothing is claimed or given back there until the transaction ends.

    No tenant moves either: who draws on which promise follows from the paths.
    """
    tree.hold()
    rows = Host.objects.select_for_update(of=("self",)).select_related("pool").filter(pool_id=pool_id)
    return list(rows.exclude(admin_state="removed").order_by("id"))


def clear_host(*, host: Host) -> None:
    """Take the slots off a locked host that carries nothing and leaves the cloud; the reconciler sets them aside elsewhere."""
    SetAside.objects.filter(host=host).delete()
    GrantUse.objects.filter(host=host).delete()
    host.held_vcpus = host.held_memory_mib = host.held_disk_gib = 0
    apply_ceilings(host=host)


def arrange(*, pool: Pool, hosts: Sequence[Host]) -> tuple[Unplaceable, ...]:
    """Set aside what the promises of the pool need on its locked hosts; return the units whose promise cannot be kept.

    Guests that run beside a reservation with units to spare are counted into it first, where their host has the room:
    a tenant with ten guests to whom ten units are promised is to have those ten, not twenty. Hosts out of service keep
    the slots that are in use, since their guests may come back with them. Needs `lock_hosts`.
    """
    pool = Pool.objects.get(id=pool.id)  # its policy as it stands: whoever changes it holds the hosts
    reserved = _reserved(hosts)
    _adopt(pool, hosts, reserved)
    filled: dict[uuid.UUID, dict[Unit, int]] = {}
    rows = {(row.host_id, unit_of(row)): row for row in SetAside.objects.filter(host__in=hosts)}
    for (host_id, unit), row in rows.items():
        if row.filled:
            filled.setdefault(host_id, {})[unit] = row.filled
    in_service = [host for host in hosts if host.admin_state == "enabled" and host.observed_state in IN_SERVICE]
    slot_hosts = [
        SlotHost(
            id=str(host.id),
            room=host_inventory(host).capacity() - (_used(host) - reserved.get(host.id, NOTHING)),
            modes=frozenset(host.modes),
            filled=filled.get(host.id, {}),
        )
        for host in in_service
    ]
    plan, broken = set_aside(slot_hosts, promised_units(pool_id=pool.id), pool.host_losses)
    serving = {host.id for host in in_service}
    for host in hosts:
        wanted = {unit: slots.get(str(host.id), 0) for unit, slots in plan.items()} if host.id in serving else {}
        wanted |= {unit: max(wanted.get(unit, 0), count) for unit, count in filled.get(host.id, {}).items()}
        _write(host, wanted, rows, reserved.get(host.id, NOTHING))
    return broken


def _used(host: Host) -> Resources:
    return Resources(host.used_vcpus, host.used_memory_mib, host.used_disk_gib)


def _reserved(hosts: Sequence[Host]) -> dict[uuid.UUID, Resources]:
    """Return host id -> what its guests use on account of reservations."""
    rows = (
        GrantUse.objects.filter(host__in=hosts)
        .values("host_id")
        .annotate(v=Sum("vcpus"), m=Sum("memory_mib"), d=Sum("disk_gib"))
    )
    return {row["host_id"]: Resources(row["v"], row["m"], row["d"]) for row in rows}


def _write(
    host: Host, wanted: Mapping[Unit, int], rows: Mapping[tuple[uuid.UUID, Unit], SetAside], reserved: Resources
) -> None:
    """Bring one locked host's slots, its held room and its ceilings to what is wanted; untouched where they are."""
    held = NOTHING - reserved
    changed = False
    for unit, slots in wanted.items():
        held = held + unit.times(slots)
        row = rows.get((host.id, unit))
        if row is None and slots:
            SetAside.objects.create(host=host, slots=slots, **unit_columns(unit))
            changed = True
        elif row is not None and row.slots != slots:
            SetAside.objects.filter(id=row.id).update(slots=slots)
            changed = True
    gone = [row.id for (host_id, unit), row in rows.items() if host_id == host.id and not wanted.get(unit)]
    if gone:
        SetAside.objects.filter(id__in=gone).delete()
        changed = True
    if changed or held != Resources(host.held_vcpus, host.held_memory_mib, host.held_disk_gib):
        host.held_vcpus, host.held_memory_mib, host.held_disk_gib = held.vcpus, held.memory_mib, held.disk_gib
        apply_ceilings(host=host)


def _adopt(pool: Pool, hosts: Sequence[Host], reserved: dict[uuid.UUID, Resources]) -> None:
    """Count guests into their tenant's reservation while it has units and their host has the room; oldest first."""
    grants = {grant.tenant_id: grant for grant in Grant.unscoped.filter(pool=pool)}
    if not grants:
        return
    below = Tenant.objects.filter(path__overlap=list(grants))
    paths = dict(below.values_list("id", "path"))
    guests = Instance.unscoped.filter(pool=pool, tenant_id__in=paths).values_list("id", "tenant_id")
    tenant_of = dict(guests.exclude(state__in=["failed", "deleted"]))
    by_id = {host.id: host for host in hosts}
    uses = {(use.grant_id, use.host_id): use for use in GrantUse.objects.filter(host__in=hosts)}
    spare = {grant.id: spare_units(lock_chain(grant.id)) for grant in grants.values()}
    loose = Allocation.objects.filter(consumer_type="instance", consumer_id__in=tenant_of, grant=None, host__in=hosts)
    for row in loose.order_by("created_at", "id"):
        path = paths[tenant_of[row.consumer_id]]
        grant = next(grants[level] for level in reversed(path) if level in grants)
        use = uses.get((grant.id, row.host_id))
        more = _more_slots(row, grant, use)
        # Asked before any query: a small reservation over thousands of guests must not hold the hosts for long.
        if more <= spare[grant.id] and _adopt_one(row, grant, more, by_id[row.host_id], reserved):
            row.grant = grant
            row.save(update_fields=["grant"])
            uses[grant.id, row.host_id] = GrantUse.objects.get(grant=grant, host_id=row.host_id)
            spare = {one.id: spare_units(lock_chain(one.id)) for one in grants.values()}


def _more_slots(row: Allocation, grant: Grant, use: GrantUse | None) -> int:
    """Return how many slots the guest would fill beside what the grant's guests use on its host."""
    amount, unit = Resources(row.vcpus, row.memory_mib, row.disk_gib), unit_of(grant)
    before = Resources(use.vcpus, use.memory_mib, use.disk_gib) if use else NOTHING
    return unit.slots_of(before + amount) - unit.slots_of(before)


def _adopt_one(row: Allocation, grant: Grant, more: int, host: Host, reserved: dict[uuid.UUID, Resources]) -> bool:
    amount, unit = Resources(row.vcpus, row.memory_mib, row.disk_gib), unit_of(grant)
    # A slot may be larger than its guest: the rest of it has to be free here as well.
    room = host_inventory(host).capacity() - host_used(host) + amount
    if not unit.times(more) <= room:
        return False
    chain = lock_chain(grant.id)
    try:
        draw(chain=chain, units=more)
    except ReservationUsedUp:
        return False
    SetAside.objects.get_or_create(host=host, defaults={"slots": 0}, **unit_columns(unit))
    SetAside.objects.filter(host=host, **unit_columns(unit)).update(slots=F("slots") + more)
    fill(host_id=host.id, grant=grant, amount=amount)
    reserved[host.id] = reserved.get(host.id, NOTHING) + amount
    held = unit.times(more) - amount
    host.held_vcpus += held.vcpus
    host.held_memory_mib += held.memory_mib
    host.held_disk_gib += held.disk_gib
    # At once: where the slots come out as they are, nothing else writes this host.
    apply_ceilings(host=host)
    return True
