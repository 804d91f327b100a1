"""Stores why: one row for each placement and each refusal."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from typing import Any

from compute.models import Decision
from compute.placement.place import Placed, Refused
from compute.scheduler import explain
from compute.scheduler.model import Policy, Ranking, Request
from compute.services.remedies import Offer

_KEPT = 20


def record_placed(
    *, tenant_id: uuid.UUID, placed: Placed, request: Request, policy: Policy, name: str
) -> list[Decision]:
    """Insert one decision per consumer of the batch, in the caller's transaction."""
    common = _common(placed.ranking, request, policy, placed.hosts_seen, name)
    summary = list(explain.tenant_summary(placed.ranking))
    rows = [
        Decision(tenant_id=tenant_id, instance_id=consumer, outcome="placed", host_id=host, summary=summary, **common)
        for consumer, host in placed.hosts.items()
    ]
    created: list[Decision] = Decision.unscoped.bulk_create(rows)
    return created


def record_refused(
    *, tenant_id: uuid.UUID, refused: Refused, request: Request, policy: Policy, name: str, remedies: Sequence[Offer]
) -> Decision:
    """Insert the decision of a refusal, with what would have made it fit. The refused request's own work is rolled back."""
    decision: Decision = Decision.unscoped.create(
        tenant_id=tenant_id,
        outcome="refused",
        summary=list(explain.tenant_summary(refused.ranking)),
        remedies=[offer.as_data() for offer in remedies],
        **_common(refused.ranking, request, policy, len(refused.hosts), name),
    )
    return decision


def _common(ranking: Ranking, request: Request, policy: Policy, hosts_seen: int, name: str) -> dict[str, Any]:
    return {
        "request": {**_plain(request), "name": name},
        "policy": policy.name,
        "hosts_seen": hosts_seen,
        "tally": dict(ranking.tally),
        "candidates": [_plain(candidate) for candidate in ranking.candidates[:_KEPT]],
        "refusals": [_plain(refusal) for refusal in ranking.refusals[:_KEPT]],
    }


def _plain(value: Any) -> dict[str, Any]:
    """Dataclass -> JSON data; sets become sorted lists so that equal requests store equal text."""
    return {key: _json(item) for key, item in dataclasses.asdict(value).items()}


def _json(value: Any) -> Any:
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    return value
