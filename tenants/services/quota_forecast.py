"""What a charge would do, without making it: every level's figures before and after, read and never locked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from tenants.models import RESOURCES, Quota, Tenant
from tenants.scope import ALL
from tenants.services.access import Actor, visible_tenant_ids

_ORDER: Final = {name: place for place, name in enumerate(RESOURCES)}


@dataclass(frozen=True, slots=True)
class QuotaEffect:
    """One resource at one level. `tenant_id` and `tenant` None: a tenant above that the actor may not see."""

    tenant_id: UUID | None
    tenant: str | None
    resource: str
    limit: int | None
    used: int
    asked: int

    @property
    def after(self) -> int:
        return self.used + self.asked

    @property
    def missing(self) -> int:
        """By how much the limit is too low; 0 where the charge fits, and where nothing is asked."""
        if self.limit is None or not self.asked:
            return 0
        return max(0, self.after - self.limit)

    @property
    def room(self) -> int | None:
        """What may still be charged here; None: without limit."""
        return None if self.limit is None else max(0, self.limit - self.used)

    def shown(self) -> dict[str, Any]:
        """Return the line as JSON data that the actor may see: of a hidden level only that it refuses, by how much."""
        seen = self.tenant_id is not None
        return {
            "tenant": {"id": str(self.tenant_id), "name": self.tenant} if seen else None,
            "resource": self.resource,
            "limit": self.limit if seen else None,
            "used": self.used if seen else None,
            "asked": self.asked,
            "after": self.after if seen else None,
            "missing": self.missing,
        }


def shown_lines(lines: Sequence[QuotaEffect]) -> list[dict[str, Any]]:
    """Return the lines as JSON data that the actor may see."""
    return [line.shown() for line in lines if line.tenant_id is not None or line.missing]


def forecast_at(*, levels: Sequence[UUID], amounts: Mapping[str, int], actor: Actor) -> list[QuotaEffect]:
    """Return what a charge of `amounts` would do at `levels`, given from the top down; the lowest first. One query."""
    visible = visible_tenant_ids(actor)
    rows = Quota.unscoped.filter(tenant_id__in=levels, resource__in=list(amounts)).select_related("tenant")
    height = {level: -depth for depth, level in enumerate(levels)}
    effects = []
    for row in sorted(rows, key=lambda row: (height[row.tenant_id], _ORDER[row.resource])):
        seen = visible is ALL or row.tenant_id in visible
        effects.append(
            QuotaEffect(
                tenant_id=row.tenant_id if seen else None,
                tenant=row.tenant.name if seen else None,
                resource=row.resource,
                limit=row.limit,
                used=row.used,
                asked=amounts[row.resource],
            )
        )
    return effects


def forecast_charge(*, tenant: Tenant, amounts: Mapping[str, int], actor: Actor) -> list[QuotaEffect]:
    """Return what `quotas.charge` would do for each resource of `amounts`, from the tenant up to the root. One query."""
    return forecast_at(levels=tenant.path, amounts=amounts, actor=actor)
