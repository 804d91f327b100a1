"""The quota ledger: one row for each tenant and resource, at every level of the tree."""

from __future__ import annotations

from typing import Final

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Greatest

from tenants.models.ids import new_id
from tenants.scope import TenantOwned

# What is counted, and its unit where the name does not say it. Every countable thing of the product has a row here.
RESOURCES: Final[tuple[str, ...]] = (
    "disk_gib",
    "instances",
    "keypairs",
    "members",
    "memory_mib",
    "tenants",  # tenants below this one
    "tokens",
    "vcpus",
)


class Quota(TenantOwned):
    """What a tenant and all tenants below it use of one resource, and how much they may.

    `limit` null = no limit. `used` = the sum over the tenant and everything below.

    An administrator may lower `limit` below `used`: what exists stays, nothing new is charged. A plain CHECK (used <=
    limit) would forbid that, and no CHECK at all would leave the promise to the code. So `ceiling` is kept at
    greatest(limit, used) by the two statements that may lower things (set limit, release), and the database checks
    exactly that equality. A charge changes `used` alone. Hence any statement that would charge past the limit breaks
    the CHECK: below the limit the ceiling is the limit, above it the ceiling is what is used already.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    resource = models.CharField(max_length=32)
    limit = models.BigIntegerField(null=True, blank=True)
    used = models.BigIntegerField(default=0)
    ceiling = models.BigIntegerField(null=True, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta(TenantOwned.Meta):
        ordering = ["resource"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "resource"], name="quota_unique"),
            models.CheckConstraint(condition=Q(used__gte=0), name="quota_used_not_negative"),
            models.CheckConstraint(condition=Q(limit__isnull=True) | Q(limit__gte=0), name="quota_limit_not_negative"),
            models.CheckConstraint(
                condition=Q(limit__isnull=True, ceiling__isnull=True)
                | Q(limit__isnull=False, ceiling__isnull=False, ceiling=Greatest(F("limit"), F("used"))),
                name="quota_never_charged_past_limit",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.resource} {self.used}/{'∞' if self.limit is None else self.limit}"
