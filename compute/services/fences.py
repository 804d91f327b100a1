"""Fences: orders to make sure that a host is off, and what is concluded from their proofs.

The driver itself is run by `compute.tasks.fencing`, between two transactions of this module.
"""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from typing import Final

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from compute import outbox
from compute.errors import InvalidState
from compute.fencing.base import Target
from compute.fencing.registry import LONGEST_SECONDS, driver_of
from compute.models import Evacuation, Fence, Host, HostCall, Pool
from compute.transitions import move
from tenants.errors import InvalidInput, NotFound
from tenants.services import audit
from tenants.services.access import Actor, authorize, system_actor

log = logging.getLogger(__name__)

OPERATOR = "operator"
TRIES = 5
AT_ONCE = 3  # drivers at work at the same time: each holds a control worker's thread for as long as its deadline
PAUSE_SECONDS = 10  # after the first try; doubled after each further one
UNASKED: Final = system_actor("fencing")
AWAY: Final = ("suspect", "down", "fenced")  # a switch that fails takes hosts away within seconds of each other


def fence_host(*, actor: Actor, host_id: uuid.UUID, statement: str = "", reason: str = "") -> Fence:
    """Order that a host that is down be switched off for sure; with `statement` an operator answers for it, at once.

    A fenced host may be fenced again: a later proof covers what was heard of it since the first. An order that is open is
    returned as it is. Raises InvalidState for a host that is heard, or for which no driver is configured.
    """
    authorize(actor, "host.fence", None)
    with transaction.atomic(durable=True):
        return order_fence(actor=actor, host=lock_host(host_id), statement=statement, reason=reason)


def order_fence(*, actor: Actor, host: Host, statement: str = "", reason: str = "") -> Fence:
    """`fence_host` for a host whose row the caller has locked."""
    if host.observed_state not in ("down", "fenced"):
        raise InvalidState(
            f"{host.name} is {host.observed_state}: only a host that is down is fenced.", state=host.observed_state
        )
    if statement and is_heard(host):
        raise InvalidState(
            f"{host.name} was heard a moment ago, so it is not off. Let its driver fence it, or take it back.",
            state=host.observed_state,
        )
    driver = OPERATOR if statement else driver_of(settings.FENCING_FILE, host.name)
    if not driver:
        raise InvalidState(
            f"No driver is configured that could switch {host.name} off: see to it that it is off, and say so.",
            state=host.observed_state,
        )
    fence: Fence | None = Fence.objects.select_for_update().filter(host=host, state="asked").first()
    if fence is not None and not statement:
        return fence
    if fence is not None:
        move(fence, "failed", error="an operator answers for it", ended_at=Now())
    fence = Fence.objects.create(host=host, driver=driver, reason=reason[:255], actor=actor.username)
    audit.record(
        actor=actor,
        action="host.fence",
        target=host,
        after={"driver": driver, "reason": reason, **({"statement": statement} if statement else {})},
    )
    if statement:
        _prove(fence, host, statement)
        fence.refresh_from_db()
    else:
        outbox.ring("fence", fence.id)
    return fence


def begin_try(*, fence_id: uuid.UUID) -> Target | None:
    """Take the next try of an open order; None where another worker has it, or where there is nothing to do any more.

    A host that was heard meanwhile is not switched off; nor is one unasked while too many of its pool are away by now.
    """
    with transaction.atomic(durable=True):
        fence, host = _lock(fence_id)
        if fence is None or host is None:
            return None
        if host.observed_state not in ("down", "fenced"):
            move(fence, "failed", error=f"the host is {host.observed_state} again", ended_at=Now())
            return None
        if fence.actor == UNASKED.username and too_many_away(host.pool):
            move(fence, "failed", error="too many of the pool's hosts are away: rather the network is", ended_at=Now())
            return None
        if Fence.objects.filter(state="asked", lease_until__gt=Now()).exclude(id=fence.id).count() >= AT_ONCE:
            return None  # rung for again by the reconciler
        free = Q(lease_until__isnull=True) | Q(lease_until__lte=Now())
        taken = Fence.objects.filter(free, id=fence.id).update(
            tries=F("tries") + 1, lease_until=Now() + timedelta(seconds=LONGEST_SECONDS + 30)
        )
        return Target(id=str(host.id), name=host.name, address=str(host.address)) if taken else None


def record_proof(*, fence_id: uuid.UUID, evidence: str) -> None:
    """The driver saw that the host is off: it is fenced, unless it was heard while the driver was at it."""
    with transaction.atomic(durable=True):
        fence, host = _lock(fence_id)
        if fence is None or host is None:
            return
        if host.observed_state not in ("down", "fenced"):
            move(fence, "failed", error=f"it was switched off while it was {host.observed_state}", ended_at=Now())
            return
        _prove(fence, host, evidence)


