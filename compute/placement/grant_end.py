"""Ending a promise: what was reserved goes back to where it came from, what runs goes on."""

from __future__ import annotations

from compute.errors import InvalidState
from compute.models import Allocation, Grant, GrantUse, Host, SetAside
from compute.placement.promises import arrange
from compute.placement.reservations import draw, unit_columns, unit_of


def end_grant(*, grant: Grant, hosts: list[Host], chain: list[Grant]) -> None:
    """Take a promise back: its guests draw on nothing any more, grants below hang on the next one above.

    The caller holds the pool's `hosts` (`compute.placement.promises.lock_hosts`) and the grant's `chain`
    (`compute.placement.reservations.lock_chain`). Raises InvalidState where a grant below draws on more than its own.
    """
    below = list(Grant.unscoped.filter(parent=grant).order_by("id"))
    if grant.parent_id is None and any(row.used_units > row.units for row in below):
        raise InvalidState(
            "A grant below draws on this one beyond its own units: raise its units first.", state="units in use"
        )
    stay = sum(max(row.units, row.used_units) for row in below)
    for row in below:
        row.parent_id = grant.parent_id
        row.expandable = row.expandable and grant.parent_id is not None
        row.save(update_fields=["parent", "expandable"])
    by_id = {host.id: host for host in hosts}
    for use in GrantUse.objects.filter(grant=grant):
        _let_go(grant, use, by_id[use.host_id])
    draw(chain=chain[1:], units=stay - max(grant.units, grant.used_units))  # never more than was drawn
    Allocation.objects.filter(grant=grant).update(grant=None)
    pool = grant.pool
    Grant.unscoped.filter(id=grant.id).delete()
    arrange(pool=pool, hosts=hosts)


def _let_go(grant: Grant, use: GrantUse, host: Host) -> None:
    """Turn a grant's use of one locked host into plain use: its slots go, what its guests use stays."""
    unit = unit_of(grant)
    row = SetAside.objects.filter(host=host, **unit_columns(unit)).first()
    if row is not None and use.slots:
        row.slots, row.filled = row.slots - use.slots, row.filled - use.slots
        row.save(update_fields=["slots", "filled"])
    freed = unit.times(use.slots)
    host.held_vcpus -= freed.vcpus - use.vcpus
    host.held_memory_mib -= freed.memory_mib - use.memory_mib
    host.held_disk_gib -= freed.disk_gib - use.disk_gib
    host.save(update_fields=["held_vcpus", "held_memory_mib", "held_disk_gib"])
    use.delete()
