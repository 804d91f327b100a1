"""Grants: what a tenant is promised in a pool, what it may not pass there, and its weight under contention."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import Sum

from compute.errors import InvalidState, PromiseNotPlaceable
from compute.models import Allocation, Flavor, Grant, GrantLimit, Host, Instance, Pool
from compute.placement.grant_end import end_grant
from compute.placement.limits import LIMITED
from compute.placement.promises import arrange, lock_hosts
from compute.placement.reservations import ReservationUsedUp, draw, lock_chain, unit_columns, unit_of, unit_of_flavor
from compute.scheduler.promises import Unit, Unplaceable
from tenants.errors import Conflict, InvalidInput, NotFound, VersionMismatch
from tenants.models import Quota, Tenant
from tenants.services import audit
from tenants.services.access import Actor, authorize, authorize_from_above

MAX_UNITS: Final = 1_000_000
SHARES: Final = ("vcpus", "memory_mib", "disk_gib")
# The ceiling follows the limit, never below what is used: as for tenants.Quota.
_SET_LIMIT: Final = """
UPDATE compute_grantlimit
SET "limit" = %(limit)s,
    ceiling = CASE WHEN %(limit)s::bigint IS NULL THEN NULL ELSE greatest(%(limit)s::bigint, used) END
WHERE grant_id = %(grant)s AND resource = %(resource)s
"""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a grant is to say. None leaves a thing as it is (at create: as by default).

    `shares` by resource, 1 to 10,000, 100 is normal; `limits` by resource, a limit of None is none.
    """

    units: int | None = None
    expandable: bool | None = None
    shares: Mapping[str, int] | None = None
    limits: Mapping[str, int | None] | None = None


def create_grant(*, actor: Actor, tenant: Tenant, pool: Pool, flavor: Flavor | None, terms: Terms) -> Grant:
    """Promise `terms.units` times the flavor to a tenant, out of the next grant above it, or else out of the pool.

    Guests that the tenant has already are counted in as far as their hosts have the room. All grants of a tree have one
    unit: below another grant `flavor` is left out, or names the same size. Raises PermissionDenied, InvalidInput,
    Conflict (there is one already; the grant above has too little left), PromiseNotPlaceable.
    """
    authorize_from_above(actor, "grant.create", tenant)
    faults = _faults(terms)
    if faults:
        raise InvalidInput(errors=faults)
    with transaction.atomic(durable=True):
        hosts = lock_hosts(pool_id=pool.id)
        tenant = Tenant.objects.get(id=tenant.id)  # where it stands, now that it cannot move
        if Grant.unscoped.filter(tenant=tenant, pool=pool).exists():
            raise Conflict(f"{tenant.name} has a grant in the pool {pool.name} already: change that one.")
        above = _nearest_above(tenant, pool)
        if above is None:
            authorize(actor, "pool.update", None)
        chain = lock_chain(above.id) if above else []
        unit = _unit(flavor, above, tenant, pool)
        below = _grants_below(tenant, pool, above)
        taken = sum(max(row.units, row.used_units) for row in below)
        units = terms.units or 0
        grant = Grant(
            tenant=tenant,
            pool=pool,
            parent=above,
            unit_name=flavor.name if flavor else above.unit_name if above else "",
            units=units,
            used_units=taken,
            expandable=bool(terms.expandable) and above is not None,
            **{f"shares_{name}": amount for name, amount in (terms.shares or {}).items()},
            **unit_columns(unit),
        )
        if taken > units and not grant.expandable:
            raise _too_few(f"The grants of tenants below {tenant.name} come to {taken} units; {units} are too few.")
        _draw(chain, max(units, taken) - taken, tenant)
        grant.save()
        Grant.unscoped.filter(id__in=[row.id for row in below]).update(parent=grant)
        _rearrange(pool, hosts, more=units > 0 and above is None)
        _open_limits(grant, terms.limits or {})
        audit.record(actor=actor, action="grant.create", tenant=tenant, target=grant, after=_said(pool, terms))
        return _fresh(grant.id)


