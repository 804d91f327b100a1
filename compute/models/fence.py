"""What was done so that a lost host's guests may run elsewhere: proof that it is off, and the evacuation that followed."""

from django.db import models
from django.db.models import Q

from compute.models.host import Host
from tenants.models.ids import new_id


class Fence(models.Model):
    """An order to make sure that a host is off. `proved` is an observation by the driver, or an operator's word.

    `evidence` is what was seen or said, without secrets; `error` why the last try proved nothing.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="fences")
    driver = models.CharField(max_length=16, help_text="operator, command or redfish")
    state = models.CharField(max_length=16, default="asked")
    reason = models.CharField(max_length=255, blank=True)
    actor = models.CharField(max_length=150)
    tries = models.PositiveSmallIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, blank=True, help_text="a worker is at it until then")
    evidence = models.CharField(max_length=500, blank=True)
    error = models.CharField(max_length=500, blank=True)
    asked_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True, help_text="when it was proved, or given up")

    class Meta:
        ordering = ["-asked_at"]
        indexes = [models.Index(fields=["host", "-asked_at"], name="fence_host_newest")]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=["asked", "proved", "failed"]), name="fence_state_known"),
            models.CheckConstraint(
                condition=~Q(state="proved") | (~Q(evidence="") & Q(ended_at__isnull=False)),
                name="fence_proved_by_evidence",
            ),
            models.UniqueConstraint(fields=["host"], condition=Q(state="asked"), name="fence_one_asked_per_host"),
        ]


class Evacuation(models.Model):
    """The guests of one fenced host are brought back on others. `running` until nothing is left that could go.

    `blocked` says of each guest that could not go at the last look why: [{instance, name, code, message}].
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="evacuations")
    fence = models.ForeignKey(Fence, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=16, default="running")
    reason = models.CharField(max_length=255, blank=True, help_text="why it was stopped")
    actor = models.CharField(max_length=150)
    moved = models.PositiveIntegerField(default=0, help_text="guests whose books say another host now")
    blocked = models.JSONField(default=list, blank=True)
    asked_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-asked_at"]
        indexes = [models.Index(fields=["host", "-asked_at"], name="evacuation_host_newest")]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["running", "finished", "stopped"]), name="evacuation_state_known"
            ),
            models.UniqueConstraint(fields=["host"], condition=Q(state="running"), name="evacuation_one_per_host"),
        ]
