"""Promised room follows the hosts: re-arranged when one is lost, returns or fills up; an alarm while that is not enough.

A1 a unit's promises outlive fewer losses than the pool's policy names, or room stands idle on a host out of service
   -> set aside anew, as far as the pool has the room.
A2 still fewer -> `promise_at_risk`; not all units have a slot even now -> `promise_broken`. The alarm names the tenants.
A3 kept again -> the alarm is cleared.
A4 the grant of a tenant that was deleted -> ended.
"""

from __future__ import annotations

import logging
import uuid

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from compute.models import Alarm, Grant, Pool, SetAside
from compute.placement.grant_end import end_grant
from compute.placement.promises import IN_SERVICE, Verdict, arrange, lock_hosts, verdicts
from compute.placement.reservations import lock_chain, unit_columns
from compute.scheduler.promises import Unit

log = logging.getLogger(__name__)
KINDS = ("promise_broken", "promise_at_risk")


def run() -> int:
    """Return how many pools were re-arranged and alarms raised or cleared."""
    done = _end_orphans()
    pools = Q(grants__isnull=False) | Q(alarms__cleared_at__isnull=True, alarms__kind__in=KINDS)
    for pool in Pool.objects.filter(pools).distinct():
        found = verdicts(pool_id=pool.id)
        if any(verdict.tolerated < pool.host_losses for verdict in found) or _idle(pool):
            with transaction.atomic():
                arrange(pool=pool, hosts=lock_hosts(pool_id=pool.id))
            done += 1
            found = verdicts(pool_id=pool.id)
        done += _tell(pool, found)
    return done


def _idle(pool: Pool) -> bool:
    """Return whether empty slots stand on hosts that cannot serve them."""
    away = ~Q(host__admin_state="enabled") | ~Q(host__observed_state__in=IN_SERVICE)
    rows = SetAside.objects.filter(away, host__pool=pool)
    return any(row.slots > row.filled for row in rows)


def _end_orphans() -> int:
    ended = 0
    # From the deepest up: one that draws beyond its own units holds on to the one above.
    for grant in Grant.unscoped.filter(tenant__state="deleted").order_by("-tenant__path__len", "id"):
        with transaction.atomic():
            hosts = lock_hosts(pool_id=grant.pool_id)
            try:
                chain = lock_chain(grant.id)
            except Grant.DoesNotExist:
                continue  # another run of this, or whoever deleted it, was faster
            end_grant(grant=chain[0], hosts=hosts, chain=chain)
            ended += 1
    return ended


def _tell(pool: Pool, found: tuple[Verdict, ...]) -> int:
    changed = 0
    wanted: dict[tuple[str, str], Verdict] = {}
    for verdict in found:
        if verdict.tolerated < pool.host_losses:
            kind = "promise_broken" if verdict.tolerated < 0 else "promise_at_risk"
            wanted[kind, _subject(verdict.unit)] = verdict
    with transaction.atomic():
        rows = Alarm.objects.select_for_update().filter(pool=pool, kind__in=KINDS, cleared_at=None)
        standing = {(alarm.kind, alarm.subject): alarm for alarm in rows}
        for key, alarm in standing.items():
            if key not in wanted:
                Alarm.objects.filter(id=alarm.id).update(cleared_at=Now())
                changed += 1
        for (kind, subject), verdict in wanted.items():
            message, details = _message(pool, verdict), _details(pool.id, verdict, pool.host_losses)
            told = standing.get((kind, subject))
            if told is None:
                Alarm.objects.create(kind=kind, pool=pool, subject=subject, message=message, details=details)
                log.error("%s: %s", kind, message)
                changed += 1
            elif (told.message, told.details) != (message, details):
                Alarm.objects.filter(id=told.id).update(message=message, details=details)
    return changed


def _subject(unit: Unit) -> str:
    return f"{unit.vcpus}/{unit.memory_mib}/{unit.disk_gib}/{unit.kind or 'either'}"


def _message(pool: Pool, verdict: Verdict) -> str:
    unit = f"{verdict.unit.vcpus} vCPU, {verdict.unit.memory_mib} MiB, {verdict.unit.disk_gib} GiB"
    if verdict.tolerated < 0:
        return f"Pool {pool.name}: {verdict.promised} units of {unit} are promised, only {verdict.slots} can be placed now."
    return (
        f"Pool {pool.name}: the {verdict.promised} promised units of {unit} would outlive {verdict.tolerated} host losses, "
        f"the policy names {pool.host_losses}."
    )


def _details(pool_id: uuid.UUID, verdict: Verdict, losses: int) -> dict[str, object]:
    grants = Grant.unscoped.filter(pool_id=pool_id, units__gt=0, **unit_columns(verdict.unit)).select_related("tenant")
    return {
        "unit": {"vcpus": verdict.unit.vcpus, "memory_mib": verdict.unit.memory_mib, "disk_gib": verdict.unit.disk_gib},
        "promised": verdict.promised,
        "placeable": verdict.slots,
        "host_losses": losses,
        "tolerated": verdict.tolerated,
        "tenants": [
            {"id": str(grant.tenant_id), "name": grant.tenant.name, "units": grant.units}
            for grant in grants.order_by("tenant__name", "id")
        ],
    }