def update_grant(*, actor: Actor, grant_id: uuid.UUID, terms: Terms, if_version: int | None = None) -> Grant:
    """Change a grant. Raises NotFound, PermissionDenied, InvalidInput, Conflict, PromiseNotPlaceable, VersionMismatch.

    Units cannot go below those in use; a limit can: what runs stays, nothing new is charged. A promise that a pool
    cannot keep through its policy's host losses is not made.
    """
    faults = _faults(terms)
    if faults:
        raise InvalidInput(errors=faults)
    with transaction.atomic(durable=True):
        grant = _find(grant_id)
        authorize_from_above(actor, "grant.update", grant.tenant)
        # Also where no slot moves: whoever takes a grant out of a chain holds the hosts, and locks it from above.
        hosts = lock_hosts(pool_id=grant.pool_id)
        chain = _chain(grant.id)
        grant = chain[0]
        if if_version is not None and grant.version != if_version:
            raise VersionMismatch(version=grant.version)
        if grant.parent_id is None and terms.units is not None:
            authorize(actor, "pool.update", None)
        before, drawn = grant.units, max(grant.units, grant.used_units)
        if terms.units is not None:
            grant.units = terms.units
        if terms.expandable is not None:
            grant.expandable = terms.expandable and grant.parent_id is not None
        if grant.used_units > grant.units and not grant.expandable:
            raise _too_few(f"{grant.used_units} units are in use: delete guests first, or leave at least these.")
        _draw(chain[1:], max(grant.units, grant.used_units) - drawn, grant.tenant)
        for name, amount in (terms.shares or {}).items():
            setattr(grant, f"shares_{name}", amount)
        grant.version += 1
        grant.save()
        if terms.units is not None:
            _rearrange(grant.pool, hosts, more=grant.units > before and grant.parent_id is None)
        _set_limits(grant.id, terms.limits or {})
        audit.record(
            actor=actor,
            action="grant.update",
            tenant=grant.tenant_id,
            target=grant,
            before={"units": before},
            after=_said(grant.pool, terms),
        )
        return _fresh(grant.id)


def delete_grant(*, actor: Actor, grant_id: uuid.UUID, if_version: int | None = None) -> None:
    """Take a promise back: guests go on, on the next grant above as far as it reaches, else unreserved.

    Grants below come to hang on the next one above. Raises NotFound, PermissionDenied, VersionMismatch, Conflict.
    """
    with transaction.atomic(durable=True):
        grant = _find(grant_id)
        authorize_from_above(actor, "grant.delete", grant.tenant)
        hosts = lock_hosts(pool_id=grant.pool_id)
        chain = _chain(grant.id)
        grant = chain[0]
        if if_version is not None and grant.version != if_version:
            raise VersionMismatch(version=grant.version)
        end_grant(grant=grant, hosts=hosts, chain=chain)
        audit.record(
            actor=actor, action="grant.delete", tenant=grant.tenant_id, target=grant, before={"units": grant.units}
        )


def _find(grant_id: uuid.UUID) -> Grant:
    grant: Grant | None = Grant.unscoped.select_related("tenant", "pool").filter(id=grant_id).first()
    if grant is None:
        raise NotFound
    return grant


def _chain(grant_id: uuid.UUID) -> list[Grant]:
    """The grant and those above it, locked. Raises NotFound for one that was deleted since it was looked up."""
    try:
        return lock_chain(grant_id)
    except Grant.DoesNotExist:
        raise NotFound from None


def _fresh(grant_id: uuid.UUID) -> Grant:
    rows = Grant.unscoped.select_related("tenant", "pool").prefetch_related("limits")
    grant: Grant = rows.get(id=grant_id)
    return grant


def _nearest_above(tenant: Tenant, pool: Pool) -> Grant | None:
    rows = Grant.unscoped.filter(pool=pool, tenant_id__in=tenant.path[:-1])
    return max(rows, key=lambda row: tenant.path.index(row.tenant_id), default=None)


def _grants_below(tenant: Tenant, pool: Pool, above: Grant | None) -> list[Grant]:
    """Return the grants that will hang on the new one, locked: those in its subtree that hang on the one above now."""
    subtree = Tenant.objects.filter(path__contains=[tenant.id]).exclude(id=tenant.id)
    rows = Grant.unscoped.select_for_update(of=("self",)).filter(pool=pool, parent=above, tenant__in=subtree)
    return list(rows.order_by("id"))


def _unit(flavor: Flavor | None, above: Grant | None, tenant: Tenant, pool: Pool) -> Unit:
    subtree = Grant.unscoped.filter(pool=pool, tenant__path__contains=[tenant.id])
    kin = above or subtree.first()
    if flavor is None:
        if kin is None:
            raise InvalidInput.field("/unit", "required", "Name the flavor that the promise must be able to place.")
        return unit_of(kin)
    unit = unit_of_flavor(flavor)
    if kin is not None and unit != unit_of(kin):
        raise InvalidInput.field(
            "/unit", "unit_differs", f"Grants of one tree have one unit in a pool, here {kin.unit_name}: leave it out."
        )
    return unit


