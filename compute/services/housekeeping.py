"""Drops rows that have served their time, so that tables stay as large as the cloud, not as its age."""

from __future__ import annotations

from datetime import timedelta

from django.db.models.functions import Now

from compute.models import HostCall, JoinToken

CALL_DAYS = 7
JOIN_TOKEN_DAYS = 30


def expire() -> int:
    """Delete settled host calls and dead join tokens. Operations, decisions and audit events are history and stay."""
    calls, _ = HostCall.objects.filter(
        state__in=["answered", "superseded"], settled=True, created_at__lt=Now() - timedelta(days=CALL_DAYS)
    ).delete()
    tokens, _ = JoinToken.objects.filter(expires_at__lt=Now() - timedelta(days=JOIN_TOKEN_DAYS)).delete()
    return calls + tokens
