"""What a create would do, without doing it: nothing is locked, nothing is written."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from compute.placement.remedies import Offer, find_offers, shown_offers
from compute.scheduler import explain
from compute.scheduler.ranking import rank
from compute.selectors.prices import price_per_hour
from compute.services.checks import check_tags, check_user_data
from compute.services.instances_case import load_case
from compute.services.instances_wanted import COUNT_LIMIT, Wanted, instance_names
from compute.services.lease_terms import LeaseAsk, take_lease
from tenants.models import Tenant
from tenants.services.access import Actor, authorize, visible_tenant_ids
from tenants.services.quota_forecast import shown_lines


@dataclass(frozen=True, slots=True)
class ForecastHost:
    """Where one instance would go. For operators."""

    instance: str
    id: uuid.UUID
    name: str


@dataclass(frozen=True, slots=True)
class ForecastPrice:
    """What all instances together cost in an hour, at the prices of this moment."""

    per_hour: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """`refused_by`: the codes of the problems that a create would meet now, none where it `fits`.

    `how_many` such instances would be taken now, `COUNT_LIMIT` at most. `summary`, `remedies` and `quota` are safe for
    the tenant; `hosts` are for operators. `price` None: the price book is empty.
    """

    fits: bool
    count: int
    how_many: int
    refused_by: list[str]
    summary: list[str]
    remedies: list[dict[str, Any]]
    quota: list[dict[str, Any]]
    price: ForecastPrice | None
    hosts: list[ForecastHost]


def forecast_instances(
    *,
    actor: Actor,
    tenant: Tenant,
    name: str,
    flavor: str,
    image: str,
    kind: str | None = None,
    pool: str | None = None,
    keypairs: Sequence[str] = (),
    user_data: str = "",
    tags: dict[str, str] | None = None,
    group: str | None = None,
    count: int = 1,
    lease: LeaseAsk | None = None,
) -> Forecast:
    """Return what `create_instances` with the same arguments would meet now; the next moment may differ.

    Raises NotFound, PermissionDenied, InvalidInput as the create would. Refusals are answers, not errors.
    """
    authorize(actor, "instance.create", tenant)
    names = instance_names(name, count)
    wanted = Wanted.look_up(
        tenant=tenant, flavor=flavor, image=image, kind=kind, pool=pool, keypairs=keypairs, group=group
    )
    check_user_data(user_data)
    check_tags(tags or {})
    take_lease(actor=actor, tenant=tenant, asked=lease)
    case = load_case(tenant=tenant, wanted=wanted, count=count, all_pools=False)
    refused_by = case.refused_by()
    offers: tuple[Offer, ...] = ()
    if refused_by:
        offers = find_offers(load_case(tenant=tenant, wanted=wanted, count=count, all_pools=True))
    visible = visible_tenant_ids(actor)
    return Forecast(
        fits=not refused_by,
        count=count,
        how_many=case.how_many(COUNT_LIMIT),
        refused_by=refused_by,
        summary=list(explain.tenant_summary(rank(case.snapshot, case.request, case.policy))),
        remedies=shown_offers([offer.stored() for offer in offers], visible),
        quota=shown_lines(case.quota, visible),
        price=_price(wanted, count),
        hosts=[]
        if refused_by
        else [
            ForecastHost(instance, uuid.UUID(host.id), host.name)
            for instance, host in zip(names, case.chosen(), strict=True)
        ],
    )


def _price(wanted: Wanted, count: int) -> ForecastPrice | None:
    hourly = price_per_hour(flavor=wanted.flavor, pool=wanted.pool)
    if hourly.currency is None:
        return None
    return ForecastPrice(per_hour=hourly.total * count, currency=hourly.currency)
