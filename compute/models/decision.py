"""The stored record of a placement or a refusal: why here, why not there, what would make it fit."""

from django.db import models

from tenants.models.ids import new_id
from tenants.scope import TenantOwned


class HostRoster(models.Model):
    """The hosts that some decisions looked at: their records tell hosts by their place in `host_ids`."""

    digest = models.CharField(max_length=24, primary_key=True)
    host_ids = models.BinaryField(help_text="16 bytes for each id, sorted")


class FlightFrame(models.Model):
    """The hosts as a decision saw them: what differs from the parent frame's, packed. Written where a pool is recorded."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    parent = models.UUIDField(null=True, blank=True, help_text="null: all hosts")
    pool = models.ForeignKey("compute.Pool", on_delete=models.CASCADE, related_name="+")
    data = models.BinaryField(help_text="zlib of compute.scheduler.flight's JSON")
    size = models.PositiveIntegerField(help_text="bytes of data")
    created_at = models.DateTimeField(auto_now_add=True)


class Decision(TenantOwned):
    """One placement, of one instance or of a batch, or one refusal.

    `record` (compute.scheduler.record), `plan` and `host` name hosts and are for operators; `quota` and `remedies` name
    tenants and guests, of which a reader is shown those that it may see; `summary` is safe for the tenant.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    instance_id = models.UUIDField(null=True, blank=True, db_index=True, help_text="null: refused, or a batch")
    kind = models.CharField(max_length=16, default="create")
    outcome = models.CharField(max_length=16, choices=[("placed", "placed"), ("refused", "refused")])
    code = models.CharField(max_length=32, blank=True, help_text="of the problem that a refusal met")
    host = models.ForeignKey("compute.Host", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    plan = models.JSONField(default=list, help_text="of a batch: [instance id, host id], in the order of the names")
    passed_over = models.PositiveIntegerField(default=0, help_text="better hosts that filled up before the claim")
    request = models.JSONField(help_text="name, count and what is not at its default")
    policy = models.CharField(max_length=16)
    weights = models.JSONField(default=dict, help_text="weigher -> weight, as they were")
    hosts_seen = models.PositiveIntegerField()
    tally = models.JSONField(default=dict, help_text="filter -> number of hosts that it refused")
    roster = models.CharField(max_length=24, blank=True, help_text="digest of the HostRoster")
    record = models.BinaryField(default=bytes, help_text="who failed what, the best with their numbers")
    frame = models.UUIDField(null=True, blank=True, help_text="the FlightFrame with the hosts as they were")
    summary = models.JSONField(default=list, help_text="sentences without host names")
    quota = models.JSONField(default=list, help_text="of a refusal by quota: each level's figures")
    remedies = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TenantOwned.Meta):
        indexes = [
            models.Index(fields=["tenant", "-created_at", "-id"], name="decision_tenant_newest"),
            models.Index(fields=["-created_at", "-id"], name="decision_newest"),
        ]
