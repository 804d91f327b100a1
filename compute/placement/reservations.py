"""Drawing on promises: which hosts hold room for a tenant's reservation, and the books of what is drawn.

A request draws on the nearest grant on its tenant's path. Per host it fills slots of the grant's unit (see
`compute.scheduler.promises`): several small guests of one grant share a slot. Units are drawn from that grant and,
where it is expandable and used up, from the grant above.

Lock order: host rows by id (GrantUse and SetAside go with their host's lock), then grant rows from leaf to root.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from django.db.models import F

from compute.models import Flavor, Grant, GrantUse, SetAside
from compute.scheduler.model import HostState, Policy, Ranking, Request, Resources
from compute.scheduler.promises import Unit
from compute.scheduler.ranking import rank
from tenants import prepared

NOTHING = Resources(0, 0, 0)


class ReservationUsedUp(Exception):
    """The reservation was drawn by others between plan and claim."""


def unit_of(row: Grant | SetAside) -> Unit:
    """Return the unit that a grant or a set-aside counts in."""
    return _unit(row.unit_vcpus, row.unit_memory_mib, row.unit_disk_gib, row.unit_kind)


def unit_of_flavor(flavor: Flavor) -> Unit:
    """Return the unit that can carry one guest of this flavor."""
    return _unit(flavor.vcpus, flavor.memory_mib, flavor.disk_gib, flavor.kind)


def _unit(vcpus: int, memory_mib: int, disk_gib: int, kind: str) -> Unit:
    return Unit(vcpus, memory_mib, disk_gib, cast(Literal["vm", "container", ""], kind))


def unit_columns(unit: Unit) -> dict[str, int | str]:
    """Return the unit as columns of Grant and SetAside."""
    return {
        "unit_kind": unit.kind,
        "unit_vcpus": unit.vcpus,
        "unit_memory_mib": unit.memory_mib,
        "unit_disk_gib": unit.disk_gib,
    }


@dataclass(slots=True)
class Reservation:
    """What the guests of one tenant may draw in one pool, as read without a lock. `take` keeps it true through a batch.

    `spare`: units that may still be drawn. `free`: host id -> empty slots. `used`: host id -> what the grant's guests use.
    """

    grant_id: uuid.UUID
    unit: Unit
    spare: int
    free: dict[str, int]
    used: dict[str, Resources] = field(default_factory=dict)

    @classmethod
    def load(cls, *, pool_id: uuid.UUID, chain: Sequence[Grant]) -> Reservation | None:
        """Return what a tenant with these grants on its path (`ask_chain`) may draw; None where nothing is promised to it."""
        if not chain or (chain[0].units == 0 and not chain[0].expandable):
            return None
        nearest = chain[0]
        unit = unit_of(nearest)
        free = SetAside.objects.filter(host__pool_id=pool_id, **unit_columns(unit)).annotate(
            free=F("slots") - F("filled")
        )
        used = GrantUse.objects.filter(grant=nearest).values_list("host_id", "vcpus", "memory_mib", "disk_gib")
        return cls(
            grant_id=nearest.id,
            unit=unit,
            spare=spare_units(chain),
            free={str(host): slots for host, slots in free.values_list("host_id", "free")},
            used={str(host): Resources(*amounts) for host, *amounts in used},
        )

    def rank(self, hosts: Iterable[HostState], request: Request, policy: Policy) -> Ranking | None:
        """Rank the hosts whose set-aside room can take the request; None where none of them can serve it.

        A host with room in a slot that is in use goes before all that would open another: crumbs of a reservation that
        lie on many hosts would leave none of them room for a whole unit. Which hosts serve at all is the ranking's to
        say: a slot stays on a host that is down, and must not hide the free ones.
        """
        asked = request.resources
        fitting = {}
        for host_id, free in self.free.items():
            more = self._more(host_id, asked)
            if more <= min(free, max(self.spare, 0)):
                fitting[host_id] = more
        lent = [host.lending(asked) for host in hosts if host.id in fitting]
        snug = [host for host in lent if fitting[host.id] == 0]
        for among in (snug, lent):
            ranking = rank(among, request, policy)
            if ranking.candidates:
                return ranking
        return None

    def take(self, host_id: str, asked: Resources) -> None:
        """Note that a guest of this size was planned onto the host."""
        more = self._more(host_id, asked)
        self.spare -= more
        self.free[host_id] -= more
        self.used[host_id] = self.used.get(host_id, NOTHING) + asked

    def _more(self, host_id: str, asked: Resources) -> int:
        used = self.used.get(host_id, NOTHING)
        return self.unit.slots_of(used + asked) - self.unit.slots_of(used)


def ask_chain(*, pool_id: uuid.UUID, tenant_path: Sequence[uuid.UUID]) -> Callable[[], list[Grant]]:
    """Ask for the grants on a tenant's path (root first) in a pool, the nearest first; see `prepared.ask`."""
    found = prepared.ask_rows(Grant, "pool_id = %s AND tenant_id = ANY(%s)", [pool_id, list(tenant_path)])
    return lambda: sorted(found(), key=lambda row: -tenant_path.index(row.tenant_id))


