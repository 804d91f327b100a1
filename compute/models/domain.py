"""A host's report of one domain. Written by the observer's door alone (`services.observations`)."""

from django.db import models

from compute.models.host import Host
from compute.models.instance import Instance


class Domain(models.Model):
    """One row per (instance, host) seen. `misses` counts successful listings in a row that lacked it: absence needs two."""

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="domains")
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="domains")
    power = models.CharField(max_length=16)
    token = models.BigIntegerField(default=0)
    cpu_seconds = models.FloatField(default=0.0)
    misses = models.PositiveSmallIntegerField(default=0)
    since = models.DateTimeField(help_text="when this power state was first reported")
    observed_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["instance", "host"], name="domain_once_per_host")]
