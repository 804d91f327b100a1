"""One order to one host: the only way in which the control plane makes a host do something."""

from django.db import models
from django.db.models import Q

from compute.models.host import Host
from compute.models.operation import Operation
from tenants.models.ids import new_id


class HostCall(models.Model):
    """`token` is the target's fencing token at the time of the call; a host refuses one below the newest it has seen.

    Purposes: `step`, `undo` and `talk` belong to an operation's turn (of a talk there are many to a step); `debt` is an
    undo that could not reach its host and is paid before anything else when it returns; `reap` removes a leftover
    domain; `read` asks and changes nothing.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="calls")
    operation = models.ForeignKey(Operation, null=True, blank=True, on_delete=models.CASCADE, related_name="calls")
    step = models.SmallIntegerField(default=0)
    purpose = models.CharField(max_length=8, default="step")
    method = models.CharField(max_length=32)
    target_id = models.UUIDField()
    token = models.BigIntegerField()
    arguments = models.JSONField(default=dict)
    deadline_seconds = models.FloatField(default=60.0)
    state = models.CharField(max_length=16, default="waiting")
    lease_until = models.DateTimeField(null=True, blank=True)
    answer = models.JSONField(null=True, blank=True)
    settled = models.BooleanField(default=False, help_text="the engine has acted on the answer")
    not_before = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    taken_at = models.DateTimeField(null=True, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["host", "created_at"], condition=Q(state="waiting"), name="hostcall_waiting"),
            models.Index(fields=["lease_until"], condition=Q(state="taken"), name="hostcall_taken"),
            models.Index(fields=["operation"], condition=Q(state="answered", settled=False), name="hostcall_unsettled"),
            models.Index(fields=["target_id"], name="hostcall_target"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(purpose__in=["step", "undo", "talk", "debt", "reap", "read"]), name="hostcall_purpose_known"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["waiting", "taken", "answered", "superseded"]), name="hostcall_state_known"
            ),
            # At most one open order per operation: a second one would be a second epoch of the same step.
            models.UniqueConstraint(
                fields=["operation"],
                condition=Q(state__in=["waiting", "taken"], purpose__in=["step", "undo", "talk"]),
                name="hostcall_one_open_per_operation",
            ),
        ]
