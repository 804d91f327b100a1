"""Setting room aside for promises, on all hosts of a pool at once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db.models import Sum

from compute.models import Allocation, Grant, GrantUse, Host, Instance, Pool, SetAside
from compute.placement.inventory import apply_ceilings, apply_held
from compute.placement.loader import host_inventory, host_used
from compute.placement.reservations import (
    NOTHING,
    lock_chain,
    spare_units,
    take,
    unit_columns,
    unit_of,
)
from compute.scheduler.model import Resources
from compute.scheduler.promises import SlotHost, Unit, Unplaceable, set_aside, tolerated
from tenants.models import Tenant
from tenants.services import tree

# A host that has just gone quiet still counts: it may be a hiccup, and its room is not given to anybody meanwhile.
IN_SERVICE = ("up", "suspect")
_SLOT_OF = ["host", "unit_kind", "unit_vcpus", "unit_memory_mib", "unit_disk_gib"]


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

    No tenant moves either: who draws on which promise follows from the paths. No key: who only points at a host (the
    check of a foreign key, at commit, with other hosts in hand) need not wait. Without what hosts reported at length: thousands
    are held while this is read.
    """
    tree.hold()
    rows = (
        Host.objects.select_for_update(of=("self",), no_key=True).filter(pool_id=pool_id).exclude(admin_state="removed")
    )
    hosts = list(rows.defer("proof", "strays", "stray_disks").order_by("id"))
    pool = Pool.objects.get(id=pool_id)
    for host in hosts:
        host.pool = pool
    return hosts


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
    reserved = _reserved(pool)
    touched = _adopt(pool, hosts, reserved)
    filled: dict[uuid.UUID, dict[Unit, int]] = {}
    rows: dict[uuid.UUID, dict[Unit, SetAside]] = {}
    for row in SetAside.objects.filter(host__pool=pool):
        rows.setdefault(row.host_id, {})[unit_of(row)] = row
        if row.filled:
            filled.setdefault(row.host_id, {})[unit_of(row)] = row.filled
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
    changed: list[SetAside] = []
    gone: list[int] = []
    for host in hosts:
        wanted = {unit: slots.get(str(host.id), 0) for unit, slots in plan.items()} if host.id in serving else {}
        wanted |= {unit: max(wanted.get(unit, 0), count) for unit, count in filled.get(host.id, {}).items()}
        if _settle(host, wanted, rows.get(host.id, {}), reserved.get(host.id, NOTHING), changed, gone):
            touched[host.id] = host
    SetAside.objects.filter(id__in=gone).delete()
    SetAside.objects.bulk_create(changed, update_conflicts=True, unique_fields=_SLOT_OF, update_fields=["slots"])
    apply_held(hosts=list(touched.values()))
    return broken


def _used(host: Host) -> Resources:
    return Resources(host.used_vcpus, host.used_memory_mib, host.used_disk_gib)


def _reserved(pool: Pool) -> dict[uuid.UUID, Resources]:
    """Return host id -> what the guests of a pool's hosts use on account of reservations."""
    rows = (
        GrantUse.objects.filter(host__pool=pool)
        .values("host_id")
        .annotate(v=Sum("vcpus"), m=Sum("memory_mib"), d=Sum("disk_gib"))
    )
    return {row["host_id"]: Resources(row["v"], row["m"], row["d"]) for row in rows}


def _settle(
    host: Host,
    wanted: Mapping[Unit, int],
    rows: Mapping[Unit, SetAside],
    reserved: Resources,
    changed: list[SetAside],
    gone: list[int],
) -> bool:
    """Bring one locked host's slots and held room to what is wanted, in memory; return whether its row has to be written.

    Slots to be written are added to `changed`, ids of those that go to `gone`.
    """
    held = NOTHING - reserved
    before = len(changed) + len(gone)
    for unit, slots in wanted.items():
        held = held + unit.times(slots)
        row = rows.get(unit)
        if slots and (row is None or row.slots != slots):
            changed.append(SetAside(host=host, slots=slots, **unit_columns(unit)))
    gone.extend(row.id for unit, row in rows.items() if not wanted.get(unit))
    if len(changed) + len(gone) == before and held == Resources(
        host.held_vcpus, host.held_memory_mib, host.held_disk_gib
    ):
        return False
    host.held_vcpus, host.held_memory_mib, host.held_disk_gib = held.vcpus, held.memory_mib, held.disk_gib
    return True


