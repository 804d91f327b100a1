"""What a claim leaves: room taken on one host by one consumer."""

from django.db import models
from django.db.models import F, Q

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
    dedicated_vcpus = models.PositiveIntegerField(
        default=0, help_text="of its vCPU: those with a CPU of their own, beside what the host shares out"
    )
    dedicated_memory_mib = models.PositiveIntegerField(default=0, help_text="of its memory: in huge pages")
    cells = models.JSONField(null=True, blank=True, help_text="what it has of which NUMA cell: scheduler.topology")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(dedicated_vcpus__lte=F("vcpus"), dedicated_memory_mib__lte=F("memory_mib")),
                name="allocation_dedicated_is_part_of_it",
            ),
            models.UniqueConstraint(fields=["consumer_type", "consumer_id"], name="allocation_once_per_consumer"),
        ]


class PinnedCpu(models.Model):
    """One CPU of a host that a guest has to itself. That nobody else has it is the database's word, not the scheduler's."""

    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="+")
    cpu = models.PositiveIntegerField(help_text="the kernel's number")
    allocation = models.ForeignKey(Allocation, on_delete=models.CASCADE, related_name="pinned_cpus")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["host", "cpu"], name="cpu_pinned_once")]
