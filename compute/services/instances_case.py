"""Reads all that decides about a create, as committed now, for a forecast or for what would undo a refusal."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Final, cast

from compute.models import Flavor, Instance, Network
from compute.models.catalog import LEAST_MEMORY_MIB
from compute.placement import limits
from compute.placement.groups import Members
from compute.placement.kept import KEPT
from compute.placement.lease_rows import load_ends, load_promised
from compute.placement.remedies import Case, Guest, Needs, Size
from compute.placement.reservations import Reservation, ask_chain
from compute.scheduler.model import Request, Resources
from compute.scheduler.remedies import hosts_short_of_room
from compute.scheduler.snapshot import Snapshot
from compute.services.addresses import addresses_left
from compute.services.instances_wanted import Wanted, cpu_models_of, numa_of, shared_networks, storages_of
from compute.wire import Kind
from tenants.models import Tenant
from tenants.services.quota_forecast import forecast_charge

_HOSTS_ASKED: Final = 32
_GUESTS_ASKED: Final = 1000


def load_case(*, tenant: Tenant, wanted: Wanted, count: int, all_pools: bool) -> Case:
    """Return the create as a case. `all_pools`: with the hosts of every pool that it could use instead, guests that
    could move, and leases that end."""
    first: dict[str, Network] = {}
    for network in shared_networks().select_related("pool"):
        first.setdefault(str(network.pool_id), network)
    own = str(wanted.pool.id)
    pools = first if all_pools else {own: first[own]}
    left = addresses_left(pools.values())
    snapshot = KEPT.look(None if len(pools) > 1 else wanted.pool.id)
    if not snapshot.pools.keys() <= pools.keys():  # a pool without a network is nothing to offer
        snapshot = Snapshot.from_hosts(host for host in snapshot.hosts if host.pool_id in pools)
    members = Members.of(wanted.request())
    snapshot = members.shown(snapshot)
    request, policy = members.told(wanted.request()), wanted.policy()
    flavors = Flavor.objects.filter(active=True, kind__in=["", wanted.image.kind])
    case = Case(
        snapshot=snapshot,
        request=request,
        policy=policy,
        count=count,
        quota=forecast_charge(tenant=tenant, amounts=wanted.amounts(count)),
        addresses={pool: left[network.id] for pool, network in pools.items()},
        pool_names={pool: network.pool.name for pool, network in pools.items()},
        sizes=[
            Size(row.name, Resources(vcpus=row.vcpus, memory_mib=row.memory_mib, disk_gib=row.disk_gib))
            for row in flavors
            if _asks_no_more(row, wanted.flavor)
        ],
        least=Resources(1, LEAST_MEMORY_MIB, wanted.image.virtual_size_gib),
        limits=limits.forecast(tenant=tenant, amounts=wanted.amounts(count)),
        reservations={
            pool: found
            for pool in pools
            if request.numa is None and (found := _reservation(uuid.UUID(pool), tenant)) is not None
        },
        needs={pool: Needs(frozenset({str(network.id)}), storages_of(network.pool)) for pool, network in pools.items()},
        guests=_guests(snapshot, request) if all_pools and count == 1 else (),
        members=sum(members.on_host.values()),
    )
    if not all_pools:
        return case
    ends = load_ends(case)
    return replace(case, leases=ends, promised=load_promised(case, ends, tenant_path=tenant.path))


def _asks_no_more(flavor: Flavor, wanted: Flavor) -> bool:
    """A size is offered in the place of another only where what fits that one beyond its size fits this one as well."""
    if numa_of(flavor) is not None:
        return False
    return flavor.cpu_model in ("", wanted.cpu_model) and set(flavor.cpu_flags) <= set(wanted.cpu_flags)


def _reservation(pool_id: uuid.UUID, tenant: Tenant) -> Reservation | None:
    return Reservation.load(pool_id=pool_id, chain=ask_chain(pool_id=pool_id, tenant_path=tenant.path)())


def _guests(snapshot: Snapshot, request: Request) -> list[Guest]:
    """Return the active guests of the hosts that lack room and nothing else, of the few that lack least.

    Not those of a group, whose rule speaks of where the others are, nor those with CPUs or pages of their own.
    """
    short = hosts_short_of_room(snapshot, request, most=_HOSTS_ASKED)
    movable = {"group": None, "flavor__pinned": False, "flavor__numa_nodes": 0, "flavor__hugepages_kib": 0}
    active = Instance.unscoped.filter(state="active", host__in=map(uuid.UUID, short), **movable).select_related(
        "flavor"
    )
    rows = active.order_by("id")[:_GUESTS_ASKED]
    return [
        Guest(
            id=str(row.id),
            name=row.name,
            tenant_id=str(row.tenant_id),
            host_id=str(row.host_id),
            request=Request(
                kind=cast(Kind, row.kind),
                resources=Resources(vcpus=row.vcpus, memory_mib=row.memory_mib, disk_gib=row.disk_gib),
                pool_id=str(row.pool_id),
                cpu_models=cpu_models_of(row.flavor),
                cpu_flags=frozenset(row.flavor.cpu_flags),
                networks=request.networks,
                storages=request.storages,
            ),
        )
        for row in rows
    ]
