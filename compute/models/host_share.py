"""What CPU a tenant got on a host of late, as the host reported it. Written by the heartbeat alone (`services.shares`)."""

from django.db import models

from compute.models.host import Host
from tenants.scope import TenantOwned


class HostShare(TenantOwned):
    """One row for each host and tenant with a partition there; all below the tenant is in it.

    `cpu_seconds`, `waited_seconds` and `at` (the host's monotonic clock, s) are the newest report's, to take the next
    difference from. `delivered` and `waited` are smoothed rates in vCPU: how many ran, and how many more were ready to.
    """

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="shares")
    applied = models.PositiveIntegerField(help_text="shares of CPU that the host's kernel holds")
    cpu_seconds = models.FloatField()
    waited_seconds = models.FloatField()
    at = models.FloatField()
    boot_id = models.CharField(max_length=64)
    delivered = models.FloatField(default=0.0)
    waited = models.FloatField(default=0.0)
    observed_at = models.DateTimeField()

    class Meta(TenantOwned.Meta):
        constraints = [models.UniqueConstraint(fields=["host", "tenant"], name="hostshare_once_per_host")]
