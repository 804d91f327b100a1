"""Idempotency keys: the first answer to a POST, kept for a day."""

from __future__ import annotations

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from tenants.models.ids import new_id


class IdempotencyKey(models.Model):
    """One key of one actor. `body_hash` covers method, path and body, so that the same key cannot mean two things.

    `status` null: the first request is still running (it holds an advisory lock then), or died. Operations carry this
    row's id (`request_key`), written in the transaction of the work itself: if the process died between that commit and
    storing the answer, the answer is built again from them, and the work is never done twice.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    actor = models.CharField(max_length=80, help_text="user id and the tenant that the token is bound to")
    key = models.CharField(max_length=255)
    body_hash = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True)
    headers = models.JSONField(default=dict)
    body = models.JSONField(null=True, encoder=DjangoJSONEncoder, help_text="sealed where the answer holds a secret")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["actor", "key"], name="idempotency_key_once_per_actor")]
        indexes = [models.Index(fields=["created_at"], name="idempotency_key_age")]

    def __str__(self) -> str:
        return self.key