def _adopt(pool: Pool, hosts: Sequence[Host], reserved: dict[uuid.UUID, Resources]) -> dict[uuid.UUID, Host]:
    """Count guests into their tenant's reservation while it has units and their host has the room; oldest first.

    Decided in memory, since all rows are held, and written in a few statements. Returns the hosts whose held room changed,
    which the caller has to write.
    """
    grants = {grant.tenant_id: grant for grant in Grant.unscoped.filter(pool=pool)}
    uses = {(use.grant_id, use.host_id): use for use in GrantUse.objects.filter(host__pool=pool)}
    held = {one.id: one for grant in grants.values() for one in lock_chain(grant.id)}
    chains = {grant_id: _chain(held, grant_id) for grant_id in held}
    spare = {grant_id: spare_units(chain) for grant_id, chain in chains.items()}
    # All others have nothing to adopt into: their guests, thousands of them, need not be looked at under the hosts' locks.
    begun = {grant.id: _hosts_begun(grant, uses) for grant in grants.values()}
    able = [grant.tenant_id for grant in grants.values() if spare[grant.id] or begun[grant.id]]
    touched: dict[uuid.UUID, Host] = {}
    if not able:
        return touched
    paths = dict(Tenant.objects.filter(path__overlap=able).values_list("id", "path"))
    guests = Instance.unscoped.filter(pool=pool, tenant_id__in=paths).exclude(state__in=["failed", "deleted"])
    tenant_of = dict(guests.values_list("id", "tenant_id"))
    by_id = {host.id: host for host in hosts}
    # Who has CPUs, pages or cells of its own fills no promise: those are of shared room.
    loose = Allocation.objects.filter(
        consumer_type="instance", consumer_id__in=guests.values("id"), grant=None, cells__isnull=True
    )
    if not any(spare.values()):
        loose = loose.filter(host__in=set().union(*begun.values()))
    adopted: dict[uuid.UUID, list[uuid.UUID]] = {}
    slots: dict[tuple[uuid.UUID, Unit], int] = {}
    drawn: set[uuid.UUID] = set()
    filled: dict[tuple[uuid.UUID, uuid.UUID], GrantUse] = {}
    for row in loose.order_by("created_at", "id"):
        path = paths[tenant_of[row.consumer_id]]
        grant = next(grants[level] for level in reversed(path) if level in grants)
        host, unit, amount = by_id[row.host_id], unit_of(grant), Resources(row.vcpus, row.memory_mib, row.disk_gib)
        more = _more_slots(amount, unit, uses.get((grant.id, host.id)))
        if more > spare[grant.id] or not _has_room(host, amount, unit, more):
            continue
        chain = chains[grant.id]
        drawn |= {one.id for one in take(chain=chain, units=more)}
        for other in chains if more else ():
            spare[other] = spare_units(chains[other])
        use = uses.setdefault((grant.id, host.id), GrantUse(grant=grant, host=host))
        use.vcpus, use.memory_mib, use.disk_gib = (
            use.vcpus + amount.vcpus,
            use.memory_mib + amount.memory_mib,
            use.disk_gib + amount.disk_gib,
        )
        use.slots += more
        filled[grant.id, host.id] = use
        adopted.setdefault(grant.id, []).append(row.id)
        slots[host.id, unit] = slots.get((host.id, unit), 0) + more
        reserved[host.id] = reserved.get(host.id, NOTHING) + amount
        beside = unit.times(more) - amount
        host.held_vcpus += beside.vcpus
        host.held_memory_mib += beside.memory_mib
        host.held_disk_gib += beside.disk_gib
        touched[host.id] = host
    for grant_id, rows in adopted.items():
        Allocation.objects.filter(id__in=rows).update(grant=grant_id)
    for grant_id in drawn:
        held[grant_id].save(update_fields=["used_units"])
    GrantUse.objects.bulk_create(
        filled.values(),
        update_conflicts=True,
        unique_fields=["grant", "host"],
        update_fields=["vcpus", "memory_mib", "disk_gib", "slots"],
    )
    _fill_slots(slots)
    return touched


def _chain(held: Mapping[uuid.UUID, Grant], grant_id: uuid.UUID) -> list[Grant]:
    """Return a locked grant and those above it, each as one object that all chains share."""
    chain = []
    following: uuid.UUID | None = grant_id
    while following is not None:
        chain.append(held[following])
        following = held[following].parent_id
    return chain


def _has_room(host: Host, amount: Resources, unit: Unit, more: int) -> bool:
    """A slot may be larger than its guest: the rest of it has to be free here as well."""
    return unit.times(more) <= host_inventory(host).capacity() - host_used(host) + amount


def _fill_slots(slots: Mapping[tuple[uuid.UUID, Unit], int]) -> None:
    """Add slots to hosts that are in use from the beginning."""
    known = {
        (row.host_id, unit_of(row)): row for row in SetAside.objects.filter(host__in={host_id for host_id, _ in slots})
    }
    rows = []
    for (host_id, unit), more in slots.items():
        row = known.get((host_id, unit)) or SetAside(host_id=host_id, slots=0, **unit_columns(unit))
        row.slots, row.filled = row.slots + more, row.filled + more
        rows.append(row)
    SetAside.objects.bulk_create(rows, update_conflicts=True, unique_fields=_SLOT_OF, update_fields=["slots", "filled"])


def _hosts_begun(grant: Grant, uses: Mapping[tuple[uuid.UUID, uuid.UUID], GrantUse]) -> set[uuid.UUID]:
    """Return the hosts where the last slot of a grant's guests is not full: another guest may fit into it."""
    unit = unit_of(grant)
    return {
        host_id
        for (grant_id, host_id), use in uses.items()
        if grant_id == grant.id and unit.times(use.slots) != Resources(use.vcpus, use.memory_mib, use.disk_gib)
    }


def _more_slots(amount: Resources, unit: Unit, use: GrantUse | None) -> int:
    """Return how many slots a guest would fill beside what the grant's guests use on its host."""
    before = Resources(use.vcpus, use.memory_mib, use.disk_gib) if use else NOTHING
    return unit.slots_of(before + amount) - unit.slots_of(before)
