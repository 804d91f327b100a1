"""Reads of decisions: stored records turned into what a tenant and what an operator may see."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Q, QuerySet

from compute.models import Decision, Host, HostRoster, Instance
from compute.placement.remedies import shown_offers
from compute.scheduler import explain
from compute.scheduler.model import UNITS, Candidate
from compute.scheduler.record import Numbers, Record, RecordError, resource_of, unpack
from compute.scheduler.topology import MEASURES, NumaAsk, Shortage, room
from tenants.errors import NotFound
from tenants.scope import ALL, Scope
from tenants.services.access import Actor, authorize, visible_tenant_ids
from tenants.services.quota_forecast import QuotaEffect, shown_lines


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a decision found of one host. `place` among the candidates, 1 is the best; None: refused, or not among those kept.

    `failing`: the filters that refused, in their order. `free`, `margin` (free - asked): resource -> amount, before the
    request; empty where the host is not among the best or the closest. `points`: weigher -> what it added to `score`.
    """

    host_id: str
    host_name: str
    failing: tuple[str, ...]
    place: int | None
    free: Mapping[str, int]
    margin: Mapping[str, int]
    points: Mapping[str, float]
    score: float | None


@dataclass(frozen=True, slots=True)
class Explained:
    """A decision's record in full, for operators. `tie`: the best and the next have one score, and their ids decided."""

    verdicts: tuple[Verdict, ...]
    best: tuple[Verdict, ...]
    closest: tuple[Verdict, ...]
    choice: str
    tie: bool


def list_decisions(
    *, actor: Actor, instance_id: uuid.UUID | None = None, outcome: str | None = None
) -> QuerySet[Decision]:
    """Return the decisions that the actor may read, newest first. Their records are left out: see `get_decision`."""
    visible = visible_tenant_ids(actor, "decision.read")
    rows: QuerySet[Decision] = Decision.unscoped.select_related("tenant", "host").defer("record")
    if visible is not ALL:
        rows = rows.filter(tenant_id__in=visible)
    if instance_id is not None:
        placed_by = Instance.unscoped.filter(id=instance_id).values("decision_id")
        rows = rows.filter(Q(instance_id=instance_id) | Q(id__in=placed_by))
    if outcome is not None:
        rows = rows.filter(outcome=outcome)
    return rows.order_by("-created_at", "-id")


def get_decision(*, actor: Actor, decision_id: uuid.UUID) -> Decision:
    """Return one decision; the door shows tenants its safe part only. Raises NotFound, PermissionDenied."""
    decision: Decision | None = Decision.unscoped.select_related("tenant", "host").filter(id=decision_id).first()
    if decision is None:
        raise NotFound
    authorize(actor, "decision.read", decision.tenant_id)
    return decision


def decision_of(*, actor: Actor, instance: Instance) -> Decision:
    """Return the decision by which an instance is where it is. Raises NotFound, PermissionDenied."""
    authorize(actor, "decision.read", instance.tenant_id)
    about = Q(instance_id=instance.id) | Q(id=instance.decision_id)
    decision: Decision | None = (
        Decision.unscoped.select_related("tenant", "host").filter(about).order_by("-created_at").first()
    )
    if decision is None:
        raise NotFound
    return decision


def shown_remedies(*, decision: Decision, visible: Scope) -> list[dict[str, Any]]:
    """Return what would have made a refused request succeed, as far as who sees these tenants may know it."""
    return shown_offers(decision.remedies, visible)


def shown_quota(*, decision: Decision, visible: Scope) -> list[dict[str, Any]]:
    """Return each level's figures of a refusal by quota, as far as who sees these tenants may know them."""
    lines = [QuotaEffect(**{**line, "tenant_id": uuid.UUID(line["tenant_id"])}) for line in decision.quota]
    return shown_lines(lines, visible)


def explain_decision(*, actor: Actor, decision: Decision) -> Explained:
    """Return all that is kept of every host looked at. Operators only: raises PermissionDenied.

    Decisions of before there were records, and those whose hosts' list is lost, have no verdicts.
    """
    authorize(actor, "host.read", None)
    roster = HostRoster.objects.filter(digest=decision.roster).first()
    try:
        record = unpack(bytes(decision.record))
    except RecordError:
        record = Record((), (), ())
    if roster is None or len(roster.host_ids) != 16 * len(record.failing):
        return Explained((), (), (), "", tie=False)
    ids = [str(uuid.UUID(bytes=bytes(roster.host_ids[at : at + 16]))) for at in range(0, len(roster.host_ids), 16)]
    names = {str(key): name for key, name in Host.objects.filter(id__in=ids).values_list("id", "name")}
    asked = _asked(decision.request)
    numbers = {row.place: row for row in (*record.best, *record.closest)}
    places = {row.place: place for place, row in enumerate(record.best, start=1)}
    verdicts = tuple(
        _verdict(host_id, names.get(host_id, host_id), failing, places.get(at), numbers.get(at), asked)
        for at, (host_id, failing) in enumerate(zip(ids, record.failing, strict=True))
    )
    best = [
        Candidate(verdicts[row.place].host_id, row.score, row.points, verdicts[row.place].host_name)
        for row in record.best
    ]
    return Explained(
        verdicts=verdicts,
        best=tuple(verdicts[row.place] for row in record.best),
        closest=tuple(verdicts[row.place] for row in record.closest),
        choice=explain.choice(best) if best else "",
        tie=len(best) > 1 and best[0].score == best[1].score,
    )


def shortfall(verdict: Verdict, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return `asked`, `free`, `margin`, `unit` of the first filter that refused, where it counts something and is kept.

    `request`: as the decision has it.
    """
    refused_by = verdict.failing[0] if verdict.failing else ""
    counted = resource_of(refused_by) or refused_by
    if counted not in verdict.free:
        return {}
    of_cells = _asked_of_cells(request)
    unit = of_cells[counted].unit if counted in of_cells else UNITS[counted]  # type: ignore[index]  # else a resource
    return {
        "asked": _asked(request)[counted],
        "free": verdict.free[counted],
        "margin": verdict.margin[counted],
        "unit": unit,
    }


def _asked(request: Mapping[str, Any]) -> dict[str, int]:
    """Return resource, or measure of NUMA cells -> what the request asks of it."""
    of_cells = {measure: item.asked for measure, item in _asked_of_cells(request).items()}
    return {**request["resources"], **of_cells}


def _asked_of_cells(request: Mapping[str, Any]) -> dict[str, Shortage]:
    numa = request.get("numa")
    found = {measure: room((), NumaAsk(**numa), measure) for measure in MEASURES} if numa else {}
    return {measure: item for measure, item in found.items() if item is not None}


def find_verdict(verdicts: Sequence[Verdict], reference: str) -> Verdict:
    """Return what was found of one host, by id or name. Raises NotFound."""
    for verdict in verdicts:
        if reference in (verdict.host_id, verdict.host_name):
            return verdict
    raise NotFound


def _verdict(
    host_id: str,
    name: str,
    failing: tuple[str, ...],
    place: int | None,
    numbers: Numbers | None,
    asked: Mapping[str, int],
) -> Verdict:
    free: dict[str, int] = {} if numbers is None else {**numbers.free}
    return Verdict(
        host_id=host_id,
        host_name=name,
        failing=failing,
        place=place,
        free=free,
        margin={resource: amount - asked[resource] for resource, amount in free.items()},
        points={} if numbers is None else numbers.points,
        score=numbers.score if numbers is not None and numbers.points else None,
    )
