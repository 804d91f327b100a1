"""API tokens."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from tenants import roles
from tenants.models.ids import new_id
from tenants.scope import ScopedManager


class ApiToken(models.Model):
    """A key for scripts: it acts as its user, within its tenant and what is below. Only the hash of the secret is kept.

    The text is `cnt_<prefix>_<secret>`; the secret is 256 random bits, so one SHA-256 (`digest`) is enough.
    A token without a tenant belongs to a cloud operator and holds an operator's powers while its user does.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, unique=True, editable=False)
    digest = models.BinaryField(max_length=32, editable=False)
    scope = models.CharField(max_length=8, choices=[(scope, scope) for scope in roles.SCOPES], default=roles.SCOPE_FULL)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = ScopedManager["ApiToken"]()
    unscoped = models.Manager["ApiToken"]()

    class Meta:
        ordering = ["created_at", "id"]
        base_manager_name = "unscoped"
        constraints = [
            models.CheckConstraint(condition=models.Q(scope__in=list(roles.SCOPES)), name="api_token_scope_known"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix})"
