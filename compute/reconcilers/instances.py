"""Wanted against observed, for instances that have no open operation and whose host is up and listed lately.

R1 stopped by itself: the guest shut itself down -> the wish follows (`stopped`), with an audit event. A crash is shown.
R2 gone after a reboot of its host, or its definition is missing -> started again, once per observation.
R3 running against the wish (`stopped`) -> stopped again.
R4 no limbo: `building` or `deleting` without an open operation -> its deletion is ordered.
R5 a domain with our mark whose instance is deleted or failed -> reaped by its host.
R6 a domain with our mark of which no row tells, or which lives elsewhere -> left alone, reported by the audit: a
   database restored from an old backup must not destroy what it does not know.
R7 a directory in storage whose instance is deleted or failed -> reaped. Unknown ones are left alone.
"""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now

from compute import outbox, states
from compute.errors import OperationInProgress
from compute.models import Domain, Host, HostCall, Instance, Operation
from compute.services.instances_power import submit_power
from tenants.services import audit
from tenants.services.access import system_actor

log = logging.getLogger(__name__)
ACTOR = system_actor("reconciler")
REAP_PAUSE_SECONDS = 60


def run() -> int:
    """Return how many repairs were ordered or made."""
    return _power() + _limbo() + _strays()


def _quiet() -> Any:
    open_now = Operation.objects.filter(
        target_type="instance", target_id=OuterRef("instance_id"), state__in=states.OPERATION_OPEN
    )
    return ~Exists(open_now)


# Two questions, each with its index: one that asks both at once reads every guest of the cloud.
_AGAINST_THE_WISH = (
    Q(instance__desired_power="running", power__in=["stopped", "absent"]),
    Q(instance__desired_power="stopped", power__in=["running", "paused"]),
)


def _power() -> int:
    reports = Domain.objects.filter(
        _quiet(),
        host=F("instance__host"),
        instance__state="active",
        host__observed_state="up",
        # Settled: an operation that has just ended may be newer than the report.
        since__lt=Now() - timedelta(seconds=8),
        host__observed_at__gt=Now() - timedelta(seconds=settings.HOST_SUSPECT_SECONDS),
    ).select_related("host")
    return sum(_repair(report) for wrong in _AGAINST_THE_WISH for report in reports.filter(wrong)[:200])


def _repair(report: Domain) -> int:
    with transaction.atomic():
        instance: Instance = Instance.unscoped.select_for_update(of=("self",), no_key=True).get(id=report.instance_id)
        now_reported = Domain.objects.filter(id=report.id).values_list("power", flat=True).first()
        if instance.state != "active" or now_reported != report.power or _evacuated_in_vain(instance):
            return 0
        if instance.desired_power == "running" and report.power == "stopped" and not _rebooted_since(report, instance):
            Instance.unscoped.filter(id=instance.id).update(desired_power="stopped", version=F("version") + 1)
            audit.record(
                actor=ACTOR,
                action="instance.drift",
                tenant=instance.tenant_id,
                target=instance,
                after={"power": "stopped", "rule": "R1"},
            )
            return 1
        kind = "instance_start" if instance.desired_power == "running" else "instance_stop"
        try:
            operation = submit_power(actor=ACTOR, instance=instance, kind=kind, arguments={})
        except OperationInProgress:
            return 0
        audit.record(
            actor=ACTOR,
            action="instance.drift",
            tenant=instance.tenant_id,
            target=instance,
            operation_id=operation.id,
            after={"power": report.power, "ordered": kind},
        )
        return 1


def _evacuated_in_vain(instance: Instance) -> bool:
    """A guest that never ran where it is now did not shut itself down; `reconcilers.evacuations` starts it again."""
    newest = Operation.objects.filter(target_type="instance", target_id=instance.id).order_by("-created_at")
    return newest.values_list("kind", "state").first() == ("instance_evacuate", "failed")


def _rebooted_since(report: Domain, instance: Instance) -> bool:
    """A guest found stopped right after its host came up did not shut itself down: the host did."""
    booted: bool = Host.objects.filter(id=report.host_id, booted_at__gt=report.since - timedelta(seconds=60)).exists()
    return booted


def _limbo() -> int:
    no_operation = ~Exists(
        Operation.objects.filter(target_type="instance", target_id=OuterRef("pk"), state__in=states.OPERATION_OPEN)
    )
    rows = Instance.unscoped.filter(
        no_operation, state__in=["building", "deleting"], created_at__lt=Now() - timedelta(seconds=60)
    )
    done = 0
    for instance_id in list(rows.values_list("id", flat=True)[:100]):
        with transaction.atomic():
            instance = Instance.unscoped.select_for_update(of=("self",), no_key=True).get(id=instance_id)
            if instance.state not in ("building", "deleting"):
                continue
            try:
                operation = outbox.submit(
                    actor=ACTOR,
                    kind="instance_delete",
                    target_type="instance",
                    target_id=instance.id,
                    target_name=instance.name,
                    tenant_id=instance.tenant_id,
                    queue_behind=True,
                )
            except OperationInProgress:
                continue
            audit.record(
                actor=ACTOR,
                action="instance.drift",
                tenant=instance.tenant_id,
                target=instance,
                operation_id=operation.id,
                after={"rule": "R4"},
            )
            done += 1
    return done


def _strays() -> int:
    done = 0
    for host in Host.objects.filter(observed_state="up").exclude(strays=[], stray_disks=[]):
        marked = {stray["instance_id"] for stray in host.strays}
        for text in sorted(marked | set(host.stray_disks)):
            done += _reap(host, text)
    return done


def _reap(host: Host, text: str) -> int:
    try:
        instance_id = uuid.UUID(text)
    except ValueError:
        return 0
    with transaction.atomic():
        instance: Instance | None = (
            Instance.unscoped.select_for_update(of=("self",), no_key=True).filter(id=instance_id).first()
        )
        if instance is None or instance.state not in ("deleted", "failed"):
            # Unknown, or alive elsewhere: `remove` would take its disk on shared storage as well. The audit reports it.
            return 0
        recently = HostCall.objects.filter(
            host=host,
            target_id=instance_id,
            purpose__in=["reap", "debt"],
            created_at__gt=Now() - timedelta(seconds=REAP_PAUSE_SECONDS),
        )
        if recently.exists() or HostCall.objects.filter(target_id=instance_id, state__in=["waiting", "taken"]).exists():
            return 0
        outbox.write_call(
            host_id=host.id,
            method="instance.remove",
            target_type="instance",
            target_id=instance_id,
            arguments={},
            deadline_seconds=90.0,
            purpose="reap",
        )
        log.warning("host %s: reaping what is left of instance %s", host.name, instance_id)
        return 1
