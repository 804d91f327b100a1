"""Drops rows that have served their time, so that tables stay as large as the cloud, not as its age."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models.functions import Now

from compute.models import HostCall, Instance, JoinToken, Plan, Port
from compute.placement.give_back import free_addresses
from compute.services.flight import expire_frames

CALL_DAYS = 7
JOIN_TOKEN_DAYS = 30
PROPOSAL_DAYS = 7


def expire() -> int:
    """Delete settled host calls, dead join tokens, plans that nobody applied, recorded frames beyond their room, and addresses
    kept for a debt that is paid since.

    Operations, decisions and audit events are history and stay.
    """
    calls, _ = HostCall.objects.filter(
        state__in=["answered", "superseded"], settled=True, created_at__lt=Now() - timedelta(days=CALL_DAYS)
    ).delete()
    tokens, _ = JoinToken.objects.filter(expires_at__lt=Now() - timedelta(days=JOIN_TOKEN_DAYS)).delete()
    plans, _ = Plan.objects.filter(state="expired", ended_at__lt=Now() - timedelta(days=PROPOSAL_DAYS)).delete()
    return calls + tokens + plans + expire_frames() + _paid_addresses()


def _paid_addresses() -> int:
    ended = Port.unscoped.filter(instance__state__in=["failed", "deleted"]).values_list("instance_id", flat=True)
    freed = 0
    for instance_id in set(ended[:1000]):
        with transaction.atomic():
            instance = Instance.unscoped.select_for_update(of=("self",), no_key=True).get(id=instance_id)
            freed += free_addresses(instance=instance)
    return freed
