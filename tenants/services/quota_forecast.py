"""What a charge would do, without making it: every level's figures before and after, read and never locked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from tenants.models import RESOURCES, Quota, Tenant
from tenants.scope import ALL, Scope
from tenants.services.access import Actor, visible_tenant_ids

_ORDER: Final = {name: place for place, name in enumerate(RESOURCES)}


@dataclass(frozen=True, slots=True)
class QuotaEffect:
    """One resource at one level: the charged tenant's own, or one above. `tenant_id`, `tenant` None: one kept hidden."""

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

    def shown(self, visible: Scope = ALL) -> dict[str, Any]:
        """Return the line as JSON data for who sees these tenants: of a hidden level only that it refuses, by how much."""
        seen = self.tenant_id is not None and (visible is ALL or self.tenant_id in visible)
        return {
            "tenant": {"id": str(self.tenant_id), "name": self.tenant} if seen else None,
            "resource": self.resource,
            "limit": self.limit if seen else None,
            "used": self.used if seen else None,
            "asked": self.asked,
            "after": self.after if seen else None,
            "missing": self.missing,
        }


def shown_lines(lines: Sequence[QuotaEffect], visible: Scope = ALL) -> list[dict[str, Any]]:
    """Return what of the lines may be shown to who sees these tenants."""
    shown = [line.shown(visible) for line in lines]
    return [line for line in shown if line["tenant"] is not None or line["missing"]]


def forecast_at(*, levels: Sequence[UUID], amounts: Mapping[str, int], actor: Actor | None = None) -> list[QuotaEffect]:
    """Return what a charge of `amounts` would do at `levels`, given from the top down; the lowest first. One query.

    With `actor`, tenants that it does not see are hidden; without, `shown` has to hide them.
    """
    visible = ALL if actor is None else visible_tenant_ids(actor)
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


def forecast_charge(*, tenant: Tenant, amounts: Mapping[str, int]) -> list[QuotaEffect]:
    """Return what `quotas.charge` would do for each resource of `amounts`, from the tenant up to the root. One query."""
    return forecast_at(levels=tenant.path, amounts=amounts)
