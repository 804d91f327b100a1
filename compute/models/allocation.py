"""What a claim leaves: room taken on one host by one consumer."""

from django.db import models

from compute.models.grant import Grant
from compute.models.host import Host
from tenants.models.ids import new_id


class Allocation(models.Model):
    """The consumer is an instance, or a migration that holds its destination. One row per consumer and host."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="allocations")
    consumer_type = models.CharField(max_length=16, choices=[("instance", "instance"), ("migration", "migration")])
    consumer_id = models.UUIDField()
    vcpus = models.PositiveIntegerField()
    memory_mib = models.PositiveIntegerField()
    disk_gib = models.PositiveIntegerField()
    grant = models.ForeignKey(
        Grant, null=True, blank=True, on_delete=models.PROTECT, related_name="+", help_text="whose reservation it fills"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["consumer_type", "consumer_id"], name="allocation_once_per_consumer"),
        ]
