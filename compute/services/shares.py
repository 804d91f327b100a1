"""What ran in the tenants' partitions of a host, smoothed, from its heartbeats."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from django.db.models.functions import Now

from compute.models import Host, HostShare
from compute.wire import PartitionReport, partition_name

SMOOTHING_SECONDS: Final = 30.0  # a change is two thirds there after that long
_MOST: Final = 1e12  # seconds; more is no counter


def note_partitions(
    *, host: Host, boot_id: str, reports: Sequence[PartitionReport], tenants: Iterable[uuid.UUID]
) -> None:
    """Bring the host's rows to this report, in three statements however many tenants it carries.

    `tenants` are those with guests on the host, and those above them: of no other may a host speak.
    """
    by_name = {partition_name(str(tenant)): tenant for tenant in tenants}
    seen: dict[uuid.UUID, list[PartitionReport]] = {}
    for report in reports:
        tenant = by_name.get(report.path[-1]) if report.path else None
        if tenant is not None and _is_sane(report):
            # More than one where guests run on in the place that their tenant had before it was moved.
            seen.setdefault(tenant, []).append(report)
    known = {row.tenant_id: row for row in HostShare.unscoped.filter(host=host)}
    rows = [_next_row(host, boot_id, tenant, parts, known.get(tenant)) for tenant, parts in seen.items()]
    # In order of their ids: two reports of one host at once take the rows one after the other.
    HostShare.unscoped.bulk_create(
        sorted(rows, key=lambda row: row.tenant_id),
        update_conflicts=True,
        unique_fields=["host", "tenant"],
        update_fields=[
            *("applied", "cpu_seconds", "waited_seconds", "at", "boot_id"),
            *("delivered", "waited", "observed_at"),
        ],
    )
    if gone := known.keys() - seen.keys():
        HostShare.unscoped.filter(host=host, tenant__in=gone).delete()


def _is_sane(report: PartitionReport) -> bool:
    """Return whether the numbers are such: JSON may hold anything, and so may a host that has fallen."""
    numbers = (report.cpu_seconds, report.waited_seconds, report.at)
    return all(math.isfinite(number) and 0 <= number < _MOST for number in numbers) and 0 <= report.cpu_shares < 2**31


def _next_row(
    host: Host, boot_id: str, tenant: uuid.UUID, parts: Sequence[PartitionReport], last: HostShare | None
) -> HostShare:
    row = HostShare(
        host=host,
        tenant_id=tenant,
        applied=min(part.cpu_shares for part in parts),
        cpu_seconds=sum(part.cpu_seconds for part in parts),
        waited_seconds=sum(part.waited_seconds for part in parts),
        at=max(part.at for part in parts),
        boot_id=boot_id,
        observed_at=Now(),
    )
    if last is not None:
        row.delivered, row.waited = last.delivered, last.waited
        seconds = row.at - last.at
        # Counters begin anew with a boot, a new partition, and (waited) a restarted node worker.
        if last.boot_id == boot_id and seconds > 0:
            weight = 1 - math.exp(-seconds / SMOOTHING_SECONDS)
            if row.cpu_seconds >= last.cpu_seconds:
                row.delivered += weight * ((row.cpu_seconds - last.cpu_seconds) / seconds - last.delivered)
            if row.waited_seconds >= last.waited_seconds:
                row.waited += weight * ((row.waited_seconds - last.waited_seconds) / seconds - last.waited)
    return row
