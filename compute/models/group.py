"""A group: instances that a tenant wants kept apart, or together."""

from django.db import models
from django.db.models import Q

from tenants.models.ids import new_id
from tenants.scope import TenantOwned

RULES = ("anti_affinity", "soft_anti_affinity", "soft_affinity", "affinity")
_WORDS = ("always apart", "apart if possible", "together if possible", "always together")


class Group(TenantOwned):
    """The hard rules refuse a host, the soft ones prefer others. `max_per_domain`: members that may fail together at most.

    Whoever places a member holds this row's lock from before the members are read until the commit.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=63)
    rule = models.CharField(max_length=32, choices=list(zip(RULES, _WORDS, strict=True)))
    max_per_domain = models.PositiveSmallIntegerField(null=True, blank=True)
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TenantOwned.Meta):
        constraints = [
            models.UniqueConstraint(fields=["tenant", "name"], name="group_name_unique_in_tenant"),
            models.CheckConstraint(condition=Q(rule__in=RULES), name="group_rule_known"),
            models.CheckConstraint(
                condition=Q(max_per_domain__isnull=True) | Q(max_per_domain__gte=1), name="group_domain_takes_one"
            ),
        ]

    def __str__(self) -> str:
        return self.name