def record_failure(*, fence_id: uuid.UUID, error: str) -> None:
    """The try proved nothing. It is tried again after a pause, `TRIES` times in all."""
    with transaction.atomic(durable=True):
        fence, host = _lock(fence_id)
        if fence is None or host is None:
            return
        log.warning("host %s: fence try %s: %s", host.name, fence.tries, error)
        if fence.tries >= TRIES:
            move(fence, "failed", error=error[:500], ended_at=Now(), lease_until=None)
            return
        pause = timedelta(seconds=PAUSE_SECONDS * 2 ** (fence.tries - 1))
        Fence.objects.filter(id=fence.id).update(error=error[:500], lease_until=Now() + pause)


def return_host(*, actor: Actor, host_id: uuid.UUID) -> Host:
    """Take a fenced host back that is heard again. What it owes comes first; it serves when all of that is paid.

    Raises InvalidState for a host that is not fenced, or was not heard since: it has to be switched on before.
    """
    authorize(actor, "host.fence", None)
    with transaction.atomic(durable=True):
        host = lock_host(host_id)
        if host.observed_state != "fenced":
            raise InvalidState(f"{host.name} is {host.observed_state}, not fenced.", state=host.observed_state)
        if not is_heard(host):
            raise InvalidState(f"{host.name} is not heard. Switch it on first.", state=host.observed_state)
        owed = debts_of(host).count()
        move(host, "cleaning", column="observed_state", state_reason=f"pays {owed} debts before it serves again")
        for evacuation in Evacuation.objects.select_for_update().filter(host=host, state="running"):
            move(evacuation, "stopped", reason=f"{actor.username} took the host back", ended_at=Now())
        audit.record(actor=actor, action="host.return", target=host, after={"debts": owed})
        return host


def is_heard(host: Host) -> bool:
    """Return whether the host was heard lately, whatever state it is in."""
    recent = Now() - timedelta(seconds=settings.HOST_SUSPECT_SECONDS)
    return Host.objects.filter(id=host.id, last_seen_at__gt=recent).exists()


def in_use(pool: Pool) -> QuerySet[Host]:
    """Return the pool's hosts that are or were to carry guests."""
    return Host.objects.filter(pool=pool, admin_state__in=["enabled", "draining", "drained", "disabled"])


def too_many_away(pool: Pool) -> bool:
    """Return whether more hosts are away at once than the pool's policy expects to lose: then rather the network is at fault."""
    return in_use(pool).filter(observed_state__in=AWAY).count() > max(1, pool.host_losses)


def end_fences(*, host: Host, reason: str) -> None:
    """Give up the host's open orders. The caller has locked the host's row."""
    for fence in Fence.objects.select_for_update().filter(host=host, state="asked"):
        move(fence, "failed", error=reason, ended_at=Now(), lease_until=None)


def debts_of(host: Host) -> QuerySet[HostCall]:
    """What the host owes: to be done before any other call."""
    return HostCall.objects.filter(host=host, purpose="debt", state__in=["waiting", "taken"])


def holds(*, fence: Fence) -> bool:
    """Return whether the proof still stands: the host is fenced, and nothing was heard of it since.

    Whoever acts on it holds the host's row: a heartbeat then waits, and is heard after the act.
    """
    return (
        Host.objects.filter(id=fence.host_id, observed_state="fenced")
        .filter(Q(last_seen_at__isnull=True) | Q(last_seen_at__lt=fence.ended_at))
        .exists()
    )


def lock_host(host_id: uuid.UUID) -> Host:
    """Return a host with its row locked. Raises NotFound."""
    rows = Host.objects.select_for_update(of=("self",), no_key=True).select_related("pool")
    host: Host | None = rows.filter(id=host_id).exclude(admin_state="removed").first()
    if host is None:
        raise NotFound
    return host


def _lock(fence_id: uuid.UUID) -> tuple[Fence | None, Host | None]:
    """The host's row first, as everybody does, then the fence's while it is open."""
    host_id = Fence.objects.filter(id=fence_id, state="asked").values_list("host_id", flat=True).first()
    if host_id is None:
        return None, None
    host = lock_host(host_id)
    return Fence.objects.select_for_update().filter(id=fence_id, state="asked").first(), host


def _prove(fence: Fence, host: Host, evidence: str) -> None:
    if not evidence.strip():
        raise InvalidInput.field("/statement", "blank", "Say what makes you sure that the host is off.")
    move(fence, "proved", evidence=evidence.strip()[:500], error="", ended_at=Now(), lease_until=None)
    if host.observed_state == "down":
        move(host, "fenced", column="observed_state", state_reason=f"fenced by {fence.driver}: {evidence}"[:255])
    log.warning("host %s is fenced by %s: %s", host.name, fence.driver, evidence)
