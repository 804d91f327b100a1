"""Names or ids, wherever one is taken. An id always wins; a name that fits several is refused, never guessed."""

from __future__ import annotations

import uuid
from typing import TypeVar

from django.db import models

from compute.models import Flavor, Host, Image, Instance, Keypair, Pool
from tenants.errors import AmbiguousName, NotFound
from tenants.scope import Scope, _All

_M = TypeVar("_M", bound=models.Model)


def _find(rows: models.QuerySet[_M], reference: str, noun: str) -> _M:
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
    return _find(Flavor.objects.filter(active=True), reference, "flavor")


def find_image(reference: str) -> Image:
    return _find(Image.objects.filter(active=True), reference, "image")


def find_pool(reference: str) -> Pool:
    return _find(Pool.objects.all(), reference, "pool")


def find_host(reference: str) -> Host:
    return _find(Host.objects.exclude(admin_state="removed").select_related("pool"), reference, "host")


def find_keypair(reference: str, *, tenant_id: uuid.UUID) -> Keypair:
    return _find(Keypair.unscoped.filter(tenant_id=tenant_id), reference, "keypair")


def find_instance(reference: str, *, visible: Scope) -> Instance:
    """Return a live instance among the visible tenants' (`access.visible_tenant_ids`), or raise NotFound."""
    rows = Instance.unscoped.exclude(state="deleted").select_related("tenant", "host", "pool", "flavor", "image")
    if not isinstance(visible, _All):
        rows = rows.filter(tenant_id__in=visible)
    return _find(rows, reference, "instance")
