"""One guest on its way from one host to another, and how that went."""

from django.db import models
from django.db.models import F, Q

from compute.models.host import Host
from compute.models.instance import Instance
from compute.models.operation import Operation
from tenants.models.ids import new_id


class Migration(models.Model):
    """It holds the room at its destination (Allocation of consumer type "migration") until the guest runs there.

    `job` is what the source was asked for (wire.MigrationJob), `status` what it said last (wire.MigrationStatus): a hint
    while it runs, figures for the record afterwards. A `cold` one, for which the instance does not run, has neither.
    The saga is the only writer after insert. Rows are history and stay.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    instance = models.ForeignKey(Instance, on_delete=models.PROTECT, related_name="migrations")
    source = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="migrations_out")
    destination = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="migrations_in")
    operation = models.OneToOneField(
        Operation, null=True, blank=True, on_delete=models.PROTECT, related_name="migration"
    )
    state = models.CharField(max_length=16, default="claimed")
    way = models.CharField(
        max_length=8, default="live", db_default="live", choices=[("live", "live"), ("cold", "cold")]
    )
    job = models.JSONField(default=dict)
    status = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True, help_text="{code, message, detail} for operators")
    decision_id = models.UUIDField(null=True, blank=True, help_text="the Decision by which it goes where it goes")
    reason = models.CharField(max_length=255, blank=True)
    actor = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="migration_newest"),
            models.Index(fields=["instance", "-created_at"], name="migration_instance"),
            models.Index(
                fields=["destination"],
                condition=Q(state__in=["claimed", "preparing", "running"]),
                name="migration_in_open",
            ),
            models.Index(
                fields=["source"], condition=Q(state__in=["claimed", "preparing", "running"]), name="migration_out_open"
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["claimed", "preparing", "running", "completed", "failed", "aborted"]),
                name="migration_state_known",
            ),
            models.CheckConstraint(condition=Q(way__in=["live", "cold"]), name="migration_way_known"),
            models.CheckConstraint(condition=~Q(source=F("destination")), name="migration_goes_somewhere"),
            models.UniqueConstraint(
                fields=["instance"],
                condition=Q(state__in=["claimed", "preparing", "running"]),
                name="migration_one_open_per_instance",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.instance_id}: {self.source_id} -> {self.destination_id}"
