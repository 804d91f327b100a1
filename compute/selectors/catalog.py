"""Reads of what can be asked for: flavors, images, keypairs, groups."""

from __future__ import annotations

import uuid

from django.db.models import Count, Q, QuerySet

from compute.models import Flavor, Group, Image, Keypair
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


def list_groups(*, actor: Actor, tenant_id: uuid.UUID | None = None) -> QuerySet[Group]:
    """Groups with the number of their instances in `members`."""
    visible = visible_tenant_ids(actor, "group.read")
    live = ~Q(instances__state__in=["failed", "deleted"])
    rows: QuerySet[Group] = Group.unscoped.select_related("tenant").annotate(members=Count("instances", filter=live))
    if visible is not ALL:
        rows = rows.filter(tenant_id__in=visible)
    if tenant_id is not None:
        rows = rows.filter(tenant_id=tenant_id)
    return rows.order_by("-created_at", "-id")
