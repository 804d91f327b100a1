"""Guests of a lost host come back on others: after the fence alone, by priority, once each, with the books moved along."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from compute.errors import InvalidState
from compute.models import Allocation, Decision, Domain, Evacuation, Host, HostCall, Instance, Operation
from compute.node.drivers.faults import Fault
from compute.reconcilers import evacuations, instances
from compute.sagas.engine import take_turn
from compute.selectors.invariants import check_all
from compute.services.evacuations import evacuate_host
from compute.services.evacuations import take_turn as evacuation_turn
from compute.services.groups import create_group
from compute.services.instances_power import stop_instance
from compute.services.loss_forecast import foresee_loss
from tenants.models import AuditEvent, Quota, UsageSegment
from tests.evacuation.conftest import LossyPool
from tests.factories.compute import make_flavor, make_host
from tests.factories.nodes import play

pytestmark = pytest.mark.faults


def test_nobody_moves_before_the_fence(cloud: LossyPool) -> None:
    cloud.create("web")
    cloud.pool.auto_evacuate = True
    cloud.pool.save()
    cloud.fall_silent()
    with pytest.raises(InvalidState, match="has to be fenced first"):
        evacuate_host(actor=cloud.operator, host_id=cloud.lost.host.id)
    assert evacuations.run() == 0
    assert cloud.homes() == {"web": "lost"}


@pytest.mark.django_db(transaction=True)
def test_all_come_back_and_the_books_agree(cloud: LossyPool) -> None:
    for number in range(4):
        cloud.create(f"web-{number}")
    cloud.create("off", running=False)
    used = set(Quota.unscoped.values_list("resource", "used"))
    cloud.fall_silent()
    cloud.fence()
    done = cloud.evacuate()
    assert (done.state, done.moved, done.blocked) == ("finished", 5, [])
    assert set(cloud.homes().values()) == {"second", "third"}
    assert all("lost" not in hosts or len(hosts) == 2 for hosts in cloud.running_on().values())
    back = {name: [host for host in hosts if host != "lost"] for name, hosts in cloud.running_on().items()}
    assert {name: len(hosts) for name, hosts in back.items()} == {f"web-{number}": 1 for number in range(4)}
    lost = Host.objects.get(id=cloud.lost.host.id)
    assert (lost.used_vcpus, lost.used_memory_mib, lost.used_disk_gib, lost.used_instances) == (0, 0, 0, 0)
    assert set(Quota.unscoped.values_list("resource", "used")) == used, "charged once, wherever it runs"
    assert UsageSegment.unscoped.filter(ended_at=None).count() == 5
    for node in cloud.others:
        node.beat()
        node.beat()
    assert check_all() == []


def test_the_tenant_reads_what_happened_and_no_host_name(cloud: LossyPool) -> None:
    instance = cloud.create("web")
    cloud.fall_silent()
    cloud.fence()
    cloud.evacuate()
    operation = Operation.objects.get(kind="instance_evacuate")
    assert (operation.state, operation.tenant_id) == ("succeeded", cloud.tenant.id)
    event = AuditEvent.unscoped.get(action="instance.evacuate")
    assert event.tenant_id == cloud.tenant.id
    said = f"{event.after} {operation.input} {operation.steps}"
    assert not any(node.host.name in said for node in cloud.nodes)
    decision = Decision.unscoped.get(id=Instance.unscoped.get(id=instance.id).decision_id)
    assert str(decision.host_id) == str(Instance.unscoped.get(id=instance.id).host_id)


def test_higher_priorities_come_first(cloud: LossyPool) -> None:
    for name, priority in (("late", 10), ("first", 90), ("middle", 50)):
        cloud.create(name, priority=priority)
    cloud.fall_silent()
    cloud.fence()
    evacuate_host(actor=cloud.operator, host_id=cloud.lost.host.id)
    evacuations.run()
    started = Operation.objects.filter(kind="instance_evacuate").order_by("created_at")
    assert list(started.values_list("target_name", flat=True)) == ["first", "middle", "late"]


def test_so_many_at_once_and_the_next_when_one_has_ended(cloud: LossyPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compute.services.evacuations.AT_ONCE", 2)
    for number in range(3):
        cloud.create(f"web-{number}")
    cloud.fall_silent()
    cloud.fence()
    evacuation = evacuate_host(actor=cloud.operator, host_id=cloud.lost.host.id)
    assert evacuation_turn(evacuation_id=evacuation.id, blocked_too=False) == 2
    assert evacuation_turn(evacuation_id=evacuation.id, blocked_too=False) == 0
    assert cloud.run(evacuation).moved == 3


def test_who_finds_no_room_is_told_why_and_comes_when_there_is(cloud: LossyPool) -> None:
    make_flavor("large", vcpus=7, memory_mib=7000, disk_gib=1)
    cloud.create("small")
    cloud.create("large", flavor="large", priority=90)
    Host.objects.exclude(name="lost").update(reserved_memory_mib=7000)
    cloud.fall_silent()
    cloud.fence()
    stuck = cloud.evacuate()
    assert (stuck.state, stuck.moved) == ("running", 1)
    assert [(row["name"], row["code"]) for row in stuck.blocked] == [("large", "no_valid_host")]
    assert "memory" in stuck.blocked[0]["message"]
    assert cloud.homes() == {"large": "lost", "small": cloud.homes()["small"]}
    cloud.others.append(play(make_host(cloud.pool, name="fourth"), cloud.folder, beside=cloud.lost))
    Host.objects.filter(name="fourth").update(facts={"shared_storage_id": "fake-storage"})
    done = cloud.run(stuck)
    assert (done.state, done.moved, done.blocked) == ("finished", 2, [])
    assert cloud.homes()["large"] == "fourth"


def test_a_guest_whose_disk_is_the_hosts_own_stays(cloud: LossyPool) -> None:
    cloud.create("web")
    Host.objects.filter(name="lost").update(facts={"shared_storage_id": ""})
    cloud.fall_silent()
    cloud.fence()
    stuck = cloud.evacuate()
    assert [row["code"] for row in stuck.blocked] == ["storage_not_shared"]
    assert cloud.homes() == {"web": "lost"}


def test_an_operation_that_waits_for_the_lost_host_ends_and_its_guest_comes_back(cloud: LossyPool) -> None:
    instance = cloud.create("web")
    _, order = stop_instance(actor=cloud.owner, instance_id=instance.id)
    take_turn(order.id)
    cloud.fall_silent()
    cloud.fence()
    assert [row["code"] for row in cloud.evacuate().blocked] == ["operation_open"]
    take_turn(order.id)
    take_turn(order.id)
    order.refresh_from_db()
    assert order.state == "failed"
    assert order.error is not None
    assert order.error["code"] == "host_lost"
    assert cloud.run(Evacuation.objects.get()).state == "finished"
    assert cloud.homes()["web"] != "lost"


def test_a_missing_disk_is_not_made_anew(cloud: LossyPool) -> None:
    instance = cloud.create("web")
    cloud.lost.driver.host.disks.clear()
    cloud.fall_silent()
    cloud.fence()
    cloud.evacuate()
    operation = Operation.objects.get(kind="instance_evacuate")
    assert operation.state == "failed"
    assert Instance.unscoped.get(id=instance.id).error == {
        "code": "disk_missing",
        "message": "The instance's disk is missing.",
    }
    assert cloud.lost.driver.list_disks() == ()


def test_a_worker_that_dies_between_two_guests_leaves_each_in_one_place(
    cloud: LossyPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        cloud.create(f"web-{number}")
    cloud.fall_silent()
    cloud.fence()
    evacuation = evacuate_host(actor=cloud.operator, host_id=cloud.lost.host.id)
    with monkeypatch.context() as broken:
        broken.setattr("compute.services.evacuations._owe", _die)
        with pytest.raises(KeyboardInterrupt):
            evacuation_turn(evacuation_id=evacuation.id, blocked_too=True)
    assert set(cloud.homes().values()) == {"lost"}, "books, debt and order are one transaction"
    assert not HostCall.objects.filter(purpose="debt").exists()
    assert cloud.run(evacuation).moved == 3
    assert Allocation.objects.count() == 3
    assert HostCall.objects.filter(purpose="debt").count() == 3


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_start_that_is_lost_on_the_way_is_finished_by_asking_again(cloud: LossyPool) -> None:
    cloud.create("web")
    for node in cloud.others:
        node.driver.host.inject(Fault("start", "unknown_after"))
    cloud.fall_silent()
    cloud.fence()
    assert cloud.evacuate().state == "finished"
    assert Operation.objects.get(kind="instance_evacuate").state == "succeeded"


def test_a_start_that_failed_is_tried_again_until_its_owner_wishes_something_else(cloud: LossyPool) -> None:
    instance = cloud.create("web")
    for node in cloud.others:
        node.driver.host.inject(Fault("start.boot", "never", times=2, code="start_failed"))
    cloud.fall_silent()
    cloud.fence()
    evacuation = cloud.evacuate()
    for node in cloud.others:
        node.beat()
    Domain.objects.update(since=timezone.now() - timedelta(minutes=1))
    instances.run()
    assert Instance.unscoped.get(id=instance.id).desired_power == "running", "it did not shut itself down"
    for tries in (1, 2):
        starts = Operation.objects.filter(kind="instance_evacuate", state="failed")
        assert starts.count() == tries
        assert evacuations.run() == 0, "not before a pause"
        starts.update(finished_at=timezone.now() - timedelta(minutes=5))
        cloud.run(evacuation)
    assert cloud.running_on()["web"] == ["lost", cloud.homes()["web"]]
    Operation.objects.filter(kind="instance_evacuate").update(state="failed")
    stop_instance(actor=cloud.owner, instance_id=instance.id)
    assert evacuations.run() == 0


def test_a_host_that_is_heard_after_its_fence_stops_the_evacuation(cloud: LossyPool) -> None:
    cloud.create("web")
    cloud.fall_silent()
    cloud.fence()
    evacuation = evacuate_host(actor=cloud.operator, host_id=cloud.lost.host.id)
    cloud.lost.beat()
    assert cloud.run(evacuation).state == "stopped"
    assert cloud.homes() == {"web": "lost"}
    with pytest.raises(InvalidState, match="was heard after its fence"):
        evacuate_host(actor=cloud.operator, host_id=cloud.lost.host.id)
    Host.objects.filter(name="lost").update(last_seen_at=timezone.now() - timedelta(minutes=5))
    cloud.fence()
    assert cloud.evacuate().state == "finished", "a later proof covers what was heard"


def test_a_pool_may_evacuate_unasked_once_for_each_fence(cloud: LossyPool) -> None:
    cloud.create("web")
    Host.objects.filter(name="lost").update(facts={"shared_storage_id": ""})
    cloud.pool.auto_evacuate = True
    cloud.pool.save()
    cloud.fall_silent()
    cloud.fence()
    evacuations.run()
    evacuations.run()
    assert Evacuation.objects.get().actor == "evacuation"


def test_the_hard_rule_of_a_group_holds_among_those_that_come_back(cloud: LossyPool) -> None:
    group = create_group(actor=cloud.owner, tenant=cloud.tenant, name="apart", rule="anti_affinity")
    Host.objects.filter(name="third").update(admin_state="disabled")
    cloud.create("a", group=group.name)
    Instance.unscoped.filter(name="a").update(group=None)
    cloud.create("b", group=group.name)
    Instance.unscoped.filter(name="a").update(group=group)
    Host.objects.filter(name="third").update(admin_state="disabled")
    cloud.fall_silent()
    cloud.fence()
    stuck = cloud.evacuate()
    assert (stuck.moved, [row["code"] for row in stuck.blocked]) == (1, ["no_valid_host"])


def test_what_is_foreseen_is_what_happens_and_takes_nothing(cloud: LossyPool) -> None:
    make_flavor("large", vcpus=5, memory_mib=5000, disk_gib=1)
    make_flavor("giant", vcpus=6, memory_mib=6000, disk_gib=1)
    cloud.create("web")
    cloud.create("large", flavor="large", priority=80)
    Host.objects.filter(name="lost").update(
        total_vcpus=32, total_memory_mib=32_000, ceiling_vcpus=32, ceiling_memory_mib=32_000
    )
    cloud.create("giant-1", flavor="giant", priority=70)
    cloud.create("giant-2", flavor="giant", priority=60)
    before = Allocation.objects.count(), set(cloud.homes().values())
    host, fates = foresee_loss(actor=cloud.operator, reference="lost")
    assert (Allocation.objects.count(), set(cloud.homes().values())) == before
    assert host.name == "lost"
    names = {row.id: row.name for row in Host.objects.all()}
    foreseen = {fate.instance.name: names[fate.host_id] if fate.host_id else fate.code for fate in fates}
    assert foreseen["giant-2"] == "no_valid_host"
    cloud.fall_silent()
    cloud.fence()
    stuck = cloud.evacuate()
    happened = cloud.homes() | {row["name"]: row["code"] for row in stuck.blocked}
    assert happened == foreseen
