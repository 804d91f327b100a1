"""Reads all that decides about a create, as committed now, for a forecast or for what would undo a refusal."""

from __future__ import annotations

from compute.models import Flavor, Network
from compute.placement.loader import load_hosts
from compute.scheduler.model import Resources
from compute.scheduler.snapshot import Snapshot
from compute.services.addresses import addresses_left
from compute.services.instances_wanted import Wanted, shared_networks
from compute.services.remedies import Case, Size
from tenants.models import Tenant
from tenants.services.access import Actor
from tenants.services.quota_forecast import forecast_charge


def load_case(*, actor: Actor, tenant: Tenant, wanted: Wanted, count: int, all_pools: bool) -> Case:
    """Return the create as a case. `all_pools`: with the hosts of every pool that it could use instead."""
    first: dict[str, Network] = {}
    for network in shared_networks().select_related("pool"):
        first.setdefault(str(network.pool_id), network)
    own = str(wanted.pool.id)
    pools = first if all_pools else {own: first[own]}
    left = addresses_left(pools.values())
    hosts = load_hosts(pool_id=None if len(pools) > 1 else wanted.pool.id)
    flavors = Flavor.objects.filter(active=True, kind__in=["", wanted.image.kind])
    return Case(
        snapshot=Snapshot.from_hosts(host for host in hosts if host.pool_id in pools),
        request=wanted.request(),
        policy=wanted.policy(),
        count=count,
        quota=forecast_charge(tenant=tenant, amounts=wanted.amounts(count), actor=actor),
        addresses={pool: left[network.id] for pool, network in pools.items()},
        pool_names={pool: network.pool.name for pool, network in pools.items()},
        sizes=[
            Size(row.name, Resources(vcpus=row.vcpus, memory_mib=row.memory_mib, disk_gib=row.disk_gib))
            for row in flavors
        ],
        least_disk_gib=wanted.image.virtual_size_gib,
    )
