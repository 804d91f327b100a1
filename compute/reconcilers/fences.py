"""R1: an open order to fence whose worker died, or whose pause is over, is rung for again.
R2: in a pool that wants it (`auto_fence`), a host that is down and has a driver is fenced unasked; but not while more of
the pool's hosts are away at once than its policy expects to lose: then rather the network is, and a person has to look.
A host without guests is left alone: nobody waits for it.
R3: an order that was given up is not repeated for the same outage: a person has to look."""

from __future__ import annotations

import logging

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now

from compute import outbox, states
from compute.errors import InvalidState
from compute.fencing.registry import driver_of
from compute.models import Fence, Instance, Pool
from compute.services.fences import UNASKED, in_use, lock_host, order_fence, too_many_away

log = logging.getLogger(__name__)


def run() -> int:
    """Return how many orders were rung for or given."""
    return _ring() + sum(map(_order, Pool.objects.filter(auto_fence=True)))


def _ring() -> int:
    with transaction.atomic():
        due = Fence.objects.filter(Q(lease_until__isnull=True) | Q(lease_until__lte=Now()), state="asked")
        ids = list(due.values_list("id", flat=True))
        for fence_id in ids:
            outbox.ring("fence", fence_id)
    return len(ids)


def _order(pool: Pool) -> int:
    if too_many_away(pool):
        return 0
    guests = Instance.unscoped.filter(host=OuterRef("pk"), state__in=states.INSTANCE_HOLDS_ROOM)
    hosts = in_use(pool).filter(Exists(guests))
    tried = Fence.objects.filter(host__in=hosts, asked_at__gte=F("host__last_seen_at")).values("host_id")
    ordered = 0
    for host in hosts.filter(observed_state="down").exclude(id__in=tried):
        if not driver_of(settings.FENCING_FILE, host.name):
            continue
        try:
            with transaction.atomic():
                order_fence(
                    actor=UNASKED, host=lock_host(host.id), reason=f"pool {pool.name} fences hosts that are down"
                )
        except InvalidState:
            continue  # heard in between
        ordered += 1
    return ordered
