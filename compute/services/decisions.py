"""Stores why: one row for each placement, of one instance or of a batch, and for each refusal."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction

from compute.models import Decision, HostRoster
from compute.placement.place import Placed
from compute.placement.remedies import Offer
from compute.scheduler import explain
from compute.scheduler.model import WEIGHER_NAMES, Policy, Ranking, Request
from compute.scheduler.record import pack, roster, roster_digest
from compute.scheduler.topology import NumaAsk
from compute.services.flight import record_frame
from tenants.services.quota_forecast import QuotaEffect

_stored_rosters: set[str] = set()
"""Digests that this process knows to be committed: hosts come and go seldom, placements come by the thousand."""


def placed_decision(
    *,
    decision_id: uuid.UUID,
    tenant_id: uuid.UUID,
    placed: Placed,
    request: Request,
    policy: Policy,
    name: str,
    recording: bool,
) -> Decision:
    """Return the decision about an instance or a batch, for the caller to insert; what it points to is written now.

    `recording`: with the hosts as it saw them, for a replay.
    """
    (first, host), *others = placed.hosts.items()
    # The first of such a batch saw the hosts of its reservation alone, the last ones perhaps all: one look is no record.
    recording = recording and not (others and placed.drawn)
    best = placed.ranking.candidates
    return Decision(
        id=decision_id,
        tenant_id=tenant_id,
        outcome="placed",
        instance_id=None if others else first,
        host_id=host,
        plan=[[str(consumer), str(chosen)] for consumer, chosen in placed.hosts.items()] if others else [],
        passed_over=next((place for place, one in enumerate(best) if one.host_id == str(host)), 0) if not others else 0,
        **_common(placed.ranking, request, policy, name, len(placed.hosts), recording),
    )


def record_refused(
    *,
    tenant_id: uuid.UUID,
    code: str,
    ranking: Ranking,
    request: Request,
    policy: Policy,
    name: str,
    count: int,
    remedies: Sequence[Offer],
    recording: bool,
    quota: Sequence[QuotaEffect] = (),
) -> Decision:
    """Insert the decision of a refusal, with what would make it fit. The refused request's own work is rolled back."""
    decision: Decision = Decision.unscoped.create(
        tenant_id=tenant_id,
        outcome="refused",
        code=code,
        remedies=[offer.stored() for offer in remedies],
        quota=[_line(line) for line in quota],
        **_common(ranking, request, policy, name, count, recording),
    )
    return decision


def _common(
    ranking: Ranking, request: Request, policy: Policy, name: str, count: int, recording: bool
) -> dict[str, Any]:
    return {
        "request": {"name": name, "count": count, **_lean(request)},
        "policy": policy.name,
        "weights": {weigher: policy.weight(weigher) for weigher in WEIGHER_NAMES if policy.weight(weigher)},
        "hosts_seen": len(ranking.candidates) + len(ranking.refusals),
        "tally": dict(ranking.tally),
        "frame": record_frame(pool_id=uuid.UUID(request.pool_id), ranking=ranking)
        if recording and request.pool_id
        else None,
        "roster": _roster(ranking),
        "record": pack(ranking, request),
        "summary": list(explain.tenant_summary(ranking)),
    }


def _roster(ranking: Ranking) -> str:
    """Return the digest of the hosts looked at; their ids are stored with the first decision that looked at them."""
    ids = roster(ranking)
    digest = roster_digest(ids)
    if digest not in _stored_rosters:
        row = HostRoster(digest=digest, host_ids=b"".join(uuid.UUID(host_id).bytes for host_id in ids))
        HostRoster.objects.bulk_create([row], ignore_conflicts=True)
        transaction.on_commit(lambda: _stored_rosters.add(digest))
    return digest


def _line(line: QuotaEffect) -> dict[str, Any]:
    return {**dataclasses.asdict(line), "tenant_id": str(line.tenant_id)}


def _lean(request: Request) -> dict[str, Any]:
    """The request as JSON data, without what is at its default; sets as sorted lists, so that equal ones are equal text."""
    plain = Request(kind=request.kind, resources=request.resources)
    kept = {
        item.name: getattr(request, item.name)
        for item in dataclasses.fields(request)
        if getattr(request, item.name) != getattr(plain, item.name)
    }
    return {"kind": request.kind, "resources": dataclasses.asdict(request.resources), **_json(kept)}


def _json(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, NumaAsk):
        return dataclasses.asdict(value)
    return value
