"""What a create asks for: names and ids turned into rows, rows into what the scheduler and the ledger count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from django.db.models import QuerySet

from compute.errors import InvalidState
from compute.models import Flavor, Group, Image, Network, Pool
from compute.placement.give_back import quota_amounts
from compute.scheduler.model import GroupRule, Policy, Request, Resources
from compute.scheduler.topology import NumaAsk
from compute.selectors import lookup
from compute.selectors.known import Catalogue, ask_catalogue
from compute.services.checks import check_name
from compute.wire import Kind
from tenants.errors import InvalidInput, NotFound
from tenants.models import Tenant
from tenants.services.metering import Usage

COUNT_LIMIT = 100


def instance_names(name: str, count: int) -> list[str]:
    """Return the names of `count` instances, with suffixes where it is more than one. Raises InvalidInput."""
    if not isinstance(count, int) or not 1 <= count <= COUNT_LIMIT:
        raise InvalidInput.field("/count", "invalid_count", f"Count is a whole number from 1 to {COUNT_LIMIT}.")
    names = [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]
    for candidate in names:
        check_name(candidate)
    return names


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a create asks for, as rows."""

    flavor: Flavor
    image: Image
    pool: Pool
    network: Network
    keys: list[dict[str, str]]
    group: Group | None = None

    @classmethod
    def look_up(
        cls,
        *,
        tenant: Tenant,
        flavor: str,
        image: str,
        kind: str | None,
        pool: str | None,
        keypairs: Sequence[str],
        group: str | None = None,
        catalogue: Callable[[], Catalogue | None] | None = None,
    ) -> Wanted:
        """Turn names and ids into rows; a wrong one is told with its field. `catalogue`: what was asked for already."""
        catalogue = catalogue or ask_catalogue(flavor=flavor, image=image, pool=pool)
        found = catalogue() or _find_each(flavor, image, pool)
        found_flavor, found_image = found.flavor, found.image
        if kind is not None and kind != found_image.kind:
            raise InvalidInput.field(
                "/kind", "kind_mismatch", f"The image {found_image.name} is for a {found_image.kind}."
            )
        if found_flavor.kind and found_flavor.kind != found_image.kind:
            raise InvalidInput.field(
                "/flavor", "kind_mismatch", f"The flavor {found_flavor.name} is for a {found_flavor.kind}."
            )
        if found_flavor.disk_gib < found_image.virtual_size_gib:
            raise InvalidInput.field(
                "/flavor",
                "disk_too_small",
                f"The image needs {found_image.virtual_size_gib} GiB of disk, the flavor has {found_flavor.disk_gib}.",
            )
        keys = []
        for index, reference in enumerate(keypairs):
            pair = _or_invalid(
                f"/keypairs/{index}", lambda ref=reference: lookup.find_keypair(ref, tenant_id=tenant.id)
            )
            keys.append({"name": pair.name, "public_key": pair.public_key})
        found_group = (
            _or_invalid("/group", lambda: lookup.find_group(group, tenant_id=tenant.id)) if group is not None else None
        )
        return cls(
            flavor=found_flavor, image=found_image, pool=found.pool, network=found.network, keys=keys, group=found_group
        )

    def request(self) -> Request:
        """Return what the scheduler is asked, once per instance."""
        return Request(
            kind=cast(Kind, self.image.kind),
            resources=shared_part(self.flavor),
            pool_id=str(self.pool.id),
            cpu_models=cpu_models_of(self.flavor),
            cpu_flags=frozenset(self.flavor.cpu_flags),
            networks=frozenset({str(self.network.id)}),
            storages=storages_of(self.pool),
            image=str(self.image.id),
            numa=numa_of(self.flavor),
            group=str(self.group.id) if self.group else None,
            group_rule=cast(GroupRule, self.group.rule) if self.group else "anti_affinity",
            domain_limit=self.group.max_per_domain if self.group else None,
        )

    def policy(self) -> Policy:
        """Return how the pool weighs its hosts."""
        return Policy(name=self.pool.policy)

    def usage(self) -> Usage:
        """Return what each instance of this size is metered as."""
        return Usage(
            consumer_type="instance",
            kind=self.image.kind,
            flavor_id=self.flavor.id,
            flavor_name=self.flavor.name,
            pool_id=self.pool.id,
            pool_name=self.pool.name,
            vcpus=self.flavor.vcpus,
            memory_mib=self.flavor.memory_mib,
            disk_gib=self.flavor.disk_gib,
        )

    def amounts(self, count: int) -> dict[str, int]:
        """Return what `count` instances are charged for."""
        return quota_amounts(
            vcpus=self.flavor.vcpus, memory_mib=self.flavor.memory_mib, disk_gib=self.flavor.disk_gib, count=count
        )


def shared_networks() -> QuerySet[Network]:
    """The networks that instances may get a port on; of a pool's several the first is taken."""
    return Network.objects.filter(tenant=None).order_by("created_at")


def numa_of(flavor: Flavor) -> NumaAsk | None:
    """What the flavor asks of NUMA cells. CPUs of its own and huge pages are of one cell where it names no number."""
    if not (flavor.numa_nodes or flavor.hugepages_kib or flavor.pinned):
        return None
    return NumaAsk(
        nodes=flavor.numa_nodes or 1,
        vcpus=flavor.vcpus,
        memory_mib=flavor.memory_mib,
        page_kib=flavor.hugepages_kib,
        pinned=flavor.pinned,
    )


def shared_part(flavor: Flavor) -> Resources:
    """What the flavor takes of the slice that a host's guests share."""
    return Resources(
        vcpus=0 if flavor.pinned else flavor.vcpus,
        memory_mib=0 if flavor.hugepages_kib else flavor.memory_mib,
        disk_gib=flavor.disk_gib,
    )


def cpu_models_of(flavor: Flavor) -> frozenset[str]:
    """The processors of which a host must offer one."""
    return frozenset({flavor.cpu_model} if flavor.cpu_model else ())


def storages_of(pool: Pool) -> frozenset[str]:
    """What a host of the pool must see; nothing before its first host has shown which storage the pool's is."""
    return frozenset({pool.shared_storage_id} if pool.shared_storage_id else ())


def _find_each(flavor: str, image: str, pool: str | None) -> Catalogue:
    """Find the rows one by one, to say which reference is wrong and how."""
    found_flavor = _or_invalid("/flavor", lambda: lookup.find_flavor(flavor))
    found_image = _or_invalid("/image", lambda: lookup.find_image(image))
    found_pool = _or_invalid("/pool", lambda: lookup.find_pool(pool)) if pool else _only_pool()
    network = shared_networks().filter(pool=found_pool).first()
    if network is None:
        raise InvalidState(f"The pool {found_pool.name} has no network yet.", state="no network")
    return Catalogue(found_flavor, found_image, found_pool, network)


def _only_pool() -> Pool:
    pools = list(Pool.objects.all()[:2])
    if not pools:
        raise InvalidState("The cloud has no pool yet.", state="no pool")
    if len(pools) > 1:
        raise InvalidInput.field("/pool", "required", "There is more than one pool: name one.")
    return pools[0]


def _or_invalid(pointer: str, find: Any) -> Any:
    """A wrong name in a body is a wrong field (400 with a pointer), not a missing page."""
    try:
        return find()
    except NotFound as error:
        raise InvalidInput.field(pointer, "not_found", error.detail)
