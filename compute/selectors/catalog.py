"""Reads of what can be asked for: flavors, images, keypairs; and of decisions."""

from __future__ import annotations

import uuid

from django.db.models import QuerySet

from compute.models import Decision, Flavor, Image, Instance, Keypair
from tenants.errors import NotFound
from tenants.scope import ALL
from tenants.services.access import Actor, authorize, visible_tenant_ids


def list_flavors(*, actor: Actor) -> QuerySet[Flavor]:
    authorize(actor, "flavor.read", None)
    return Flavor.objects.filter(active=True).order_by("created_at", "id")


def list_images(*, actor: Actor) -> QuerySet[Image]:
    authorize(actor, "image.read", None)
    return Image.objects.filter(active=True).order_by("created_at", "id")


def list_keypairs(*, actor: Actor, tenant_id: uuid.UUID | None = None) -> QuerySet[Keypair]:
    visible = visible_tenant_ids(actor, "keypair.read")
    rows: QuerySet[Keypair] = Keypair.unscoped.select_related("tenant")
    if visible is not ALL:
        rows = rows.filter(tenant_id__in=visible)
    if tenant_id is not None:
        rows = rows.filter(tenant_id=tenant_id)
    return rows.order_by("-created_at", "-id")


def list_decisions(
    *, actor: Actor, instance_id: uuid.UUID | None = None, outcome: str | None = None
) -> QuerySet[Decision]:
    visible = visible_tenant_ids(actor, "decision.read")
    rows: QuerySet[Decision] = Decision.unscoped.select_related("tenant", "host")
    if visible is not ALL:
        rows = rows.filter(tenant_id__in=visible)
    if instance_id is not None:
        rows = rows.filter(instance_id=instance_id)
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
    """Return the newest decision about an instance. Raises NotFound, PermissionDenied."""
    authorize(actor, "decision.read", instance.tenant_id)
    decision: Decision | None = (
        Decision.unscoped.select_related("tenant", "host")
        .filter(instance_id=instance.id)
        .order_by("-created_at")
        .first()
    )
    if decision is None:
        raise NotFound
    return decision
