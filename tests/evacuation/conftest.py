"""A pool of three played hosts on one storage, the first of which can be lost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from pytest_django import Settings

from compute.models import Evacuation, Fence, Host, Instance, Operation, Pool
from compute.reconcilers import evacuations, hosts
from compute.sagas.engine import take_turn
from compute.services.evacuations import evacuate_host
from compute.services.fences import fence_host
from compute.services.instances_create import create_instances
from tenants.models import Tenant
from tenants.services.access import Actor
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.nodes import PlayedHost, make_due, play, run_to_end
from tests.factories.tenants import make_actor, make_tenant


@dataclass
class LossyPool:
    """`lost` carries the guests; `others` have room."""

    pool: Pool
    lost: PlayedHost
    others: list[PlayedHost]
    tenant: Tenant
    owner: Actor
    operator: Actor
    folder: Path

    @property
    def nodes(self) -> list[PlayedHost]:
        return [self.lost, *self.others]

    def create(self, name: str, *, running: bool = True, priority: int = 50, **more: object) -> Instance:
        """Make a guest on the host that will be lost."""
        elsewhere = Host.objects.exclude(id=self.lost.host.id)
        elsewhere.update(admin_state="disabled")
        values = {"name": name, "flavor": "small", "image": "tiny", "count": 1} | more
        made = create_instances(actor=self.owner, tenant=self.tenant, **values)  # type: ignore[arg-type]
        assert run_to_end(made.operations[0].id, self.lost).state == "succeeded"
        elsewhere.update(admin_state="enabled")
        instance: Instance = made.instances[0]
        wish = "running" if running else "stopped"
        if not running:
            self.lost.driver.stop(str(instance.id), graceful_seconds=0)
        Instance.unscoped.filter(id=instance.id).update(desired_power=wish, evacuation_priority=priority)
        self.lost.beat()
        return Instance.unscoped.get(id=instance.id)

    def fall_silent(self) -> None:
        """The host is not heard any more, for as long as it takes to be down."""
        for _ in range(2):
            Host.objects.filter(id=self.lost.host.id).update(last_seen_at=timezone.now() - timedelta(minutes=5))
            hosts.run()
        assert self.state() == "down"

    def state(self) -> str:
        return str(Host.objects.get(id=self.lost.host.id).observed_state)

    def fence(self) -> Fence:
        return fence_host(actor=self.operator, host_id=self.lost.host.id, statement="I pulled both plugs")

    def evacuate(self) -> Evacuation:
        """Order it and let it run to where it stands still."""
        evacuation = evacuate_host(actor=self.operator, host_id=self.lost.host.id)
        return self.run(evacuation)

    def run(self, evacuation: Evacuation) -> Evacuation:
        for _ in range(40):
            moved = evacuations.run()
            open_now = Operation.objects.filter(kind="instance_evacuate", state__in=["pending", "running", "unwinding"])
            ids = list(open_now.values_list("id", flat=True))
            if not moved and not ids:
                evacuation.refresh_from_db()
                return evacuation
            for operation_id in ids:
                make_due(operation_id)
                take_turn(operation_id)
            for node in self.others:
                node.run_calls()
        raise AssertionError("it does not stand still")

    def homes(self) -> dict[str, str]:
        """Guest -> its host by the books."""
        return {row.name: row.host.name for row in Instance.unscoped.select_related("host")}

    def running_on(self) -> dict[str, list[str]]:
        """Guest -> the hosts where a copy of it runs."""
        found: dict[str, list[str]] = {}
        for node in self.nodes:
            for domain in node.driver.list_domains():
                if domain.power == "running":
                    found.setdefault(domain.name, []).append(node.host.name)
        return found


@pytest.fixture
def cloud(db: None, tmp_path: Path, settings: Settings) -> LossyPool:
    settings.FENCING_FILE = tmp_path / "fencing.toml"
    pool = make_pool()
    first = play(make_host(pool, name="lost"), tmp_path)
    others = [play(make_host(pool, name=name), tmp_path, beside=first) for name in ("second", "third")]
    tenant = make_tenant(limits={"instances": 50, "vcpus": 50, "memory_mib": 50_000, "disk_gib": 500})
    make_flavor("small")
    make_image("tiny")
    Host.objects.update(facts={"shared_storage_id": "fake-storage"})
    return LossyPool(pool, first, others, tenant, make_actor("owner", tenant), make_actor(is_operator=True), tmp_path)
