"""R1: a host that has not been heard for `HOST_SUSPECT_SECONDS` is suspect, for `HOST_DOWN_SECONDS` down.
R2: a host that is `cleaning` has paid its debts and was heard of lately -> up; silent -> down again.
R3: leased calls of reads, debts and reaps whose host went silent wait again (an operation's own calls are the engine's).

Being down is an observation. It never restarts anything elsewhere: that needs a fence."""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from compute.errors import TransitionRefused
from compute.models import Host, HostCall
from compute.transitions import move

log = logging.getLogger(__name__)


def run() -> int:
    """Return how many hosts changed."""
    changed = 0
    for seconds, target, states in (
        (settings.HOST_DOWN_SECONDS, "down", ["suspect", "cleaning"]),
        (settings.HOST_SUSPECT_SECONDS, "suspect", ["up"]),
    ):
        silent = Host.objects.filter(observed_state__in=states, last_seen_at__lt=Now() - timedelta(seconds=seconds))
        for host in silent.exclude(admin_state="removed"):
            changed += _silent(host, target, seconds)
    changed += sum(_clean(host_id) for host_id in _paid())
    with transaction.atomic():
        lost = HostCall.objects.filter(
            state="taken",
            operation__isnull=True,
            lease_until__lt=Now() - timedelta(seconds=settings.HOST_CALL_LEASE_SECONDS),
        ).select_for_update(skip_locked=True)
        for call in lost:
            if call.purpose == "read":
                move(call, "superseded", settled=True)
            else:
                move(call, "waiting", lease_until=None)
    return changed


def _paid() -> list[uuid.UUID]:
    owed = HostCall.objects.filter(host=OuterRef("pk"), purpose="debt", state__in=["waiting", "taken"])
    heard = Host.objects.filter(last_seen_at__gt=Now() - timedelta(seconds=settings.HOST_SUSPECT_SECONDS))
    return list(heard.filter(~Exists(owed), observed_state="cleaning").values_list("id", flat=True))


def _clean(host_id: uuid.UUID) -> int:
    try:
        with transaction.atomic():
            host = Host.objects.select_for_update(of=("self",), no_key=True).get(id=host_id)
            move(host, "up", column="observed_state", state_reason="")
    except TransitionRefused:
        return 0
    log.warning("host %s has paid what it owed and serves again", host.name)
    return 1


def _silent(host: Host, target: str, seconds: int) -> int:
    try:
        with transaction.atomic():
            # Under the row lock the silence is looked at again: a heartbeat may have come in between.
            fresh = Host.objects.select_for_update(of=("self",), no_key=True).filter(
                id=host.id, last_seen_at__lt=Now() - timedelta(seconds=seconds)
            )
            if not fresh.exists():
                return 0
            move(host, target, column="observed_state", state_reason=f"not heard for more than {seconds} s")
    except TransitionRefused:
        return 0
    log.warning("host %s is %s: not heard for more than %s s", host.name, target, seconds)
    return 1
