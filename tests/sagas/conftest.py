"""A small cloud with one played host: enough for any saga."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from compute.models import Host, Instance, Operation, Pool
from compute.node.drivers.fake import FakeWire
from compute.node.drivers.faults import Fault
from compute.services.instances_create import create_instances
from compute.services.instances_power import stop_instance
from tenants.models import Tenant
from tenants.services.access import Actor
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.nodes import PlayedHost, play, run_to_end
from tests.factories.tenants import make_actor, make_tenant


@dataclass
class Cloud:
    """Pool, one host (the first of `nodes`), one tenant with quota, and its owner."""

    pool: Pool
    host: Host
    node: PlayedHost
    tenant: Tenant
    actor: Actor
    folder: Path
    wire: FakeWire
    nodes: list[PlayedHost]

    def add_host(self) -> PlayedHost:
        """A second host, to which guests of the first can migrate."""
        node = play(make_host(self.pool), self.folder, wire=self.wire)
        self.nodes.append(node)
        Host.objects.update(facts={"shared_storage_id": "fake-storage"})
        return node

    def inject(self, *faults: Fault) -> None:
        """Have the faults strike at whichever host comes to them, on each once."""
        for node in self.nodes:
            node.driver.inject(*faults)

    def beat(self) -> None:
        """Have all hosts tell what they see."""
        for node in self.nodes:
            node.beat()

    def create(self, name: str = "web", **changes: object) -> tuple[Instance, Operation]:
        values = {"name": name, "flavor": "small", "image": "tiny", "count": 1} | changes
        created = create_instances(actor=self.actor, tenant=self.tenant, **values)  # type: ignore[arg-type]
        return created.instances[0], created.operations[0]

    def create_running(self, name: str = "web", **changes: object) -> Instance:
        instance, operation = self.create(name, **changes)
        assert run_to_end(operation.id, self.node).state == "succeeded"
        return Instance.unscoped.get(id=instance.id)

    def create_stopped(self, name: str = "web", **changes: object) -> Instance:
        instance = self.create_running(name, **changes)
        _, operation = stop_instance(actor=self.actor, instance_id=instance.id, force=True)
        assert run_to_end(operation.id, self.node).state == "succeeded"
        return Instance.unscoped.get(id=instance.id)


@pytest.fixture
def cloud(transactional_db: None, tmp_path: Path) -> Cloud:
    pool = make_pool()
    host = make_host(pool)
    tenant = make_tenant(limits={"instances": 10, "vcpus": 10, "memory_mib": 10_000, "disk_gib": 100})
    make_flavor("small")
    make_image("tiny")
    wire = FakeWire()
    node = play(host, tmp_path, wire=wire)
    return Cloud(pool, host, node, tenant, make_actor("owner", tenant), tmp_path, wire, [node])
