"""Live migration from order to end on fake hosts: what is moved, what stays, and what the books say all the way."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import pytest
from django.utils import timezone

from compute.errors import HostInUse, NotMovable, NoValidHost, OperationInProgress
from compute.models import Allocation, Domain, Host, HostCall, Instance, Migration, Operation
from compute.node.drivers.faults import Fault
from compute.sagas.engine import take_turn
from compute.selectors.invariants import check_all
from compute.services.hosts import disable_host, remove_host
from compute.services.instances_delete import delete_instance
from compute.services.migrations import Terms, check_migration, migrate_instance
from compute.services.operations import cancel_operation, retry_operation
from compute.wire import MigrationStatus
from tenants.errors import InvalidInput, PermissionDenied
from tenants.models import AuditEvent, UsageSegment
from tenants.services.access import Actor
from tests.factories.compute import make_host
from tests.factories.nodes import PlayedHost, make_due, run_to_end
from tests.factories.tenants import make_actor
from tests.sagas.conftest import Cloud


@dataclasses.dataclass
class Pair:
    """A cloud whose instance runs on its first host, and a second one."""

    cloud: Cloud
    instance: Instance
    there: PlayedHost
    operator: Actor

    @property
    def here(self) -> PlayedHost:
        return self.cloud.node

    def order(self, **options: Any) -> tuple[Migration, Operation]:
        return migrate_instance(actor=self.operator, instance_id=self.instance.id, **options)

    def run(self, operation: Operation, **options: Any) -> Operation:
        return run_to_end(operation.id, *self.cloud.nodes, **options)

    def fresh(self) -> Instance:
        return Instance.unscoped.get(id=self.instance.id)

    def running_on(self) -> list[uuid.UUID]:
        """The hosts on which a copy runs."""
        ours = str(self.instance.id)
        return [
            node.host.id
            for node in self.cloud.nodes
            if any(seen.instance_id == ours and seen.power == "running" for seen in node.driver.list_domains())
        ]

    def settle(self) -> None:
        """Two heartbeats of each host; then everything has to be in order, with the guest at exactly one place."""
        self.cloud.beat()
        self.cloud.beat()
        assert check_all() == []
        assert Allocation.objects.count() == 1
        held = Allocation.objects.get()
        assert (held.consumer_type, held.consumer_id, held.host_id) == (
            "instance",
            self.instance.id,
            self.fresh().host_id,
        )
        assert not Migration.objects.filter(state__in=["claimed", "preparing", "running"]).exists()

    def assert_stayed(self) -> None:
        assert self.running_on() == [self.here.host.id]
        assert self.fresh().host_id == self.here.host.id
        assert self.there.driver.list_domains() == ()
        assert self.there.driver.host.expected == set()
        self.settle()

    def assert_moved(self) -> None:
        assert self.running_on() == [self.there.host.id]
        assert self.fresh().host_id == self.there.host.id
        assert self.here.driver.list_domains() == ()
        self.settle()


@pytest.fixture
def pair(cloud: Cloud) -> Pair:
    instance = cloud.create_running()
    there = cloud.add_host()
    cloud.pool.shared_storage_id = "fake-storage"
    cloud.pool.save()
    cloud.beat()
    return Pair(cloud, instance, there, make_actor(is_operator=True))


def test_it_moves_and_the_books_with_it(pair: Pair) -> None:
    segment = UsageSegment.unscoped.get(consumer_id=pair.instance.id)
    migration, operation = pair.order(reason="new fans")
    assert Allocation.objects.filter(consumer_type="migration", consumer_id=migration.id).exists()
    assert check_all() == []
    ended = pair.run(operation)
    assert ended.state == "succeeded", ended.error
    migration.refresh_from_db()
    assert (migration.state, migration.reason, migration.status["ended"]) == ("completed", "new fans", "moved")
    assert pair.fresh().decision_id == migration.decision_id
    assert pair.there.driver.look(str(pair.instance.id)).persistent
    pair.assert_moved()
    assert UsageSegment.unscoped.get(consumer_id=pair.instance.id) == segment, "the tenant is charged once"


def test_what_its_tenant_can_read_names_no_host(pair: Pair) -> None:
    pair.run(pair.order(reason="secret-rack is hot")[1])
    hosts = [str(value) for node in pair.cloud.nodes for value in (node.host.name, node.host.id, node.host.address)]
    for event in AuditEvent.unscoped.filter(tenant=pair.cloud.tenant):
        told = f"{event.before} {event.after} {event.target_name}"
        assert not [word for word in [*hosts, "secret-rack"] if word in told], told


def test_a_host_to_which_guests_are_on_their_way_is_not_removed(pair: Pair) -> None:
    operation = pair.order()[1]
    disable_host(actor=pair.operator, host_id=pair.there.host.id)
    with pytest.raises(HostInUse):
        remove_host(actor=pair.operator, host_id=pair.there.host.id)
    assert pair.run(operation).state == "succeeded"


def test_there_and_back(pair: Pair) -> None:
    assert pair.run(pair.order()[1]).state == "succeeded"
    assert pair.run(pair.order(destination=pair.here.host)[1]).state == "succeeded"
    pair.assert_stayed()


def test_progress_is_told_while_it_is_copied(pair: Pair) -> None:
    pair.here.driver.host.job_questions = 3
    migration, operation = pair.order()
    seen = []
    for _ in range(40):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
        migration.refresh_from_db()
        if migration.status:
            seen.append(migration.status["done_bytes"])
        if Operation.objects.get(id=operation.id).state == "succeeded":
            break
    assert seen == sorted(seen)
    assert len(set(seen)) == 4
    pair.assert_moved()


@pytest.mark.parametrize("questions", [0, 1, 2, 5])
def test_cancelled_at_any_moment_it_is_at_one_place(pair: Pair, questions: int) -> None:
    pair.here.driver.host.job_questions = 4
    _, operation = pair.order()
    for _ in range(questions):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    cancel_operation(actor=pair.operator, operation_id=operation.id)
    assert pair.run(operation).state == "cancelled"
    assert Migration.objects.get().state == "aborted"
    pair.assert_stayed()


def test_after_the_point_of_no_return_a_cancel_comes_too_late(pair: Pair) -> None:
    _, operation = pair.order()
    while Instance.unscoped.get(id=pair.instance.id).host_id == pair.here.host.id:
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    cancel_operation(actor=pair.operator, operation_id=operation.id)
    assert pair.run(operation).state == "succeeded"
    pair.assert_moved()


def test_past_its_deadline_it_is_called_off(pair: Pair) -> None:
    pair.here.driver.host.job_questions = 1000
    _, operation = pair.order()
    for _ in range(6):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    Operation.objects.filter(id=operation.id).update(deadline_at=timezone.now())
    assert pair.run(operation).state == "failed"
    pair.assert_stayed()


@pytest.mark.parametrize("fault", ["unknown", "unknown_after", "retry"])
@pytest.mark.parametrize("place", ["receive", "migrate", "migrate.copy", "look", "adopt", "withdraw"])
def test_an_answer_that_is_lost_anywhere_is_asked_for_again(pair: Pair, place: str, fault: str) -> None:
    pair.cloud.inject(Fault(place, fault, times=2))  # type: ignore[arg-type]
    ended = pair.run(pair.order()[1])
    assert ended.state == "succeeded", ended.error
    pair.assert_moved()


def test_the_source_that_says_moved_is_not_believed(pair: Pair) -> None:
    pair.here.driver.inject(Fault("migrate.copy", "no_effect"))
    ended = pair.run(pair.order()[1])
    assert ended.state == "failed"
    pair.assert_stayed()


def test_the_source_that_says_no_more_is_not_waited_for(pair: Pair) -> None:
    """Its answers are lost from the copy on: where the guest runs is seen all the same."""
    pair.here.driver.inject(Fault("migrate.copy", "unknown_after"), Fault("migrate", "unknown", skip=1, times=50))
    ended = pair.run(pair.order()[1])
    assert ended.state == "succeeded", ended.error
    pair.assert_moved()


def test_a_destination_that_is_not_ready_says_why(pair: Pair) -> None:
    Host.objects.filter(id=pair.here.host.id).update(facts={"shared_storage_id": "fake-storage"})
    pair.there.driver.host.expected.clear()
    pair.there.driver.host.foreign[str(pair.instance.id)] = pair.here.driver.list_domains()[0]
    ended = pair.run(pair.order()[1])
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["code"] == "destination_not_ready"
    assert "not Cenote's" in ended.error["detail"]
    assert "not Cenote's" not in ended.error["message"], "tenants read the message"
    assert pair.running_on() == [pair.here.host.id, pair.there.host.id], "the foreign one was not touched"


def test_the_destination_goes_away_on_the_way(pair: Pair) -> None:
    pair.here.driver.host.job_questions = 4
    _, operation = pair.order()
    for _ in range(3):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    assert pair.here.driver.host.jobs, "it has begun"
    pair.there.driver.host.expected.clear()
    Host.objects.filter(id=pair.there.host.id).update(observed_state="down")
    for _ in range(60):
        make_due(operation.id)
        HostCall.objects.filter(state="waiting").update(created_at=timezone.now() - timezone.timedelta(seconds=61))
        take_turn(operation.id)
        pair.here.run_calls()
        if Operation.objects.get(id=operation.id).state == "failed":
            break
    assert Operation.objects.get(id=operation.id).state == "failed"
    debt = HostCall.objects.get(purpose="debt")
    assert (debt.host_id, debt.method) == (pair.there.host.id, "instance.withdraw"), "paid first when it returns"
    assert pair.running_on() == [pair.here.host.id]
    Host.objects.filter(id=pair.there.host.id).update(observed_state="up")
    pair.there.run_calls()
    pair.assert_stayed()


def test_the_source_goes_away_after_the_guest_has_left(pair: Pair) -> None:
    _, operation = pair.order()
    while pair.running_on() == [pair.here.host.id]:
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    Host.objects.filter(id=pair.here.host.id).update(observed_state="down")
    for _ in range(60):
        make_due(operation.id)
        HostCall.objects.filter(state="waiting").update(created_at=timezone.now() - timezone.timedelta(seconds=61))
        take_turn(operation.id)
        pair.there.run_calls()
        if Operation.objects.get(id=operation.id).state == "succeeded":
            break
    assert Operation.objects.get(id=operation.id).state == "succeeded"
    debt = HostCall.objects.get(purpose="debt")
    assert debt.arguments == {"paused_too": True, "running_too": True}, "a stale copy must not run on beside the other"
    Host.objects.filter(id=pair.here.host.id).update(observed_state="up")
    pair.here.run_calls()
    pair.assert_moved()


def _lose(pair: Pair, operation: Operation, lost: PlayedHost, other: PlayedHost) -> Operation:
    """Fence a host and give turns until the operation has ended, while the other one answers."""
    Host.objects.filter(id=lost.host.id).update(observed_state="fenced")
    for _ in range(60):
        make_due(operation.id)
        HostCall.objects.filter(state="waiting").update(created_at=timezone.now() - timezone.timedelta(seconds=61))
        take_turn(operation.id)
        other.run_calls()
        found = Operation.objects.get(id=operation.id)
        if found.state in ("succeeded", "failed", "stuck"):
            return found
    raise AssertionError(f"it waits for a host that is proved to be off: {found.state}")


def test_a_source_that_was_fenced_is_waited_for_no_longer(pair: Pair) -> None:
    """So that the evacuation of its guests can go on: as long as this is open it leaves the guest alone."""
    pair.here.driver.host.job_questions = 9
    _, operation = pair.order()
    for _ in range(4):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    ended = _lose(pair, operation, pair.here, pair.there)
    assert ended.state == "failed"
    assert pair.fresh().host_id == pair.here.host.id, "the evacuation takes it from there"
    assert Allocation.objects.get().consumer_type == "instance"
    assert pair.there.driver.host.expected == set()


def test_a_half_made_copy_of_a_lost_source_is_taken_away(pair: Pair) -> None:
    _, operation = pair.order()
    while pair.running_on() == [pair.here.host.id]:
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    pair.there.driver.set_power(str(pair.instance.id), "paused")
    ended = _lose(pair, operation, pair.here, pair.there)
    assert ended.error is not None
    assert (ended.state, ended.error["code"]) == ("failed", "source_lost")
    assert pair.there.driver.list_domains() == ()


def test_a_destination_that_was_fenced_ends_it_where_the_guest_was(pair: Pair) -> None:
    pair.here.driver.host.job_questions = 9
    _, operation = pair.order()
    for _ in range(4):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    pair.there.driver.host.expected.clear()
    ended = _lose(pair, operation, pair.there, pair.here)
    assert ended.state == "failed"
    assert pair.running_on() == [pair.here.host.id]
    assert pair.fresh().host_id == pair.here.host.id


def test_a_guest_that_moved_to_a_host_that_was_fenced_is_that_hosts(pair: Pair) -> None:
    _, operation = pair.order()
    while pair.fresh().host_id == pair.here.host.id:
        make_due(operation.id)
        take_turn(operation.id)
        if pair.fresh().host_id == pair.here.host.id:
            for node in pair.cloud.nodes:
                node.run_calls()
    ended = _lose(pair, operation, pair.there, pair.here)
    assert ended.state == "succeeded", "its evacuation waits for this to end"
    assert pair.fresh().host_id == pair.there.host.id


def test_two_running_copies_are_left_to_a_person(pair: Pair) -> None:
    _, operation = pair.order()
    pair.here.driver.host.job_questions = 0
    while pair.running_on() == [pair.here.host.id]:
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    pair.here.driver.set_power(str(pair.instance.id), "running")
    ended = pair.run(operation)
    assert ended.state == "stuck"
    assert ended.error is not None
    assert ended.error["code"] == "undecided"
    assert len(pair.running_on()) == 2, "neither was ended by guessing"
    assert Allocation.objects.count() == 2, "room is held at both ends"

    # A person ends one of them and has it tried again: it goes on with what is seen, and takes nothing away that runs.
    pair.here.driver.set_power(str(pair.instance.id), "stopped")
    retry_operation(actor=pair.operator, operation_id=operation.id)
    again = pair.run(operation)
    assert (again.state, again.error) == ("succeeded", None)
    pair.assert_moved()


def test_a_guest_that_went_over_between_two_looks_is_looked_at_again(pair: Pair) -> None:
    _, operation = pair.order()
    while pair.running_on() == [pair.here.host.id]:
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    pair.here.driver.set_power(str(pair.instance.id), "running")
    for _ in range(6):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    pair.here.driver.set_power(str(pair.instance.id), "stopped")
    assert pair.run(operation).state == "succeeded"
    pair.assert_moved()


def test_of_two_paused_copies_the_sources_is_set_going(pair: Pair) -> None:
    pair.here.driver.host.job_questions = 1
    pair.here.driver.inject(Fault("migrate.copy", "no_effect"))
    _, operation = pair.order()
    for _ in range(3):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    ours = str(pair.instance.id)
    pair.there.driver.host.domains[ours] = pair.here.driver.host.domains[ours]
    pair.there.driver.host.arrived.add(ours)
    for node in pair.cloud.nodes:
        node.driver.set_power(ours, "paused")
    assert pair.run(operation).state == "failed"
    pair.assert_stayed()
    methods = [call.method for call in pair.here.calls]
    assert "instance.adopt" in methods, "set going, not started: a start could boot a second copy"
    assert methods.count("instance.start") == 1, "its first"


def test_a_new_host_that_does_not_take_it_on_is_shown_to_a_person(pair: Pair) -> None:
    pair.there.driver.inject(Fault("adopt", "never", times=1))
    _, operation = pair.order()
    stuck = pair.run(operation)
    assert stuck.state == "stuck"
    assert pair.running_on() == [pair.there.host.id]
    retry_operation(actor=pair.operator, operation_id=operation.id)
    assert pair.run(operation).state == "succeeded"
    pair.assert_moved()


def test_a_guest_that_ended_on_its_way_is_started_where_it_was(pair: Pair) -> None:
    pair.here.driver.host.job_questions = 3
    _, operation = pair.order()
    for _ in range(3):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    pair.here.driver.set_power(str(pair.instance.id), "stopped")
    ended = pair.run(operation)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["code"] == "guest_ended"
    assert pair.fresh().host_id == pair.here.host.id


def test_a_delete_waits_for_it_and_takes_it_away_wherever_it_is(pair: Pair) -> None:
    _, operation = pair.order()
    for _ in range(3):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    delete = delete_instance(actor=pair.cloud.actor, instance_id=pair.instance.id)[1]
    pair.run(operation)
    assert pair.run(delete).state == "succeeded"
    assert pair.running_on() == []
    assert not Allocation.objects.exists()
    pair.cloud.beat()
    pair.cloud.beat()
    assert check_all() == []


def test_every_obstacle_is_named(pair: Pair) -> None:
    pair.here.driver.set_power(str(pair.instance.id), "stopped")
    pair.cloud.beat()
    pair.cloud.pool.shared_storage_id = "another"
    pair.cloud.pool.save()
    with pytest.raises(NotMovable) as caught:
        pair.order(destination=pair.here.host)
    codes = {obstacle["code"] for obstacle in caught.value.data["obstacles"]}
    assert codes == {"not_running", "storage_not_shared", "same_host"}
    check = check_migration(actor=pair.operator, instance_id=pair.instance.id, destination=pair.here.host)
    assert {obstacle.code for obstacle in check.obstacles} == codes
    assert check.destination is None
    assert not Migration.objects.exists()
    assert Operation.objects.filter(kind="instance_migrate").count() == 0


def test_no_other_host_can_take_it(pair: Pair) -> None:
    Host.objects.filter(id=pair.there.host.id).update(admin_state="disabled")
    with pytest.raises(NoValidHost):
        pair.order()
    with pytest.raises(NoValidHost):
        pair.order(destination=pair.there.host)
    check = check_migration(actor=pair.operator, instance_id=pair.instance.id)
    assert [obstacle.code for obstacle in check.obstacles] == ["no_valid_host"]


def test_an_older_hypervisor_is_no_destination(pair: Pair) -> None:
    Host.objects.filter(id=pair.here.host.id).update(
        facts={"shared_storage_id": "fake-storage", "qemu_version": "8.2.1"}
    )
    Host.objects.filter(id=pair.there.host.id).update(
        facts={"shared_storage_id": "fake-storage", "qemu_version": "7.2.0"}
    )
    with pytest.raises(NoValidHost):
        pair.order()
    with pytest.raises(NotMovable) as caught:
        pair.order(destination=pair.there.host)
    assert [obstacle["code"] for obstacle in caught.value.data["obstacles"]] == ["older_hypervisor"]


def test_a_check_names_the_destination_and_takes_nothing(pair: Pair) -> None:
    check = check_migration(actor=pair.operator, instance_id=pair.instance.id)
    assert check.obstacles == []
    assert check.destination == pair.there.host
    assert Allocation.objects.count() == 1


def test_tenants_do_not_migrate(pair: Pair) -> None:
    for call in (migrate_instance, check_migration):
        with pytest.raises(PermissionDenied):
            call(actor=pair.cloud.actor, instance_id=pair.instance.id)


def test_one_at_a_time_and_terms_that_agree(pair: Pair) -> None:
    pair.order()
    with pytest.raises(OperationInProgress):
        pair.order()
    with pytest.raises(InvalidInput):
        pair.order(terms=Terms(downtime_ms=500, downtime_limit_ms=100))


def test_a_third_host_is_preferred_by_the_pools_policy(pair: Pair) -> None:
    wide = make_host(pair.cloud.pool, vcpus=64, memory_mib=65_536)
    Host.objects.filter(id=wide.id).update(facts={"shared_storage_id": "fake-storage"})
    assert pair.order()[0].destination_id == wide.id


def test_the_listing_of_a_guest_that_is_still_coming_changes_nothing(pair: Pair) -> None:
    pair.here.driver.host.job_questions = 2
    _, operation = pair.order()
    for _ in range(30):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
        pair.cloud.beat()
        assert check_all() == []
        assert Domain.objects.filter(instance=pair.instance).count() == 1
        if Operation.objects.get(id=operation.id).state == "succeeded":
            break
    pair.assert_moved()


def test_a_job_that_is_called_off_keeps_the_figures_from_while_it_ran(pair: Pair) -> None:
    """The hypervisor counts nothing any more, in its last answers before the end too."""
    pair.here.driver.host.job_questions = 5
    migration, operation = pair.order()
    for _ in range(5):
        make_due(operation.id)
        take_turn(operation.id)
        for node in pair.cloud.nodes:
            node.run_calls()
    migration.refresh_from_db()
    copied = migration.status["done_bytes"]
    assert copied > 0
    nothing = MigrationStatus().to_json()
    call = HostCall.objects.get(operation=operation, state="answered", settled=False)
    HostCall.objects.filter(id=call.id).update(answer={**call.answer, "result": nothing})
    cancel_operation(actor=pair.operator, operation_id=operation.id)
    assert pair.run(operation).state == "cancelled"
    migration.refresh_from_db()
    assert (migration.status["done_bytes"], migration.status["ended"]) == (copied, "stayed")
    assert migration.status["downtime_ms"] == 0
