"""What hosts say of themselves decides where instances go: processors, networks, storage, images."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from django.utils import timezone

from compute.errors import NoValidHost
from compute.models import Decision, Flavor, Host, HostCall, Image, Network, Operation, Pool
from compute.placement.inventory import apply_inventory
from compute.sagas.engine import take_turn
from compute.selectors.decisions import explain_decision
from compute.services import nodes
from compute.services.instances_create import create_instances
from compute.wire import HostInventory, HostReport
from tenants.models import Tenant
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import SYSTEM, make_actor, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)

INVENTORY = HostInventory(
    vcpus=8,
    memory_mib=8192,
    disk_gib=100,
    virt_modes=("qemu", "lxc"),
    cpu_model="Westmere",
    cgroup_version=2,
    libvirt_version="9.0.0",
    qemu_version="7.2.0",
    kernel="6.1",
    shared_storage_id="store",
    cpu_models=("Nehalem", "Westmere"),
    cpu_flags=("aes", "avx2"),
)


@dataclasses.dataclass(frozen=True)
class World:
    tenant: Tenant
    pool: Pool
    image: Image
    plain: Flavor

    def create(self, flavor: Flavor | None = None) -> Host:
        made = create_instances(
            actor=SYSTEM,
            tenant=self.tenant,
            name="web",
            flavor=(flavor or self.plain).name,
            image=self.image.name,
            pool=self.pool.name,
        )
        host = made.instances[0].host
        assert host is not None
        return host

    def refusal(self, flavor: Flavor | None = None) -> str:
        with pytest.raises(NoValidHost) as error:
            self.create(flavor)
        return str(error.value)


@pytest.fixture
def world() -> World:
    pool = make_pool()
    return World(make_tenant(), pool, make_image(), make_flavor())


def report(host: Host, **changes: Any) -> None:
    """Have the host send a heartbeat with this inventory."""
    told = dataclasses.replace(INVENTORY, **changes)
    nodes.heartbeat(
        host=host, report=HostReport(boot_id="b", clock=timezone.now().isoformat(), domains=None, inventory=told)
    )


def wanting(**asked: Any) -> Flavor:
    flavor = make_flavor()
    for name, value in {"kind": "vm", **asked}.items():
        setattr(flavor, name, value)
    flavor.save()
    return flavor


def test_a_flavor_goes_where_its_cpu_flags_can_be_given(world: World) -> None:
    old, silent, new = (make_host(world.pool) for _ in range(3))
    report(old)
    report(new, cpu_flags=("aes", "avx2", "avx512f"))
    assert silent.facts == {}
    assert world.create(wanting(cpu_flags=["avx512f"])) == new


def test_a_refusal_for_cpu_flags_says_so_and_its_record_names_the_filter(world: World) -> None:
    report(make_host(world.pool))
    assert "1 lacks CPU flags asked for" in world.refusal(wanting(cpu_flags=["avx512f"]))
    refused = Decision.unscoped.get(outcome="refused")
    assert refused.tally == {"cpu_flags": 1}
    assert [change["kind"] for offer in refused.remedies for change in offer["changes"]] == ["without_flags"]


def test_a_flavor_goes_where_its_cpu_model_is_offered(world: World) -> None:
    old, new = make_host(world.pool), make_host(world.pool)
    report(old)
    report(new, cpu_models=("EPYC-Rome",))
    assert world.create(wanting(cpu_model="EPYC-Rome")) == new
    assert world.create(wanting(cpu_model="Nehalem")) == old
    assert "2 do not offer the CPU model asked for" in world.refusal(wanting(cpu_model="Cooperlake"))


def test_the_host_is_told_what_the_flavor_asks(world: World) -> None:
    report(make_host(world.pool))
    world.create(wanting(cpu_model="Nehalem", cpu_flags=["aes"]))
    take_turn(Operation.objects.get().id)
    spec = HostCall.objects.get().arguments["spec"]
    assert (spec["cpu_model"], spec["cpu_flags"]) == ("Nehalem", ["aes"])


def test_a_host_that_lost_a_network_takes_nothing_until_it_has_it_again(world: World) -> None:
    host, network = make_host(world.pool), Network.objects.get(pool=world.pool)
    report(host, networks=(str(network.id),))
    assert world.create() == host
    report(host, networks=())
    assert "1 does not reach the network" in world.refusal()
    report(host, networks=(str(network.id),))
    assert world.create() == host


def test_a_host_whose_worker_does_not_look_at_networks_is_believed(world: World) -> None:
    host = make_host(world.pool)
    report(host, networks=None)
    assert world.create() == host


def test_a_host_that_sees_other_storage_than_its_pools_takes_nothing(world: World) -> None:
    Pool.objects.filter(id=world.pool.id).update(shared_storage_id="store")
    good, bad = make_host(world.pool), make_host(world.pool)
    report(good)
    report(bad, shared_storage_id="")
    assert world.create() == good
    report(good, shared_storage_id="elsewhere")
    assert "2 do not reach the storage" in world.refusal()


def test_the_host_that_has_the_image_is_preferred_where_all_else_is_equal(world: World) -> None:
    hosts = [make_host(world.pool) for _ in range(3)]
    report(hosts[2], images=(str(world.image.id),))
    assert world.create() == hosts[2]
    decision = Decision.unscoped.get(outcome="placed")
    best, second = explain_decision(actor=make_actor(is_operator=True), decision=decision).best[:2]
    assert (best.points["image"], second.points["image"]) == (0.2, 0.0)


def test_another_pool_is_offered_with_its_own_network_and_storage_in_mind(world: World) -> None:
    other, network = make_pool(), Network.objects.get(pool=world.pool)
    Pool.objects.filter(id=world.pool.id).update(shared_storage_id="store")
    Pool.objects.filter(id=other.id).update(shared_storage_id="archive")
    report(make_host(world.pool), networks=(str(network.id),), vcpus=0)
    there = make_host(other)
    report(there, networks=(str(Network.objects.get(pool=other).id),), shared_storage_id="archive")
    assert f"Use the pool {other.name}." in _remedies(world)
    report(there, networks=(), shared_storage_id="archive")
    assert f"Use the pool {other.name}." not in _remedies(world)


def test_the_same_report_again_changes_nothing(world: World) -> None:
    host = make_host(world.pool)
    report(host)
    version = Host.objects.get(id=host.id).version
    report(host)
    host.refresh_from_db()
    assert host.version == version
    assert host.facts["cpu_flags"] == ["aes", "avx2"]
    assert not apply_inventory(host=host, reported=INVENTORY)


def _remedies(world: World) -> str:
    with pytest.raises(NoValidHost) as error:
        world.create()
    return str(error.value.data["remedies"])
