"""The audit trail."""

from __future__ import annotations

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models.functions import Now

from tenants.models.ids import new_id
from tenants.scope import ScopedManager


class AuditEvent(models.Model):
    """Who did what to what, written in the transaction of the change itself. A trigger refuses updates and deletes.

    Names are copied, ids are plain: the trail outlives what it speaks of. `tenant` null = the cloud's own affairs.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    at = models.DateTimeField(db_default=Now(), editable=False)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.PROTECT, null=True, related_name="+", editable=False)
    actor_kind = models.CharField(max_length=16)
    actor_user_id = models.UUIDField(null=True)
    actor_token_id = models.UUIDField(null=True)
    actor_name = models.CharField(max_length=128)
    action = models.CharField(max_length=64)
    target_type = models.CharField(max_length=64)
    target_id = models.UUIDField(null=True)
    target_name = models.CharField(max_length=255, blank=True, default="")
    operation_id = models.UUIDField(null=True)
    request_id = models.CharField(max_length=64, blank=True, default="")
    before = models.JSONField(null=True, encoder=DjangoJSONEncoder)
    after = models.JSONField(null=True, encoder=DjangoJSONEncoder)

    objects = ScopedManager["AuditEvent"]()
    unscoped = models.Manager["AuditEvent"]()

    class Meta:
        ordering = ["-id"]
        base_manager_name = "unscoped"
        indexes = [
            models.Index(fields=["tenant", "-id"], name="audit_by_tenant"),
            models.Index(fields=["target_id", "-id"], name="audit_by_target"),
            models.Index(
                fields=["operation_id"], name="audit_by_operation", condition=models.Q(operation_id__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.actor_name} {self.action} {self.target_type} {self.target_name}"
