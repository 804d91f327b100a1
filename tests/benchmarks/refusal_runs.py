"""What `refusal_remedies` measures."""

from __future__ import annotations

import time
from datetime import timedelta

from django.utils import timezone

from compute.errors import NoValidHost
from compute.models import Allocation, Flavor, Host, Image, Instance, Pool
from compute.placement.inventory import apply_ceilings
from compute.placement.remedies import find_offers
from compute.services.instances_case import load_case
from compute.services.instances_create import create_instances
from compute.services.instances_wanted import Wanted
from tenants.models import Tenant
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import SYSTEM, make_tenant


def measure(
    *, hosts: int, guests: int, leases: int, runs: int
) -> tuple[list[float], list[float], list[float], list[str]]:
    """Return wall clock, CPU and search alone of each refusal, in milliseconds, and the kinds of its remedies.

    `leases`: guests that are deleted at the end of theirs, each on a host of its own, of which the last alone makes room.
    """
    pool, other, tenant = make_pool("lab", vcpu_ratio=4.0), make_pool("spare"), make_tenant("acme")
    image, flavor = make_image("tiny"), make_flavor("nano", memory_mib=512)
    make_flavor("huge", vcpus=4, memory_mib=7000)
    model = make_host(pool, vcpus=16, memory_mib=8192)
    rows = [
        Host(
            name=f"h{number:05}",
            pool=pool if number % 10 else other,
            address=f"10.{number // 62500}.{number // 250 % 250}.{number % 250}",
            admin_state="enabled",
            observed_state="up",
            modes=["qemu"],
            total_vcpus=16,
            total_memory_mib=8192,
            total_disk_gib=100,
            used_vcpus=number % 9,
            used_memory_mib=2000 + number % 3000,
            used_disk_gib=10,
            ceiling_vcpus=64,
            ceiling_memory_mib=8192,
            ceiling_disk_gib=100,
        )
        for number in range(hosts - 1)
    ]
    Host.objects.bulk_create(rows, batch_size=1000)
    Host.objects.filter(id=model.id).update(used_memory_mib=5000)
    apply_ceilings(host=Host.objects.get(id=model.id))
    closest = Host.objects.filter(pool=pool).order_by("used_memory_mib", "id")
    Instance.unscoped.bulk_create(
        Instance(
            tenant=tenant,
            name=f"g{number}",
            kind="vm",
            state="active",
            pool=pool,
            host=host,
            flavor=flavor,
            image=image,
            vcpus=1,
            memory_mib=512 + 256 * (number % 5),
            disk_gib=1,
        )
        for number, host in enumerate(host for host in closest[: guests // 5] for _ in range(5))
    )
    _lease(tenant, pool, leases)
    walls, cpus, searches, remedies = [], [], [], list[str]()
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            create_instances(actor=SYSTEM, tenant=tenant, name="web", flavor="huge", image="tiny", pool="lab")
        except NoValidHost as error:
            remedies = [one["changes"][0]["kind"] for one in error.data["remedies"]]
        else:
            raise AssertionError("nothing was refused")
        walls.append((time.perf_counter() - wall) * 1000)
        cpus.append((time.process_time() - cpu) * 1000)
        wanted = Wanted.look_up(tenant=tenant, flavor="huge", image="tiny", kind=None, pool="lab", keypairs=())
        case = load_case(tenant=tenant, wanted=wanted, count=1, all_pools=True)
        began = time.perf_counter()
        find_offers(case)
        searches.append((time.perf_counter() - began) * 1000)
    return walls, cpus, searches, remedies


def _lease(tenant: Tenant, pool: Pool, count: int) -> None:
    """The fullest hosts get a small guest each, and the one that lacks least a large one, whose lease ends last."""
    closest, *fullest = Host.objects.filter(pool=pool).order_by("used_memory_mib", "id")
    on = [*fullest[len(fullest) - count + 1 :], closest] if count else []
    image, flavor = Image.objects.get(), Flavor.objects.get(name="nano")
    now = timezone.now()
    rows = [
        Instance(
            tenant=tenant,
            name=f"leased-{number}",
            kind="vm",
            state="active",
            pool=pool,
            host=host,
            flavor=flavor,
            image=image,
            vcpus=1,
            memory_mib=1500 if host == closest else 16,
            disk_gib=1,
            lease_ends_at=now + timedelta(hours=1, seconds=number),
            lease_action="delete",
        )
        for number, host in enumerate(on)
    ]
    Instance.unscoped.bulk_create(rows)
    Allocation.objects.bulk_create(
        Allocation(
            host_id=row.host_id,
            consumer_type="instance",
            consumer_id=row.id,
            vcpus=row.vcpus,
            memory_mib=row.memory_mib,
            disk_gib=row.disk_gib,
        )
        for row in rows
    )