def _draw(chain: list[Grant], units: int, tenant: Tenant) -> None:
    try:
        draw(chain=chain, units=units)
    except ReservationUsedUp:
        above = chain[0]
        left = max(above.units - above.used_units + units, 0)
        raise Conflict(
            f"The grant of the tenant above {tenant.name} has {left} units left, {units} more would be drawn.",
            left=left,
            asked=units,
        ) from None


def _rearrange(pool: Pool, hosts: list[Host], *, more: bool) -> None:
    """Set aside anew. `more`: the pool promises more than before, and is refused what it cannot keep.

    A grant below another one takes nothing more from the pool: it is shared out also while the pool lacks a host.
    """
    broken = arrange(pool=pool, hosts=hosts)
    if broken and more:
        raise not_placeable(pool, broken)


def not_placeable(pool: Pool, broken: Iterable[Unplaceable]) -> PromiseNotPlaceable:
    """Return the error that tells how much less could be kept."""
    worst = next(iter(broken))
    unit = worst.unit
    losses = {0: "no host loss", 1: "the loss of any host"}.get(worst.losses, f"the loss of any {worst.losses} hosts")
    return PromiseNotPlaceable(
        f"In the pool {pool.name} {worst.placeable} units of {unit.vcpus} vCPU, {unit.memory_mib} MiB and "
        f"{unit.disk_gib} GiB can be kept through {losses}; {worst.promised} would be promised in all.",
        pool=pool.name,
        placeable=worst.placeable,
        promised=worst.promised,
        host_losses=worst.losses,
    )


def _too_few(detail: str) -> InvalidState:
    return InvalidState(detail, state="units in use")


def _open_limits(grant: Grant, limits: Mapping[str, int | None]) -> None:
    """Make the limit rows with what is in use now."""
    lock_quota(grant.tenant_id)
    subtree = Tenant.objects.filter(path__contains=[grant.tenant_id])
    guests = Instance.unscoped.filter(pool_id=grant.pool_id, tenant__in=subtree)
    sums = Allocation.objects.filter(consumer_type="instance", consumer_id__in=guests.values("id")).aggregate(
        **{name: Sum(name, default=0) for name in LIMITED}
    )
    rows = []
    for name in LIMITED:
        limit, used = limits.get(name), sums[name]
        ceiling = None if limit is None else max(limit, used)
        rows.append(GrantLimit(grant=grant, resource=name, limit=limit, used=used, ceiling=ceiling))
    GrantLimit.objects.bulk_create(rows)


def lock_quota(tenant_id: uuid.UUID) -> None:
    """Wait for creates in this subtree that have charged the tenant's quota, and hold later ones back until we commit.

    The first are in the sum of what is in use then; the later ones find the limit rows.
    """
    list(Quota.unscoped.select_for_update().filter(tenant_id=tenant_id, resource="instances").values_list("id"))


def _set_limits(grant_id: uuid.UUID, limits: Mapping[str, int | None]) -> None:
    with connection.cursor() as cursor:
        for name in sorted(limits):
            cursor.execute(_SET_LIMIT, {"grant": grant_id, "resource": name, "limit": limits[name]})


def _faults(terms: Terms) -> list[dict[str, str]]:
    found = []
    if terms.units is not None and not 0 <= terms.units <= MAX_UNITS:
        found.append(("/units", f"Units are a whole number from 0 to {MAX_UNITS}."))
    for name, amount in (terms.shares or {}).items():
        if name not in SHARES or not 1 <= amount <= 10_000:
            found.append((f"/shares/{name}", f"Shares are whole numbers from 1 to 10000, by {', '.join(SHARES)}."))
    for name, limit in (terms.limits or {}).items():
        if name not in LIMITED or (limit is not None and not 0 <= limit <= 2**53):
            found.append((f"/limits/{name}", f"Limits are whole numbers or null, by {', '.join(LIMITED)}."))
    return [{"pointer": pointer, "code": "out_of_range", "detail": detail} for pointer, detail in found]


def _said(pool: Pool, terms: Terms) -> dict[str, Any]:
    said = {
        "units": terms.units,
        "expandable": terms.expandable,
        "shares": dict(terms.shares) if terms.shares else None,
        "limits": dict(terms.limits) if terms.limits else None,
    }
    return {"pool": pool.name, **{name: value for name, value in said.items() if value is not None}}
