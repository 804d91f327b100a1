"""A work order with a history: outbox entry, the tenant's handle, and the saga's log in one row."""

from django.db import models
from django.db.models import Q

from tenants.models.ids import new_id

GOES_ON = "goes_on"  # in `scratch` of a stuck operation: tried again it goes on where it was, and does not unwind


class Operation(models.Model):
    """`step` is the index of the step in hand; while unwinding it counts down. `scratch` is what steps tell each other.

    The engine is the only writer after insert, but for `cancel_requested`, which services may set.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=32)
    target_type = models.CharField(max_length=16)
    target_id = models.UUIDField()
    target_name = models.CharField(max_length=63)
    state = models.CharField(max_length=16, default="pending")
    step = models.SmallIntegerField(default=0)
    input = models.JSONField(default=dict)
    scratch = models.JSONField(default=dict)
    steps = models.JSONField(default=list, help_text="[{name, state, started_at, finished_at}]")
    error = models.JSONField(null=True, blank=True, help_text="{code, message} for the tenant; {detail} for operators")
    attempts = models.PositiveSmallIntegerField(default=0, help_text="of the step in hand")
    next_attempt_at = models.DateTimeField(db_index=False)
    deadline_at = models.DateTimeField()
    cancel_requested = models.BooleanField(default=False)
    request_key = models.UUIDField(null=True, blank=True, db_index=True, help_text="idempotency key's row that made it")
    request_id = models.CharField(max_length=64, blank=True)
    actor = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    version = models.PositiveIntegerField(default=1)

    class Meta:
        indexes = [
            models.Index(
                fields=["next_attempt_at"],
                condition=Q(state__in=["pending", "running", "unwinding"]),
                name="operation_due",
            ),
            models.Index(fields=["tenant", "-created_at", "-id"], name="operation_tenant_newest"),
            models.Index(fields=["-created_at", "-id"], name="operation_newest"),
            models.Index(fields=["target_id", "-created_at"], name="operation_target"),
            # Guests of a lost host whose start elsewhere ended badly: few, and asked for every few seconds.
            models.Index(
                fields=["finished_at"],
                condition=Q(kind="instance_evacuate", state="failed"),
                name="operation_evacuated_in_vain",
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["pending", "running", "unwinding", "stuck", "succeeded", "failed", "cancelled"]),
                name="operation_state_known",
            ),
            models.UniqueConstraint(
                fields=["target_type", "target_id"],
                condition=Q(state__in=["running", "unwinding", "stuck"]),
                name="operation_one_running_per_target",
            ),
            models.UniqueConstraint(
                # A delete may wait behind another that has not begun: one of each kind. Services refuse the rest under
                # the target's row lock.
                fields=["target_type", "target_id", "kind"],
                condition=Q(state="pending"),
                name="operation_one_pending_per_kind",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.target_name}"
