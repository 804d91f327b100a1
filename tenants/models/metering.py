"""The usage ledger: who held what, from when to when."""

from __future__ import annotations

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, RangeOperators
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.functions import Coalesce

from tenants.models.ids import new_id
from tenants.scope import TenantOwned


class UsageSegment(TenantOwned):
    """One consumer's hold on a fixed size over one stretch of time; a change of size or payer ends it and opens the next.

    Held from `held_from` to `ended_at`, billed from `billed_from` on: nobody pays for what never came up. Times are whole
    seconds of the database's clock, the start counts and the end does not: seconds x amount are integers, and every way
    to cut a period gives the same sum. Null `billed_from`: a hold. Null `ended_at`: open.

    `payers` are the ids from the root down to the tenant when the segment was opened, so that a tenant that moves in the
    tree takes no past bill with it. Names are copied, ids are plain: the ledger outlives what it speaks of.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # `payers` ends with it and has the index.
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.PROTECT, related_name="+", db_index=False)
    payers = ArrayField(models.UUIDField())
    consumer_type = models.CharField(max_length=16)
    consumer_id = models.UUIDField()
    consumer_name = models.CharField(max_length=255)
    kind = models.CharField(max_length=16, help_text="vm, container")
    flavor_id = models.UUIDField()
    flavor_name = models.CharField(max_length=63)
    pool_id = models.UUIDField()
    pool_name = models.CharField(max_length=63)
    vcpus = models.PositiveIntegerField()
    memory_mib = models.PositiveIntegerField()
    disk_gib = models.PositiveIntegerField()
    held_from = models.DateTimeField()
    billed_from = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta(TenantOwned.Meta):
        indexes = [
            GinIndex(fields=["payers"], name="usage_payers"),
            models.Index(fields=["ended_at"], name="usage_ended"),
        ]
        constraints = [
            ExclusionConstraint(
                name="usage_never_overlaps",
                expressions=[
                    (F("consumer_id"), RangeOperators.EQUAL),
                    (
                        Func(F("held_from"), F("ended_at"), function="tstzrange", output_field=DateTimeRangeField()),
                        RangeOperators.OVERLAPS,
                    ),
                ],
            ),
            # Open segments overlap without end, so the exclusion says this too; here it is a small index to find them by.
            models.UniqueConstraint(
                fields=["consumer_id"], condition=Q(ended_at__isnull=True), name="usage_one_open_per_consumer"
            ),
            models.CheckConstraint(
                condition=Q(billed_from__isnull=True) | Q(billed_from__gte=F("held_from")),
                name="usage_billed_after_held",
            ),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True) | Q(ended_at__gte=Coalesce("billed_from", "held_from")),
                name="usage_ended_after_begun",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.consumer_type} {self.consumer_name}"
