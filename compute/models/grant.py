"""What a tenant is promised in a pool, and the room that stands for it on each host."""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Greatest

from compute.models.host import Host
from compute.models.pool import Pool
from tenants.models.ids import new_id
from tenants.scope import TenantOwned

KINDS = [("", "either"), ("vm", "vm"), ("container", "container")]
DEFAULT_SHARES = 100


class Grant(TenantOwned):
    """A tenant's share of a pool: reservation, shares, and (in GrantLimit) limits.

    The reservation is `units` times the unit, the largest flavor that the promise must be able to place (amounts are
    copies: a changed flavor changes no promise). All grants of one tree in a pool have one unit; a grant's units come
    out of those of the next grant above it, the topmost ones' out of the pool.

    `used_units`: slots that this tenant's own guests fill, and for each grant next below what is drawn from this one:
    the larger of its units and its used units. `expandable`: beyond its own units it may draw on those that the grant
    above has left. Shares weigh tenants against each other while a host is short of something.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="grants")
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="children")
    unit_name = models.CharField(max_length=63, blank=True, help_text="the flavor that the unit was taken from")
    unit_kind = models.CharField(max_length=16, blank=True, choices=KINDS)
    unit_vcpus = models.PositiveIntegerField()
    unit_memory_mib = models.PositiveIntegerField()
    unit_disk_gib = models.PositiveIntegerField()
    units = models.PositiveIntegerField(default=0)
    used_units = models.PositiveIntegerField(default=0)
    expandable = models.BooleanField(default=False)
    shares_vcpus = models.PositiveIntegerField(default=DEFAULT_SHARES)
    shares_memory_mib = models.PositiveIntegerField(default=DEFAULT_SHARES)
    shares_disk_gib = models.PositiveIntegerField(default=DEFAULT_SHARES)
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TenantOwned.Meta):
        constraints = [
            models.UniqueConstraint(fields=["tenant", "pool"], name="grant_once_per_pool"),
            models.CheckConstraint(
                condition=Q(expandable=True) | Q(used_units__lte=F("units")), name="grant_fixed_never_over"
            ),
            models.CheckConstraint(
                condition=Q(parent__isnull=False) | Q(expandable=False), name="grant_top_has_nothing_to_expand_into"
            ),
            models.CheckConstraint(
                condition=Q(shares_vcpus__range=(1, 10000))
                & Q(shares_memory_mib__range=(1, 10000))
                & Q(shares_disk_gib__range=(1, 10000)),
                name="grant_shares_in_range",
            ),
            models.CheckConstraint(
                condition=Q(unit_vcpus__gte=1, unit_memory_mib__gte=1, unit_disk_gib__gte=1),
                name="grant_unit_is_something",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.units} x {self.unit_name or 'unit'}"


class GrantLimit(models.Model):
    """The most that a tenant and all below it may use of one resource in a pool, promised or not. As tenants.Quota."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    grant = models.ForeignKey(Grant, on_delete=models.CASCADE, related_name="limits")
    resource = models.CharField(max_length=16)
    limit = models.BigIntegerField(null=True, blank=True)
    used = models.BigIntegerField(default=0)
    ceiling = models.BigIntegerField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["resource"]
        constraints = [
            models.UniqueConstraint(fields=["grant", "resource"], name="grantlimit_unique"),
            models.CheckConstraint(condition=Q(used__gte=0), name="grantlimit_used_not_negative"),
            models.CheckConstraint(
                condition=Q(limit__isnull=True, ceiling__isnull=True)
                | Q(limit__isnull=False, ceiling__isnull=False, ceiling=Greatest(F("limit"), F("used"))),
                name="grantlimit_never_charged_past",
            ),
        ]

    @property
    def over(self) -> int:
        """By how much the use is over a limit that was lowered below it."""
        return 0 if self.limit is None else max(0, self.used - self.limit)


class SetAside(models.Model):
    """Slots of one unit that stand on a host for promises. Written under the host's row lock alone."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="set_asides")
    unit_kind = models.CharField(max_length=16, blank=True)
    unit_vcpus = models.PositiveIntegerField()
    unit_memory_mib = models.PositiveIntegerField()
    unit_disk_gib = models.PositiveIntegerField()
    slots = models.PositiveIntegerField()
    filled = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["host", "unit_kind", "unit_vcpus", "unit_memory_mib", "unit_disk_gib"], name="setaside_unique"
            ),
            models.CheckConstraint(condition=Q(filled__lte=F("slots")), name="setaside_never_overfilled"),
        ]


class GrantUse(models.Model):
    """What the guests of one grant use on one host on account of its promise. Written under the host's row lock alone."""

    grant = models.ForeignKey(Grant, on_delete=models.PROTECT, related_name="uses")
    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="+")
    vcpus = models.PositiveIntegerField(default=0)
    memory_mib = models.PositiveIntegerField(default=0)
    disk_gib = models.PositiveIntegerField(default=0)
    slots = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["grant", "host"], name="grantuse_unique")]
