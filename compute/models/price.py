"""The price book: what one hour of one unit costs, from when to when."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeOperators
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Func, Q, UUIDField, Value
from django.db.models.functions import Coalesce

from compute.models.catalog import Flavor
from compute.models.pool import Pool
from tenants.models.ids import new_id

# What can have a price, per hour: the instance itself, one vCPU, one GiB of memory, one GiB of disk.
PRICED: Final[tuple[str, ...]] = ("instance", "vcpu", "memory_gib", "disk_gib")
_NONE: Final = "00000000-0000-0000-0000-000000000000"


class Price(models.Model):
    """One price over one stretch of time. The past never changes: a new price ends the one before and is a new row.

    `flavor`, `pool` null: for all of them. For each resource the row that names most is taken, a flavor before a pool.
    A trigger refuses to change or delete what has begun, except to end it in the future. All rows share one currency.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    resource = models.CharField(max_length=16, choices=[(name, name) for name in PRICED])
    flavor = models.ForeignKey(Flavor, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    pool = models.ForeignKey(Pool, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    per_hour = models.DecimalField(max_digits=18, decimal_places=6, validators=[MinValueValidator(Decimal(0))])
    currency = models.CharField(max_length=3, validators=[RegexValidator(r"^[A-Z]{3}\Z")])
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)
    set_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["resource", "valid_from", "id"]
        constraints = [
            ExclusionConstraint(
                name="price_never_overlaps",
                expressions=[
                    (F("resource"), RangeOperators.EQUAL),
                    (Coalesce("flavor", Value(_NONE, output_field=UUIDField())), RangeOperators.EQUAL),
                    (Coalesce("pool", Value(_NONE, output_field=UUIDField())), RangeOperators.EQUAL),
                    (
                        Func(
                            F("valid_from"), F("valid_until"), function="tstzrange", output_field=DateTimeRangeField()
                        ),
                        RangeOperators.OVERLAPS,
                    ),
                ],
            ),
            # No two rows with different currencies: what is added up has one unit.
            ExclusionConstraint(name="price_one_currency", expressions=[(F("currency"), "<>")]),
            models.CheckConstraint(condition=Q(resource__in=PRICED), name="price_resource_known"),
            models.CheckConstraint(condition=Q(per_hour__gte=0), name="price_not_negative"),
            models.CheckConstraint(condition=Q(currency__regex=r"^[A-Z]{3}$"), name="price_currency_is_a_code"),
            models.CheckConstraint(
                condition=Q(valid_until__isnull=True) | Q(valid_until__gt=F("valid_from")), name="price_valid_forwards"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.resource} {self.per_hour} {self.currency}"
