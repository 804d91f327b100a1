"""A refused create becomes a decision: what refused, and what would make it succeed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import transaction

from compute.models import Decision
from compute.placement.place import Refused
from compute.placement.remedies import Case, find_offers, shown_offers
from compute.scheduler.model import Ranking
from compute.scheduler.ranking import rank
from compute.services import decisions
from compute.services.instances_case import load_case
from compute.services.instances_wanted import Wanted
from tenants.errors import QuotaExceeded
from tenants.models import Tenant
from tenants.services.access import Actor, visible_tenant_ids


@dataclass(frozen=True, slots=True)
class Refusal:
    """The stored decision, and what of it goes into the problem that the actor is told."""

    decision: Decision
    data: dict[str, Any]


def record_refusal(
    *,
    actor: Actor,
    tenant: Tenant,
    wanted: Wanted,
    name: str,
    count: int,
    code: str,
    refused: Refused | None = None,
) -> Refusal:
    """Store the decision in a transaction of its own. `refused`: by placement; left out, the ranking is made here.

    The cloud is read anew, so where others have given room back meanwhile there may be no remedy: trying again is one.
    """
    case = load_case(tenant=tenant, wanted=wanted, count=count, all_pools=True)
    offers = find_offers(case)
    with transaction.atomic(durable=True):
        decision = decisions.record_refused(
            tenant_id=tenant.id,
            code=code,
            ranking=refused.ranking if refused else _ranking_of(case),
            request=refused.request if refused else case.request,
            policy=case.policy,
            name=name,
            count=count,
            remedies=offers,
            recording=wanted.pool.recording,
            quota=case.quota if code == QuotaExceeded.code else (),
        )
    shown = shown_offers(decision.remedies, visible_tenant_ids(actor))
    return Refusal(decision, {"remedies": shown, "decision_id": str(decision.id)})


def _ranking_of(case: Case) -> Ranking:
    """The ranking of the hosts of the pool that was asked for."""
    own = [host for host in case.snapshot.hosts if host.pool_id == case.request.pool_id]
    return rank(case.snapshot if len(own) == len(case.snapshot) else own, case.request, case.policy)
