"""Names or ids, wherever one is taken. An id always wins; a name that fits several is refused, never guessed."""

from __future__ import annotations

import uuid
from typing import TypeVar

from django.db import models

from compute.models import Flavor, Group, Host, Image, Instance, Keypair, Pool
from tenants.errors import AmbiguousName, NotFound
from tenants.scope import ALL, Scope

_M = TypeVar("_M", bound=models.Model)


def find_among(rows: models.QuerySet[_M], reference: str, noun: str) -> _M:
    """Return the one row of `rows` with this id or name. Raises NotFound, AmbiguousName."""
    try:
        found = list(rows.filter(pk=uuid.UUID(reference))[:1])
    except ValueError:
        found = list(rows.filter(name=reference)[:2])
    if not found:
        raise NotFound(f"There is no {noun} {reference!r} here.")
    if len(found) > 1:
        raise AmbiguousName(f"More than one {noun} is named {reference!r}: use the id.", name=reference)
    return found[0]


def find_flavor(reference: str) -> Flavor:
    return find_among(Flavor.objects.filter(active=True), reference, "flavor")


def find_flavor_ever(reference: str) -> Flavor:
    """As `find_flavor`, among those that are offered no more as well: guests of theirs live on."""
    return find_among(Flavor.objects.all(), reference, "flavor")


def find_image(reference: str) -> Image:
    return find_among(Image.objects.filter(active=True), reference, "image")


def find_pool(reference: str) -> Pool:
    return find_among(Pool.objects.all(), reference, "pool")


def find_host(reference: str) -> Host:
    return find_among(Host.objects.exclude(admin_state="removed").select_related("pool"), reference, "host")


def find_keypair(reference: str, *, tenant_id: uuid.UUID) -> Keypair:
    return find_among(Keypair.unscoped.filter(tenant_id=tenant_id), reference, "keypair")


def find_group(reference: str, *, tenant_id: uuid.UUID) -> Group:
    return find_among(Group.unscoped.filter(tenant_id=tenant_id), reference, "group")


def find_instance(reference: str, *, visible: Scope) -> Instance:
    """Return a live instance among the visible tenants' (`access.visible_tenant_ids`), or raise NotFound."""
    rows = Instance.unscoped.exclude(state="deleted").select_related("tenant", "host", "pool", "flavor", "image")
    if visible is not ALL:
        rows = rows.filter(tenant_id__in=visible)
    return find_among(rows, reference, "instance")
