"""Taking and giving back room on hosts: the only writer of `Host.used_*` and of Allocation.

Lock order (never varied): instance -> host rows by id -> inserts -> quota rows from leaf to root. Freeing takes no more
locks than the host's row.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from django.db.models import F

from compute.models import Allocation, Host
from compute.placement.loader import host_inventory, host_used
from compute.scheduler.capacity import fits
from compute.scheduler.model import Resources


class ClaimRefused(Exception):
    """The host no longer takes the request: it filled up or left service between ranking and claim."""


def claim(*, wanted: Mapping[uuid.UUID, tuple[uuid.UUID, Resources]]) -> None:
    """Allocate for each consumer instance id -> (host id, resources), or raise ClaimRefused for all.

    Locks the host rows by id, asks the same `fits()` that ranking asked on the sums as they are now (closing the race
    between two schedulers with the same snapshot), then writes allocations and sums. The caller rolls back to a
    savepoint on ClaimRefused, so that a refused host does not stay locked.
    """
    per_host: dict[uuid.UUID, list[tuple[uuid.UUID, Resources]]] = {}
    for consumer, (host_id, asked) in wanted.items():
        per_host.setdefault(host_id, []).append((consumer, asked))
    # `of=("self",)`: the pool's row is read, not locked, or all hosts of a pool would queue behind one another.
    locked = Host.objects.select_for_update(of=("self",)).select_related("pool").filter(id__in=per_host).order_by("id")
    hosts = {host.id: host for host in locked}
    for host_id in sorted(per_host):
        host = hosts.get(host_id)
        if host is None or host.admin_state != "enabled" or host.observed_state != "up":
            raise ClaimRefused(f"host {host_id} left service")
        total = Resources(vcpus=0, memory_mib=0, disk_gib=0)
        for _, asked in per_host[host_id]:
            total = total + asked
        if fits(host_inventory(host), host_used(host), total):
            raise ClaimRefused(f"host {host_id} filled up")
        Allocation.objects.bulk_create(
            Allocation(
                host_id=host_id,
                consumer_type="instance",
                consumer_id=consumer,
                vcpus=asked.vcpus,
                memory_mib=asked.memory_mib,
                disk_gib=asked.disk_gib,
            )
            for consumer, asked in per_host[host_id]
        )
        Host.objects.filter(id=host_id).update(
            used_vcpus=F("used_vcpus") + total.vcpus,
            used_memory_mib=F("used_memory_mib") + total.memory_mib,
            used_disk_gib=F("used_disk_gib") + total.disk_gib,
            used_instances=F("used_instances") + len(per_host[host_id]),
        )


def release(*, consumer_type: str, consumer_id: uuid.UUID) -> bool:
    """Give back a consumer's room. Return False when it held none: exactly-once comes from the row's own deletion."""
    rows = list(Allocation.objects.select_for_update().filter(consumer_type=consumer_type, consumer_id=consumer_id))
    for row in rows:
        Host.objects.filter(id=row.host_id).update(
            used_vcpus=F("used_vcpus") - row.vcpus,
            used_memory_mib=F("used_memory_mib") - row.memory_mib,
            used_disk_gib=F("used_disk_gib") - row.disk_gib,
            used_instances=F("used_instances") - 1,
        )
        row.delete()
    return bool(rows)
