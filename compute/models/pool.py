"""A pool: hosts that share storage, a network and overcommit ratios."""

from django.db import models

from tenants.models.ids import new_id


class Pool(models.Model):
    """Ratios multiply what a host offers beyond its reserve; memory and disk are usually 1.0, never below."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=63, unique=True)
    description = models.CharField(max_length=255, blank=True)
    vcpu_ratio = models.FloatField(default=4.0)
    memory_ratio = models.FloatField(default=1.0)
    disk_ratio = models.FloatField(default=1.0)
    policy = models.CharField(max_length=16, default="spread", choices=[("spread", "spread"), ("pack", "pack")])
    host_losses = models.PositiveSmallIntegerField(
        default=1, help_text="host failures at once that every reservation must outlive (N+k)"
    )
    auto_fence = models.BooleanField(default=False, help_text="whether hosts that are down are fenced unasked")
    auto_evacuate = models.BooleanField(default=False, help_text="whether a fenced host's guests are moved unasked")
    shared_storage_id = models.CharField(
        max_length=64, blank=True, help_text="marker of the storage all hosts must see"
    )
    recording = models.BooleanField(default=False, help_text="whether the flight recorder keeps what decisions saw")
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(vcpu_ratio__gte=1, memory_ratio__gte=1, disk_ratio__gte=1),
                name="pool_ratios_at_least_1",
            ),
        ]

    def __str__(self) -> str:
        return self.name
