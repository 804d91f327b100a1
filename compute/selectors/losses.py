"""Reads about fences and evacuations, for operators."""

from __future__ import annotations

from dataclasses import dataclass

from compute.models import Evacuation, Fence, Host, HostCall


@dataclass(frozen=True, slots=True)
class LossState:
    """How far a host's loss has come: the newest fence and evacuation since it was last in service, and what it owes."""

    fence: Fence | None
    evacuation: Evacuation | None
    debts: int


def loss_state(*, host: Host) -> LossState:
    """Return the newest fence and evacuation of a host, and how many debts it has open. Three queries."""
    owed = HostCall.objects.filter(host=host, purpose="debt", state__in=["waiting", "taken"])
    return LossState(
        fence=Fence.objects.filter(host=host).order_by("-asked_at").first(),
        evacuation=Evacuation.objects.filter(host=host).order_by("-asked_at").first(),
        debts=owed.count(),
    )
