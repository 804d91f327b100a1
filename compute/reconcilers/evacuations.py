"""R1: in a pool that wants it (`auto_evacuate`), the guests of a fenced host are evacuated unasked, once for each fence.
R2: a running evacuation goes on, whatever died meanwhile; who could not go is asked about again, since room may have come.
R3: a guest that has its room elsewhere and did not start there (its disk still locked, its new host short of memory) is
started again after a pause, until it runs or its owner wishes something else."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from compute import states
from compute.errors import InvalidState
from compute.models import Evacuation, Host, Instance, Operation
from compute.services.evacuations import ACTOR, order_evacuation, start_again, take_turn
from compute.services.fences import lock_host

PAUSE_SECONDS = 60


def run() -> int:
    """Return how many evacuations were ordered and guests moved."""
    ordered = sum(_order(host) for host in _lost())
    running = Evacuation.objects.filter(state="running").order_by("asked_at").values_list("id", flat=True)
    moved = sum(take_turn(evacuation_id=found, blocked_too=True) for found in list(running))
    return ordered + moved + sum(start_again(failed=failed) for failed in _in_vain())


def _in_vain() -> list[Operation]:
    newer = Operation.objects.filter(target_id=OuterRef("target_id"), created_at__gt=OuterRef("created_at"))
    called_for = Instance.unscoped.filter(
        id=OuterRef("target_id"), state="active", desired_power="running", host__observed_state="up"
    )
    failed = Operation.objects.filter(
        kind="instance_evacuate", state="failed", finished_at__lt=Now() - timedelta(seconds=PAUSE_SECONDS)
    )
    return list(failed.filter(~Exists(newer), Exists(called_for)).order_by("finished_at")[:200])


def _lost() -> list[Host]:
    guests = Instance.unscoped.filter(host=OuterRef("pk"), state__in=states.INSTANCE_HOLDS_ROOM)
    since = Evacuation.objects.filter(host=OuterRef("pk"), fence__ended_at__gte=OuterRef("last_seen_at"))
    fenced = Host.objects.filter(observed_state="fenced", pool__auto_evacuate=True)
    return list(fenced.filter(Exists(guests), ~Exists(since)))


def _order(host: Host) -> int:
    try:
        with transaction.atomic():
            order_evacuation(actor=ACTOR, host=lock_host(host.id))
    except InvalidState:
        return 0  # heard after its fence
    return 1
