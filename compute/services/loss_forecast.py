"""What the loss of a host would mean now, for one host and for each of a pool. Nothing is taken, nothing is locked."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from compute import states
from compute.models import Allocation, Flavor, Group, Host, Instance, Pool, Port
from compute.placement.foresight import Foresight
from compute.placement.kept import KEPT
from compute.placement.place import Refused
from compute.scheduler.losses import Guest
from compute.scheduler.model import Policy, Request
from compute.scheduler.returning import sure_to_return
from compute.scheduler.snapshot import Snapshot
from compute.selectors.lookup import find_host
from compute.services.lost_guests import (
    Fate,
    guests_of,
    leaving_of,
    loaded,
    networks_of,
    no_room,
    obstacle_of,
    request_of,
    storages_of_host,
)
from tenants.services.access import Actor, authorize

# Of the hosts whose guests are not sure to come back, so many are gone through guest by guest at one look.
HOSTS_LOOKED_AT: Final = 40
# What ends by itself, or with the fence, keeps nobody away.
_PASSING: Final = frozenset({"operation_open", "unsettled"})


@dataclass(frozen=True, slots=True)
class HostLoss:
    """One host of a pool. `staying`: its guests that would not come back. Not `looked_at`: nobody has gone through them."""

    host: Host
    guests: int
    staying: tuple[Fate, ...]
    looked_at: bool


@dataclass(frozen=True, slots=True)
class PoolLosses:
    """What the loss of each single host would mean. `hosts` and `guests` count all; `worst` are those hosts that would keep some."""

    pool: Pool
    hosts: int
    guests: int
    worst: tuple[HostLoss, ...]

    @property
    def staying(self) -> int:
        return sum(len(loss.staying) for loss in self.worst)

    @property
    def not_looked_at(self) -> int:
        return sum(not loss.looked_at for loss in self.worst)


def foresee_loss(*, actor: Actor, reference: str) -> tuple[Host, list[Fate]]:
    """Say of each guest of a host where it would come back were the host lost now, and of the others why not.

    In the order in which they would be started, on the hosts as they are now; nothing is taken.
    """
    authorize(actor, "host.read", None)
    host = Host.objects.select_related("pool").get(id=find_host(reference).id)
    return host, _fates(host, KEPT.look(host.pool_id))


def foresee_losses(*, actor: Actor, pool: Pool) -> PoolLosses:
    """Say for each host of a pool which of its guests would not come back were it lost now, and why.

    Hosts whose guests are sure to find room are told by one bound for all (`scheduler.returning`); the others are gone
    through as `foresee_loss` does. A constant number of queries, and a few for each host that is gone through.
    """
    authorize(actor, "host.read", None)
    snapshot = KEPT.look(pool.id)
    hosts = hosts_of(pool, snapshot)
    guests = list(asked_for(pool, hosts))
    count = Counter(guest.host_id for guest in guests)
    sure = sure_to_return(snapshot, guests)
    worst, looked = [], 0
    for host in hosts.values():
        if not count[str(host.id)] or (str(host.id) in sure and storages_of_host(host)):
            continue
        if looked >= HOSTS_LOOKED_AT:
            worst.append(HostLoss(host, count[str(host.id)], (), looked_at=False))
            continue
        looked += 1
        fates = _fates(host, snapshot)
        staying = tuple(fate for fate in fates if fate.host_id is None and fate.code not in _PASSING)
        if staying:
            worst.append(HostLoss(host, count[str(host.id)], staying, looked_at=True))
    worst.sort(key=lambda loss: (not loss.looked_at, -len(loss.staying)))
    return PoolLosses(pool, len(hosts), len(guests), tuple(worst))


def _fates(host: Host, snapshot: Snapshot) -> list[Fate]:
    foresight = Foresight.of(snapshot, pool_id=host.pool_id, lost=host.id)
    guests = list(loaded(guests_of(host)))
    networks = networks_of(Port.unscoped.filter(instance__in=guests))
    held = {
        row.consumer_id: row
        for row in Allocation.objects.filter(consumer_type="instance", consumer_id__in=[guest.id for guest in guests])
    }
    fates = []
    for guest in guests:
        fate = obstacle_of(guest, host)
        if fate is None and guest.id not in held:
            continue  # deleted between the two readings
        if fate is None:
            found = foresight.bring_back(
                consumer=guest.id,
                request=request_of(guest, host, networks.get(guest.id, frozenset())),
                policy=Policy(name=host.pool.policy),
                tenant_path=tuple(guest.tenant.path),
                leaving=leaving_of(held[guest.id]),
            )
            fate = no_room(guest, found) if isinstance(found, Refused) else Fate(guest, found, foresight.name_of(found))
        fates.append(fate)
    return fates


def hosts_of(pool: Pool, snapshot: Snapshot) -> dict[uuid.UUID, Host]:
    """Return the rows of the pool's hosts that are in the snapshot, by id, in the order of their names."""
    rows = Host.objects.filter(pool=pool).exclude(admin_state="removed").defer("proof", "strays", "stray_disks")
    hosts = {host.id: host for host in rows.order_by("name") if str(host.id) in snapshot.row_of}
    for host in hosts.values():
        host.pool = pool
    return hosts


def asked_for(pool: Pool, hosts: dict[uuid.UUID, Host]) -> Iterator[Guest]:
    """Yield what all guests of a pool are asked for, equal ones as one object: there are few sizes and thousands of guests."""
    columns = ("kind", "vcpus", "memory_mib", "disk_gib", "flavor_id", "group_id")
    rows = Instance.unscoped.filter(pool=pool, state__in=states.INSTANCE_HOLDS_ROOM, host__in=hosts)
    # Guests first: without a lock, what they are of has to be read after them to be there.
    guests = list(rows.values_list("id", "host_id", *columns))
    flavors = {flavor.id: flavor for flavor in Flavor.objects.all()}
    groups = {group.id: group for group in Group.unscoped.filter(instances__pool=pool).distinct()}
    networks = networks_of(Port.unscoped.filter(network__pool=pool))
    requests: dict[tuple[object, ...], Request] = {}
    for instance_id, host_id, *asked in guests:
        on, host = networks.get(instance_id, frozenset()), hosts[host_id]
        key = (*asked, on, storages_of_host(host))
        request = requests.get(key)
        if request is None:
            kind, vcpus, memory_mib, disk_gib, flavor_id, group_id = asked
            guest = Instance(kind=kind, vcpus=vcpus, memory_mib=memory_mib, disk_gib=disk_gib, pool=pool)
            guest.flavor, guest.group = flavors[flavor_id], groups.get(group_id)
            request = requests[key] = request_of(guest, host, on)
        yield Guest(str(instance_id), str(host_id), request)
