"""Cold moves from order to end on fake hosts: nobody is stopped unasked, nothing runs twice, and the way back is sure."""

from __future__ import annotations

import dataclasses
import uuid

import pytest
from django.utils import timezone

from compute.errors import NotMovable
from compute.models import Allocation, Host, HostCall, Instance, Migration, Operation
from compute.node.drivers.faults import Fault
from compute.reconcilers import instances
from compute.sagas.engine import take_turn
from compute.selectors.instances import instance_rows, status_of
from compute.selectors.invariants import check_all
from compute.services.instances_move import check_move, move_instance
from compute.services.instances_power import start_instance
from compute.services.operations import cancel_operation
from tenants.errors import PermissionDenied
from tenants.scope import ALL
from tests.factories.nodes import PlayedHost, make_due, run_to_end
from tests.factories.tenants import make_actor
from tests.sagas.conftest import Cloud


@dataclasses.dataclass
class Pair:
    """A cloud of two hosts, on the first of which the instance is."""

    cloud: Cloud
    instance: Instance
    there: PlayedHost

    @property
    def here(self) -> PlayedHost:
        return self.cloud.node

    def order(self, *, stop: bool = True) -> Operation:
        operator = make_actor(is_operator=True)
        return move_instance(actor=operator, instance_id=self.instance.id, stop=stop)[1]

    def turns(self, operation: Operation, count: int) -> None:
        for _ in range(count):
            make_due(operation.id)
            take_turn(operation.id)
            for node in self.cloud.nodes:
                node.run_calls()

    def run(self, operation: Operation) -> Operation:
        return run_to_end(operation.id, *self.cloud.nodes)

    def running_on(self) -> list[str]:
        ours = str(self.instance.id)
        return [
            node.host.name
            for node in self.cloud.nodes
            if any(seen.instance_id == ours and seen.power == "running" for seen in node.driver.list_domains())
        ]

    def host(self) -> uuid.UUID | None:
        return Instance.unscoped.get(id=self.instance.id).host_id

    def settle(self) -> None:
        self.cloud.beat()
        self.cloud.beat()
        assert instances.run() == 0, "nothing is left to repair"
        assert check_all() == []
        assert Allocation.objects.get().host_id == self.host()

    def assert_moved(self) -> None:
        assert self.host() == self.there.host.id
        assert Migration.objects.get().state == "completed"
        assert self.here.driver.list_domains() == ()
        self.settle()

    def assert_stayed(self) -> None:
        assert self.host() == self.here.host.id
        assert self.running_on() == [self.here.host.name]
        assert self.there.driver.list_domains() == ()
        self.settle()


def pair_of(cloud: Cloud, instance: Instance) -> Pair:
    there = cloud.add_host()
    cloud.pool.shared_storage_id = "fake-storage"
    cloud.pool.save()
    cloud.beat()
    return Pair(cloud, instance, there)


@pytest.fixture
def running(cloud: Cloud) -> Pair:
    return pair_of(cloud, cloud.create_running())


@pytest.fixture
def stopped(cloud: Cloud) -> Pair:
    return pair_of(cloud, cloud.create_stopped())


def test_a_stopped_one_moves_in_the_books_and_starts_there_with_its_disk(stopped: Pair) -> None:
    disk = stopped.here.driver.list_disks()
    assert stopped.run(stopped.order(stop=False)).state == "succeeded"
    assert stopped.running_on() == []
    assert stopped.there.driver.list_disks() == disk
    stopped.assert_moved()
    start = start_instance(actor=stopped.cloud.actor, instance_id=stopped.instance.id)[1]
    assert stopped.run(start).state == "succeeded"
    assert stopped.running_on() == [stopped.there.host.name]


def test_one_that_runs_is_stopped_only_with_a_word(running: Pair) -> None:
    with pytest.raises(NotMovable) as caught:
        running.order(stop=False)
    assert [obstacle["code"] for obstacle in caught.value.data["obstacles"]] == ["would_stop"]
    assert not Migration.objects.exists()
    assert running.run(running.order()).state == "succeeded"
    assert running.running_on() == [running.there.host.name]
    running.assert_moved()


def test_its_status_is_moving_and_both_hosts_hold_room_until_it_runs_there(running: Pair) -> None:
    operation = running.order()
    row = instance_rows(visible=ALL).get(id=running.instance.id)
    assert status_of(row) == "moving"
    running.turns(operation, 2)
    assert Allocation.objects.count() == 2
    running.run(operation)
    assert Allocation.objects.count() == 1


