"""The stored record of a placement or a refusal: why here, why not there, what would make it fit."""

from django.db import models

from tenants.models.ids import new_id
from tenants.scope import TenantOwned


class Decision(TenantOwned):
    """`candidates` and `refusals` name hosts and are for operators; `summary` and `remedies` are safe for the tenant."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    instance_id = models.UUIDField(null=True, blank=True, db_index=True)
    kind = models.CharField(max_length=16, default="create")
    outcome = models.CharField(max_length=16, choices=[("placed", "placed"), ("refused", "refused")])
    host = models.ForeignKey("compute.Host", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    request = models.JSONField()
    policy = models.CharField(max_length=16)
    hosts_seen = models.PositiveIntegerField()
    tally = models.JSONField(default=dict, help_text="filter -> number of hosts that it refused")
    candidates = models.JSONField(default=list, help_text="the best twenty, with score and contributions")
    refusals = models.JSONField(default=list, help_text="the first twenty, with filter and numbers")
    summary = models.JSONField(default=list, help_text="sentences without host names")
    remedies = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TenantOwned.Meta):
        indexes = [models.Index(fields=["tenant", "-created_at", "-id"], name="decision_tenant_newest")]
