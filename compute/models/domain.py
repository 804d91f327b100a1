"""A host's report of one domain. Written by the observer's door alone (`services.observations`)."""

from django.db import models
from django.db.models import Q

from compute.models.host import Host
from compute.models.instance import Instance


class Domain(models.Model):
    """One row per (instance, host) seen. `misses` counts successful listings in a row that lacked it: absence needs two.

    A listing writes only what it changes; it is as new as the later of `observed_at` and the host's. `cpu_seconds` may be
    some minutes old.
    """

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="domains")
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="domains")
    power = models.CharField(max_length=16)
    token = models.BigIntegerField(default=0)
    cpu_seconds = models.FloatField(default=0.0)
    misses = models.PositiveSmallIntegerField(default=0)
    since = models.DateTimeField(help_text="when this power state was first reported")
    observed_at = models.DateTimeField(help_text="when this row was written; the host's listing may be newer")

    class Meta:
        indexes = [
            # What the reconciler holds against the wishes: of thousands of guests few are at rest.
            models.Index(fields=["host"], condition=Q(power__in=["stopped", "absent"]), name="domain_at_rest"),
        ]
        constraints = [models.UniqueConstraint(fields=["instance", "host"], name="domain_once_per_host")]
