"""A pool of three played hosts on one storage, the first of which is to be emptied."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from compute.models import Domain, Host, Instance, Operation, Plan, PlanStep, Pool
from compute.node.drivers.fake import FakeWire
from compute.sagas.engine import take_turn
from compute.selectors.invariants import check_all
from compute.services.drain_draft import DrainOptions
from compute.services.instances_create import create_instances
from compute.services.plan_turns import take_turn as plan_turn
from compute.services.plans import apply_plan, propose_drain
from tenants.models import Tenant
from tenants.services.access import Actor
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.nodes import PlayedHost, make_due, play, run_to_end
from tests.factories.tenants import make_actor, make_tenant


def open_operations() -> list[Any]:
    """Return the ids of what is due, oldest first."""
    rows = Operation.objects.filter(state__in=["pending", "running", "unwinding"])
    return list(rows.order_by("created_at").values_list("id", flat=True))


@dataclass
class DrainedPool:
    """`first` carries the guests; `others` have room."""

    pool: Pool
    first: PlayedHost
    others: list[PlayedHost]
    tenant: Tenant
    owner: Actor
    operator: Actor

    @property
    def nodes(self) -> list[PlayedHost]:
        return [self.first, *self.others]

    def create(self, name: str, *, on: PlayedHost | None = None, running: bool = True, **more: Any) -> Instance:
        """Make a guest on the first host, or on another one."""
        node = on or self.first
        disruption = more.pop("disruption", "live")
        Host.objects.exclude(id=node.host.id).update(admin_state="disabled")
        values = {"name": name, "flavor": "small", "image": "tiny-vm", "count": 1} | more
        made = create_instances(actor=self.owner, tenant=self.tenant, **values)
        assert run_to_end(made.operations[0].id, node).state == "succeeded"
        Host.objects.update(admin_state="enabled")
        instance: Instance = made.instances[0]
        if not running:
            node.driver.stop(str(instance.id), graceful_seconds=0)
        wish = "running" if running else "stopped"
        Instance.unscoped.filter(id=instance.id).update(desired_power=wish, disruption=disruption)
        node.beat()
        return Instance.unscoped.get(id=instance.id)

    def propose(self, **options: Any) -> Plan:
        return propose_drain(actor=self.operator, host_id=self.first.host.id, options=DrainOptions(**options))

    def drain(self, **options: Any) -> Plan:
        """Apply a drain and let it go on to where it stands still."""
        return self.run(apply_plan(actor=self.operator, plan_id=self.propose(**options).id))

    def turn(self, plan: Plan) -> None:
        """One turn of everybody, with all pauses over."""
        PlanStep.objects.update(not_before=timezone.now() - timedelta(seconds=1))
        plan_turn(plan_id=plan.id)
        for operation_id in open_operations():
            make_due(operation_id)
            take_turn(operation_id)
        for node in self.nodes:
            node.run_calls()

    def run(self, plan: Plan, *, turns: int = 150) -> Plan:
        for _ in range(turns):
            self.turn(plan)
            plan.refresh_from_db()
            if plan.state in ("finished", "stopped", "aborted") and not plan.steps.filter(state="running").exists():
                return plan
        raise AssertionError(f"it does not come to an end: {plan.state} {self.steps(plan)}")

    def steps(self, plan: Plan) -> dict[str, tuple[str, str, str]]:
        """Guest -> way, state, code of its newest step."""
        rows = plan.steps.select_related("instance").order_by("number")
        return {step.instance.name: (step.way, step.state, step.code) for step in rows}

    def homes(self) -> dict[str, str]:
        """Guest -> its host by the books."""
        return {row.name: row.host.name for row in Instance.unscoped.select_related("host").exclude(host=None)}

    def host_state(self) -> str:
        return str(Host.objects.get(id=self.first.host.id).admin_state)

    def settle(self) -> None:
        """After two heartbeats of each host everything is in order, and each guest that should run does so once."""
        for _ in range(2):
            for node in self.nodes:
                node.beat()
        assert check_all() == []
        for instance in Instance.unscoped.filter(state="active", desired_power="running"):
            copies = [
                node.host.id
                for node in self.nodes
                if any(seen.uuid == str(instance.id) and seen.power == "running" for seen in node.driver.list_domains())
            ]
            assert copies == [instance.host_id]
            assert Domain.objects.get(instance=instance).host_id == instance.host_id


@pytest.fixture
def cloud(transactional_db: None, tmp_path: Path) -> DrainedPool:
    pool = make_pool()
    wire = FakeWire()
    nodes = [play(make_host(pool, name=name, vcpus=16), tmp_path, wire=wire) for name in ("first", "second", "third")]
    tenant = make_tenant(limits={"instances": 50, "vcpus": 50, "memory_mib": 50_000, "disk_gib": 500})
    make_flavor("small")
    make_flavor("large", vcpus=4, memory_mib=4096)
    make_image("tiny-vm")
    make_image("tiny-container", kind="container")
    Host.objects.update(facts={"shared_storage_id": "fake-storage"})
    Pool.objects.update(shared_storage_id="fake-storage", host_losses=0)
    pool.refresh_from_db()
    return DrainedPool(pool, nodes[0], nodes[1:], tenant, make_actor("owner", tenant), make_actor(is_operator=True))
