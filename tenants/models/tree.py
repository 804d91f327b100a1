"""The tenant tree and who belongs to it."""

from __future__ import annotations

import re
from typing import Any, Final

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.core.validators import RegexValidator
from django.db import models
from django.db.models.functions import Lower

from tenants import roles
from tenants.models.ids import new_id
from tenants.scope import TenantOwned

# No slash: "acme/dev" names a tenant by its path.
TENANT_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,61}[A-Za-z0-9])?")


class Tenant(models.Model):
    """A node of the tree: who owns and pays.

    `path` holds the ids from the root down to this tenant, itself included: ancestors and descendants are one query
    each, at any depth, without recursion. The database checks that it ends with parent and self and goes in
    no circle. `services.moves` alone rewrites it: read it from the row, and under `services.tree.hold` where sums go up it.
    """

    class State(models.TextChoices):
        ACTIVE = "active"
        DISABLED = "disabled"
        DELETING = "deleting"  # disabled, while what it holds is deleted
        DELETED = "deleted"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=63, validators=[RegexValidator(rf"^{TENANT_NAME.pattern}\Z")])
    parent = models.ForeignKey("self", on_delete=models.PROTECT, null=True, blank=True, related_name="children")
    path = ArrayField(models.UUIDField(), editable=False)
    state = models.CharField(max_length=16, choices=State.choices, default=State.ACTIVE)
    version = models.BigIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name", "id"]
        indexes = [GinIndex(fields=["path"], name="tenant_path")]
        constraints = [
            # nulls_distinct=False: roots, whose parent is null, are siblings too. A deleted tenant frees its name.
            models.UniqueConstraint(
                Lower("name"),
                "parent",
                name="tenant_name_unique_among_siblings",
                condition=~models.Q(state="deleted"),
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=models.Q(state__in=["active", "disabled", "deleting", "deleted"]), name="tenant_state_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def depth(self) -> int:
        """0 for a root."""
        return len(self.path) - 1

    def ancestors(self, *, include_self: bool = False) -> models.QuerySet[Tenant]:
        """From the root down."""
        ids = self.path if include_self else self.path[:-1]
        return Tenant.objects.filter(id__in=ids).order_by("path__len")

    def descendants(self, *, include_self: bool = False) -> models.QuerySet[Tenant]:
        """Everything below, deleted ones included, parents before children."""
        below = Tenant.objects.filter(path__contains=[self.id]).order_by("path__len", "name")
        return below if include_self else below.exclude(id=self.id)


class Membership(TenantOwned):
    """A user's role in one tenant; it holds for everything below that tenant as well."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    role = models.CharField(max_length=16, choices=[(role, role) for role in roles.ROLES])
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta(TenantOwned.Meta):
        ordering = ["created_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["user", "tenant"], name="membership_unique"),
            models.CheckConstraint(condition=models.Q(role__in=list(roles.ROLES)), name="membership_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} {self.role}"

    def as_audit(self) -> dict[str, Any]:
        return {"user": str(self.user_id), "role": self.role}
