"""The books of an instance that changes its size: row, room, usage, quota and limits move together, in one transaction.

While the host works, the larger of both sizes is held of each resource (`grow`); what is not needed in the end goes back
(`cut`), after success and after failure alike. A cut cannot be refused, so neither can the end of a resize.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import F

from compute.models import Flavor, Host, Instance
from compute.placement import limits
from compute.placement.claims import ClaimRefused, Seat, claim, release, shrink
from compute.placement.loader import host_inventory, host_used
from compute.placement.reservations import Reservation, ask_chain
from compute.scheduler.capacity import fits
from compute.scheduler.model import Resources, Shortfall
from tenants.services import metering, quotas, tree
from tenants.services.access import Actor


class RoomRefused(Exception):
    """The instance's host does not take the larger size.

    `missing`: what it lacks for the difference in the room that nobody has reserved. Empty where the host left service
    (`in_service` False), or where the reservation that the instance fills is too small and the whole fits nowhere else.
    """

    def __init__(self, *, in_service: bool, missing: tuple[Shortfall, ...]) -> None:
        super().__init__("no room")
        self.in_service = in_service
        self.missing = missing


def size_of(row: Instance | Flavor) -> Resources:
    """Return the size of an instance, or the one that a flavor gives."""
    return Resources(vcpus=row.vcpus, memory_mib=row.memory_mib, disk_gib=row.disk_gib)


def larger_of(one: Resources, other: Resources) -> Resources:
    """Return the larger amount of each resource."""
    return Resources(
        vcpus=max(one.vcpus, other.vcpus),
        memory_mib=max(one.memory_mib, other.memory_mib),
        disk_gib=max(one.disk_gib, other.disk_gib),
    )


def amounts_of(difference: Resources) -> dict[str, int]:
    """Return what a change of size moves in quota and limits. Needs a difference without negative amounts."""
    return {"vcpus": difference.vcpus, "memory_mib": difference.memory_mib, "disk_gib": difference.disk_gib}


def refusal_of(*, instance: Instance, size: Resources) -> RoomRefused | None:
    """Return what `grow` would meet on the host now. Does it and takes it back, so that both always agree."""
    with transaction.atomic():
        tree.hold()
        Instance.unscoped.select_for_update(no_key=True).get(id=instance.id)
        try:
            _take(instance, size)
        except RoomRefused as error:
            return error
        finally:
            transaction.set_rollback(True)
    return None


def grow(*, instance: Instance, size: Resources, flavor: Flavor, actor: Actor) -> None:
    """Take the difference to `size`, no amount of which is below the present one, on the instance's own host.

    As when it was made, the tenant's reservation is drawn first, then the room that nobody has reserved. Needs the
    instance's row locked, `instance.pool` loaded. Raises RoomRefused, QuotaExceeded; the transaction is to be rolled back.
    """
    tenant = tree.hold_at(instance.tenant_id)
    before = size_of(instance)
    if size != before:
        _take(instance, size)
    _write(instance, size, flavor)
    amounts = amounts_of(size - before)
    quotas.charge(tenant=tenant, actor=actor, amounts=amounts)
    limits.charge_last(tenant=tenant, actor=actor, pool=instance.pool, amounts=amounts)()


def cut(*, instance: Instance, size: Resources, flavor: Flavor) -> None:
    """Give back what is above `size`, no amount of which is above the present one. A second call changes nothing.

    Needs the instance's row locked.
    """
    tenant = tree.hold_at(instance.tenant_id)
    amounts = amounts_of(size_of(instance) - size)
    if any(amounts.values()):
        shrink(consumer_id=instance.id, size=size)
    elif instance.flavor_id == flavor.id:
        return
    _write(instance, size, flavor)
    quotas.release(tenant=tenant, amounts=amounts)
    limits.release(tenant=tenant, pool_id=instance.pool_id, amounts=amounts)


def _take(instance: Instance, size: Resources) -> None:
    assert instance.host_id is not None
    tenant = tree.hold_at(instance.tenant_id)
    chain = ask_chain(pool_id=instance.pool_id, tenant_path=tenant.path)()
    own = Reservation.load(pool_id=instance.pool_id, chain=chain)
    grants = [own.grant_id, None] if own else [None]
    for grant_id in grants:
        try:
            with transaction.atomic():
                # The room is given back and claimed anew under one lock of the host: the net of both is the difference.
                release(consumer_type="instance", consumer_id=instance.id)
                claim(wanted={instance.id: Seat(instance.host_id, size, grant_id)})
        except ClaimRefused:
            continue
        return
    host = Host.objects.select_related("pool").get(id=instance.host_id)
    if host.admin_state != "enabled" or host.observed_state != "up":
        raise RoomRefused(in_service=False, missing=())
    more = size - size_of(instance)
    raise RoomRefused(in_service=True, missing=fits(host_inventory(host), host_used(host), more))


def _write(instance: Instance, size: Resources, flavor: Flavor) -> None:
    sizes = {"vcpus": size.vcpus, "memory_mib": size.memory_mib, "disk_gib": size.disk_gib}
    Instance.unscoped.filter(id=instance.id).update(flavor=flavor, version=F("version") + 1, **sizes)
    instance.flavor, instance.version = flavor, instance.version + 1
    instance.vcpus, instance.memory_mib, instance.disk_gib = size.vcpus, size.memory_mib, size.disk_gib
    metering.resize(consumer_id=instance.id, flavor_id=flavor.id, flavor_name=flavor.name, **sizes)