def fill(*, host_id: uuid.UUID, grant: Grant, amount: Resources, sign: int = 1) -> int:
    """Move `amount` into (`sign` 1) or out of (-1) the grant's slots on a host whose row is locked; return the change in slots.

    Raises ReservationUsedUp where the slots set aside there do not suffice. `Host.held_*` is moved by the caller.
    """
    unit = unit_of(grant)
    use, _ = GrantUse.objects.get_or_create(grant=grant, host_id=host_id)
    after = Resources(
        use.vcpus + sign * amount.vcpus,
        use.memory_mib + sign * amount.memory_mib,
        use.disk_gib + sign * amount.disk_gib,
    )
    more = unit.slots_of(after) - use.slots
    if more:
        rows = SetAside.objects.filter(host_id=host_id, **unit_columns(unit), slots__gte=F("filled") + more)
        if not rows.update(filled=F("filled") + more):
            raise ReservationUsedUp(f"no {more} slots of {unit} are left on host {host_id}")
    use.vcpus, use.memory_mib, use.disk_gib, use.slots = after.vcpus, after.memory_mib, after.disk_gib, use.slots + more
    use.save(update_fields=["vcpus", "memory_mib", "disk_gib", "slots"])
    return more


def lock_chain(grant_id: uuid.UUID) -> list[Grant]:
    """Lock a grant and those above it, in this order, and return them as they are now.

    Nobody locks a parent before its child, so two chains of one tree cannot wait for each other.
    """
    chain = []
    following: uuid.UUID | None = grant_id
    while following is not None:
        grant: Grant = Grant.unscoped.select_for_update(of=("self",)).get(id=following)
        chain.append(grant)
        following = grant.parent_id
    return chain


def draw(*, chain: Sequence[Grant], units: int) -> None:
    """Draw units (below 0: give back) from the first of a locked chain, nearest first, and what it lacks from those above.

    Raises ReservationUsedUp where a grant that may not expand would pass its units; nothing is written then.
    """
    for grant in take(chain=chain, units=units):
        grant.save(update_fields=["used_units"])


def take(*, chain: Sequence[Grant], units: int) -> list[Grant]:
    """As `draw`, in memory; return the grants that changed."""
    changed = []
    for grant in chain:
        if not units:
            break
        before = max(grant.units, grant.used_units)
        grant.used_units += units
        if grant.used_units > grant.units and units > 0 and not grant.expandable:
            raise ReservationUsedUp(f"grant {grant.id} has {grant.units} units, {grant.used_units} would be used")
        units = max(grant.units, grant.used_units) - before
        changed.append(grant)
    return changed


def spare_units(chain: Sequence[Grant]) -> int:
    """Return how many units guests of the first of a chain may still draw, from it and, where it expands, from those above."""
    spare = 0
    for grant in chain:
        spare += max(grant.units - grant.used_units, 0)
        if not grant.expandable:
            break
    return spare