@pytest.mark.parametrize("turns", [0, 1])
def test_cancelled_before_it_starts_there_it_runs_on_where_it_was(running: Pair, turns: int) -> None:
    operation = running.order()
    running.turns(operation, turns)
    cancel_operation(actor=running.cloud.actor, operation_id=operation.id)
    assert running.run(operation).state == "cancelled"
    running.assert_stayed()


def test_a_destination_that_cannot_start_it_gives_it_back(running: Pair) -> None:
    running.there.driver.inject(Fault("start", "never", code="start_failed", message="no such machine"))
    ended = running.run(running.order())
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["code"] == "destination_refused"
    assert "no such machine" in ended.error["detail"]
    running.assert_stayed()


@pytest.mark.parametrize("fault", ["unknown", "unknown_after", "retry"])
@pytest.mark.parametrize("place", ["stop", "start", "withdraw"])
def test_an_answer_that_is_lost_anywhere_is_asked_for_again(running: Pair, place: str, fault: str) -> None:
    running.cloud.inject(Fault(place, fault, times=2))  # type: ignore[arg-type]
    ended = running.run(running.order())
    assert ended.state == "succeeded", ended.error
    assert running.running_on() == [running.there.host.name]
    running.assert_moved()


def test_it_is_not_started_again_here_while_nobody_knows_whether_it_runs_there(running: Pair) -> None:
    """The destination starts it, and is not heard from then on: only its answer, or a proof that it is off, leads on."""
    operation = running.order()
    while running.there.host.name not in running.running_on():
        make_due(operation.id)
        take_turn(operation.id)
        running.here.run_calls()
        running.there.run_calls(answer=False)
    Host.objects.filter(id=running.there.host.id).update(observed_state="down")
    Operation.objects.filter(id=operation.id).update(deadline_at=timezone.now(), cancel_requested=True)
    for _ in range(20):
        make_due(operation.id)
        HostCall.objects.filter(state__in=["waiting", "taken"]).update(
            created_at=timezone.now() - timezone.timedelta(seconds=90),
            lease_until=timezone.now() - timezone.timedelta(seconds=1),
        )
        take_turn(operation.id)
        running.here.run_calls()
        assert running.running_on() == [running.there.host.name]
    Host.objects.filter(id=running.there.host.id).update(observed_state="up")
    assert running.run(operation).state == "succeeded", "it has arrived: the cancel comes too late"
    running.assert_moved()


def test_a_destination_that_is_proved_off_gives_it_back_and_owes_the_copy(running: Pair) -> None:
    operation = running.order()
    running.turns(operation, 1)
    Host.objects.filter(id=running.there.host.id).update(observed_state="fenced")
    for _ in range(12):
        make_due(operation.id)
        HostCall.objects.filter(host=running.there.host, state="waiting").update(
            created_at=timezone.now() - timezone.timedelta(seconds=90)
        )
        take_turn(operation.id)
        running.here.run_calls()
    ended = Operation.objects.get(id=operation.id)
    assert ended.error is not None
    assert (ended.state, ended.error["code"]) == ("failed", "destination_lost")
    assert running.running_on() == [running.here.host.name]
    debt = HostCall.objects.get(purpose="debt")
    assert (debt.host_id, debt.arguments["running_too"]) == (running.there.host.id, True)


def test_every_obstacle_is_named_and_a_check_takes_nothing(running: Pair) -> None:
    operator = make_actor(is_operator=True)
    Host.objects.filter(id=running.there.host.id).update(admin_state="disabled")
    check = check_move(actor=operator, instance_id=running.instance.id)
    assert {obstacle.code for obstacle in check.obstacles} == {"would_stop", "no_valid_host"}
    Host.objects.filter(id=running.there.host.id).update(admin_state="enabled")
    check = check_move(actor=operator, instance_id=running.instance.id, stop=True)
    assert (check.obstacles, check.destination) == ([], running.there.host)
    assert Allocation.objects.count() == 1


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize(("wished", "code"), [("suspended", "would_lose_memory"), ("stopped", "not_stopped")])
def test_what_runs_though_it_should_not_is_no_matter_of_a_word(
    running: Pair, wished: str, code: str, *, stop: bool
) -> None:
    Instance.unscoped.filter(id=running.instance.id).update(desired_power=wished)
    check = check_move(actor=make_actor(is_operator=True), instance_id=running.instance.id, stop=stop)
    assert [obstacle.code for obstacle in check.obstacles] == [code]


def test_tenants_move_nobody(running: Pair) -> None:
    with pytest.raises(PermissionDenied):
        move_instance(actor=running.cloud.actor, instance_id=running.instance.id, stop=True)
