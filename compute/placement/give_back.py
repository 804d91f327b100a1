"""The one way in which an instance's room, quota and addresses go back, exactly once."""

from __future__ import annotations

from compute.models import HostCall, Instance, Port
from compute.placement import limits
from compute.placement.claims import release
from tenants.services import metering, quotas, tree


def quota_amounts(*, vcpus: int, memory_mib: int, disk_gib: int, count: int = 1) -> dict[str, int]:
    """Return what `count` instances of this size are charged for."""
    return {"instances": count, "vcpus": vcpus * count, "memory_mib": memory_mib * count, "disk_gib": disk_gib * count}


def give_back(*, instance: Instance) -> None:
    """Release the allocation, the quota with it, and end its usage. A second call finds no allocation and does nothing.

    The allocation row is the receipt: quota was charged in the transaction that made it, and is released in the one
    that deletes it, so neither can be given back twice. Needs the instance's row locked.
    """
    tenant = tree.hold_at(instance.tenant_id)
    if not release(consumer_type="instance", consumer_id=instance.id):
        return
    metering.release(consumer_id=instance.id)
    amounts = quota_amounts(vcpus=instance.vcpus, memory_mib=instance.memory_mib, disk_gib=instance.disk_gib)
    quotas.release(tenant=tenant, amounts=amounts)
    limits.release(tenant=tenant, pool_id=instance.pool_id, amounts=amounts)


def free_addresses(*, instance: Instance) -> bool:
    """Give the ports of an ended instance back, unless a host still owes its removal; return whether they are free.

    What is owed may still run on a host that cannot be reached: its address in another guest's hands would be one
    address on two machines. `services.housekeeping` asks again once the debt is paid.
    """
    if HostCall.objects.filter(target_id=instance.id, purpose="debt", state__in=["waiting", "taken"]).exists():
        return False
    Port.unscoped.filter(instance=instance).delete()
    return True
