"""What an operator has to know until it is mended."""

from django.db import models
from django.db.models import Q

from compute.models.pool import Pool
from tenants.models.ids import new_id


class Alarm(models.Model):
    """One trouble, from when it was seen until it was over. `details` as JSON, by kind.

    `promise_at_risk`: all promises of a unit could be kept now, but not through the losses that the pool's policy names.
    `promise_broken`: they cannot all be kept now. Both: {unit, promised, placeable, host_losses, tolerated, tenants: [{id, name, units}]}.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(max_length=32)
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="alarms")
    subject = models.CharField(max_length=64, help_text="what it is about within its kind: one open alarm for each")
    message = models.CharField(max_length=500)
    details = models.JSONField(default=dict)
    raised_at = models.DateTimeField(auto_now_add=True)
    cleared_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "pool", "subject"], condition=Q(cleared_at__isnull=True), name="alarm_open_once"
            ),
        ]
        indexes = [models.Index(fields=["-raised_at", "-id"], name="alarm_newest")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"
