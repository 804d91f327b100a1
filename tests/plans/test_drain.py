"""A drain from the plan to the empty host: every fate is shown beforehand, and nobody is stopped without a word."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from compute.errors import InvalidState, PlanOutdated, PlanRefused
from compute.models import Allocation, Host, Instance, Migration, Operation, Plan, Pool
from compute.node.drivers.faults import Fault
from compute.placement.kept import KEPT
from compute.reconcilers import plans
from compute.scheduler.make_room import Move, cheapest_moves
from compute.services import drain_draft, plan_turns
from compute.services.drain_draft import DrainOptions, draft_drain
from compute.services.hosts import disable_host, enable_host
from compute.services.housekeeping import expire
from compute.services.instances_delete import delete_instance
from compute.services.instances_power import stop_instance
from compute.services.loss_forecast import asked_for
from compute.services.plans import abort_plan, apply_plan, pause_plan, resume_plan
from tenants.errors import NotFound, PermissionDenied
from tests.factories.compute import make_host
from tests.factories.nodes import run_to_end
from tests.factories.tenants import make_actor
from tests.plans.conftest import DrainedPool


def mixed(cloud: DrainedPool) -> None:
    cloud.create("vm")
    cloud.create("big", flavor="large")
    cloud.create("off", running=False)
    cloud.create("box", image="tiny-container")
    cloud.create("soft-box", image="tiny-container", disruption="restart")
    cloud.create("asks", disruption="consent")


def test_the_plan_says_the_fate_of_each_guest_and_takes_nothing(cloud: DrainedPool) -> None:
    mixed(cloud)
    plan = cloud.propose()
    assert plan.state == "proposed"
    assert cloud.steps(plan) == {
        "vm": ("live", "waiting", ""),
        "big": ("live", "waiting", ""),
        "off": ("cold", "waiting", ""),
        "box": ("none", "blocked", "would_stop"),
        "soft-box": ("cold", "waiting", ""),
        "asks": ("none", "blocked", "needs_consent"),
    }
    assert plan.steps.first().instance.name == "big", "the largest has the least choice"
    assert cloud.host_state() == "enabled"
    assert Allocation.objects.filter(consumer_type="migration").count() == 0


def test_it_ends_drained_with_everybody_elsewhere_and_moved_once(cloud: DrainedPool) -> None:
    mixed(cloud)
    asks = cloud.propose().steps.get(instance__name="asks").instance_id
    plan = cloud.drain(stop=True, consent=(str(asks),))
    assert (plan.state, plan.reason) == ("finished", "")
    assert cloud.host_state() == "drained"
    assert "first" not in cloud.homes().values()
    assert {state for _, state, _ in cloud.steps(plan).values()} == {"done"}
    assert Migration.objects.count() == 6
    assert Operation.objects.filter(kind="instance_stop").count() == 0
    cloud.settle()


def test_without_consent_it_stops_and_says_what_blocks_it_and_goes_on_when_that_is_gone(cloud: DrainedPool) -> None:
    mixed(cloud)
    plan = cloud.drain()
    assert plan.state == "stopped"
    assert plan.reason.startswith("2 guests are left.")
    assert "box: It runs, and would be stopped" in plan.reason
    assert "asks: It may not be moved without its tenant being asked." in plan.reason
    assert {name for name, host in cloud.homes().items() if host == "first"} == {"box", "asks"}
    assert cloud.host_state() == "draining"
    cloud.settle()
    for name in ("box", "asks"):
        instance = plan.steps.get(instance__name=name).instance
        run_to_end(delete_instance(actor=cloud.owner, instance_id=instance.id)[1].id, cloud.first)
    assert cloud.run(resume_plan(actor=cloud.operator, plan_id=plan.id)).state == "finished"
    assert cloud.host_state() == "drained"


def test_a_guest_that_came_after_the_look_makes_the_plan_outdated(cloud: DrainedPool) -> None:
    cloud.create("one")
    plan = cloud.propose()
    cloud.create("two")
    with pytest.raises(PlanOutdated) as caught:
        apply_plan(actor=cloud.operator, plan_id=plan.id)
    assert caught.value.data["difference"] == [{"about": "two", "planned": "", "now": "live"}]
    assert cloud.host_state() == "enabled"


def test_a_destination_that_filled_up_does_not(cloud: DrainedPool) -> None:
    cloud.create("one", flavor="large")
    plan = cloud.propose()
    planned = plan.steps.get().destination
    assert planned is not None
    node = next(node for node in cloud.others if node.host.id == planned.id)
    cloud.create("full", on=node, flavor="large")
    cloud.create("fuller", on=node, flavor="large")
    cloud.run(apply_plan(actor=cloud.operator, plan_id=plan.id))
    assert cloud.homes()["one"] not in ("first", planned.name)
    assert cloud.host_state() == "drained"


def test_one_that_fills_up_while_it_is_carried_out_is_replaced(cloud: DrainedPool) -> None:
    cloud.create("one", flavor="large")
    plan = apply_plan(actor=cloud.operator, plan_id=cloud.propose().id)
    planned = plan.steps.get().destination
    assert planned is not None
    Host.objects.filter(id=planned.id).update(admin_state="disabled")
    cloud.run(plan)
    assert cloud.homes()["one"] not in ("first", planned.name)


def test_an_expired_plan_is_not_applied_and_is_put_away(cloud: DrainedPool) -> None:
    plan = cloud.propose()
    Plan.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(InvalidState, match="expired"):
        apply_plan(actor=cloud.operator, plan_id=plan.id)
    assert plans.run() == 1
    plan.refresh_from_db()
    assert plan.state == "expired"
    expire()
    assert Plan.objects.exists()
    Plan.objects.update(ended_at=timezone.now() - timedelta(days=8))
    expire()
    assert not Plan.objects.exists(), "a look at a plan leaves no row for ever"


def test_paused_nothing_new_begins_and_resumed_it_goes_on(cloud: DrainedPool) -> None:
    for number in range(5):
        cloud.create(f"vm{number}")
    plan = apply_plan(actor=cloud.operator, plan_id=cloud.propose().id)
    cloud.turn(plan)
    assert Migration.objects.count() == plan_turns.LEAVING, "no more at a time than a link is given"
    pause_plan(actor=cloud.operator, plan_id=plan.id)
    for _ in range(20):
        cloud.turn(plan)
    assert Migration.objects.filter(state="completed").count() == plan_turns.LEAVING == Migration.objects.count()
    resume_plan(actor=cloud.operator, plan_id=plan.id)
    assert cloud.run(plan).state == "finished"


def test_aborted_what_is_under_way_stays_and_the_host_serves_again(cloud: DrainedPool) -> None:
    cloud.first.driver.host.job_questions = 100
    for number in range(3):
        cloud.create(f"vm{number}")
    plan = apply_plan(actor=cloud.operator, plan_id=cloud.propose().id)
    for _ in range(4):
        cloud.turn(plan)
    abort_plan(actor=cloud.operator, plan_id=plan.id)
    cloud.run(plan)
    assert set(cloud.homes().values()) == {"first"}
    assert cloud.host_state() == "enabled"
    assert {state for _, state, _ in cloud.steps(plan).values()} <= {"failed", "skipped"}
    cloud.settle()


def test_a_worker_that_dies_at_any_step_moves_nobody_twice(cloud: DrainedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        cloud.create(f"vm{number}")
    plan = apply_plan(actor=cloud.operator, plan_id=cloud.propose().id)

    class Killed(BaseException):
        pass

    real = plan_turns._begin
    deaths = iter([True, False, True])

    def die(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        if next(deaths, False):
            raise Killed

    monkeypatch.setattr(plan_turns, "_begin", die)
    for _ in range(2):
        with pytest.raises(Killed):
            cloud.turn(plan)
        assert Operation.objects.filter(kind="instance_migrate").count() == Migration.objects.count()
    assert cloud.run(plan).state == "finished"
    assert Migration.objects.count() == 3
    cloud.settle()


def test_a_move_that_fails_is_tried_again_and_then_named(cloud: DrainedPool) -> None:
    cloud.create("vm")
    cloud.first.driver.inject(Fault("migrate.copy", "no_effect"))
    assert cloud.drain().state == "finished"
    assert Migration.objects.filter(state="failed").count() == 1
    enable_host(actor=cloud.operator, host_id=cloud.first.host.id)
    cloud.create("stubborn")
    for node in cloud.others:
        node.driver.inject(Fault("receive", "never", times=-1, code="refused"))
    plan = cloud.drain()
    assert plan.state == "stopped"
    assert cloud.steps(plan)["stubborn"] == ("live", "failed", "refused")
    assert "stubborn" in plan.reason


def test_a_guest_that_is_being_worked_on_is_waited_for(cloud: DrainedPool) -> None:
    vm = cloud.create("vm")
    plan = apply_plan(actor=cloud.operator, plan_id=cloud.propose().id)
    _, stop = stop_instance(actor=cloud.owner, instance_id=vm.id, force=True)
    plan_turns.take_turn(plan_id=plan.id)
    assert cloud.steps(plan)["vm"] == ("live", "waiting", "operation_in_progress")
    assert run_to_end(stop.id, cloud.first).state == "succeeded"
    assert cloud.run(plan).state == "finished", "it goes as what it is now"
    assert Migration.objects.get().way == "cold"


def test_what_was_to_go_live_is_not_stopped_for_it(cloud: DrainedPool) -> None:
    vm = cloud.create("vm")
    plan = apply_plan(actor=cloud.operator, plan_id=cloud.propose(stop=True).id)
    Host.objects.filter(name="first").update(
        facts={"shared_storage_id": "fake-storage", "cpu_model": "host-passthrough"}
    )
    cloud.run(plan)
    assert plan.state == "stopped"
    assert cloud.homes()["vm"] == "first"
    assert "host's own processor" in plan.reason
    assert not Migration.objects.filter(instance=vm).exists()


def test_a_contract_limits_the_pause(cloud: DrainedPool) -> None:
    vm = cloud.create("vm")
    vm.pause_limit_ms = 120
    vm.save(update_fields=["pause_limit_ms"])
    cloud.drain()
    job = Migration.objects.get().job
    assert (job["downtime_ms"], job["downtime_limit_ms"], job["at_the_end"]) == (120, 120, "give_up")


def test_other_guests_move_to_make_room(cloud: DrainedPool) -> None:
    """A large one fits nowhere, but where two small ones go from one to the other."""
    Host.objects.update(total_memory_mib=5000, ceiling_memory_mib=5000)
    second, third = cloud.others
    cloud.create("s-second", on=second, flavor="large")
    cloud.create("s-third", on=third)
    big = cloud.create("big", flavor="large")
    Host.objects.filter(name="third").update(total_memory_mib=4200, ceiling_memory_mib=4200)
    plan = cloud.propose()
    steps = list(plan.steps.select_related("instance"))
    assert [step.instance.name for step in steps] == ["s-third", "big"]
    assert steps[0].reason == "makes room for big"
    assert steps[1].after == [1]
    done = cloud.run(apply_plan(actor=cloud.operator, plan_id=plan.id))
    assert done.state == "finished"
    assert cloud.homes() == {"s-second": "second", "s-third": "second", "big": "third"}
    assert big.id == steps[1].instance_id


def test_who_was_to_make_room_and_is_deleted_meanwhile_is_not_counted_on(
    cloud: DrainedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft takes no locks; found by the random life of the books."""
    Host.objects.update(total_memory_mib=5000, ceiling_memory_mib=5000)
    second, third = cloud.others
    cloud.create("s-second", on=second, flavor="large")
    small = cloud.create("s-third", on=third)
    cloud.create("big", flavor="large")
    Host.objects.filter(name="third").update(total_memory_mib=4200, ceiling_memory_mib=4200)

    def meanwhile(*given: Any, **named: Any) -> list[tuple[Move, ...]]:
        ways = list(cheapest_moves(*given, **named))
        assert [move.guest.id for (move,) in ways] == [str(small.id)]
        Instance.unscoped.filter(id=small.id).update(state="deleted", host=None, deleted_at=timezone.now())
        return ways

    monkeypatch.setattr(drain_draft, "cheapest_moves", meanwhile)
    steps = list(cloud.propose().steps.select_related("instance"))
    assert [(step.instance.name, step.way, step.code) for step in steps] == [("big", "none", "no_valid_host")]


@pytest.mark.parametrize("onto", ["first", "fresh"])
def test_who_comes_while_a_draft_is_drawn_up_is_not_in_it(
    cloud: DrainedPool, monkeypatch: pytest.MonkeyPatch, onto: str
) -> None:
    """A guest comes to the host after everybody was read; or to a host that came after the hosts were looked at."""
    cloud.create("there")
    other = cloud.create("other", on=cloud.others[0])
    Pool.objects.update(host_losses=1)

    def after(reading: Callable[..., Any]) -> Callable[..., Any]:
        def read(*given: Any) -> Any:
            found = reading(*given)
            found = found if onto == "fresh" else list(found)
            host = cloud.first.host if onto == "first" else make_host(cloud.pool, name="fresh")
            Instance.unscoped.filter(id=other.id).update(host=host)
            return found

        return read

    if onto == "first":
        monkeypatch.setattr(drain_draft, "asked_for", after(asked_for))
    else:
        monkeypatch.setattr(drain_draft, "KEPT", SimpleNamespace(look=after(KEPT.look)))
    plan = cloud.propose()
    assert [step.instance.name for step in plan.steps.select_related("instance")] == ["there"]
    assert plan.survival is not None


def test_n_plus_k_is_kept_or_the_drain_is_refused_with_the_reason(cloud: DrainedPool) -> None:
    for node in cloud.nodes:
        cloud.create(f"l-{node.host.name}", on=node, flavor="large")
    Pool.objects.update(host_losses=1)
    plan = cloud.propose()
    assert plan.survival == {"losses": 1, "before": 0, "after": [2]}
    assert [refusal["code"] for refusal in plan.refusals] == ["losses"]
    with pytest.raises(PlanRefused, match="2 losses that would leave guests without a place"):
        apply_plan(actor=cloud.operator, plan_id=plan.id)
    assert cloud.host_state() == "enabled"
    assert cloud.drain(accept_losses=True).state == "finished"


def test_an_operator_who_enables_the_host_ends_it(cloud: DrainedPool) -> None:
    cloud.first.driver.host.job_questions = 3
    for number in range(4):
        cloud.create(f"vm{number}")
    plan = apply_plan(actor=cloud.operator, plan_id=cloud.propose().id)
    cloud.turn(plan)
    enable_host(actor=cloud.operator, host_id=cloud.first.host.id)
    assert cloud.run(plan).state == "aborted"
    assert sorted(cloud.homes().values()).count("first") == 2, "those under way went on"
    cloud.settle()


def test_a_host_is_drained_by_one_plan_at_a_time(cloud: DrainedPool) -> None:
    cloud.create("vm")
    one, two = cloud.propose(), cloud.propose()
    apply_plan(actor=cloud.operator, plan_id=one.id)
    with pytest.raises(InvalidState, match="Another plan"):
        apply_plan(actor=cloud.operator, plan_id=two.id)
    assert apply_plan(actor=cloud.operator, plan_id=one.id).state == "running", "asked twice it is begun once"


def test_an_empty_or_disabled_host_is_drained_too(cloud: DrainedPool) -> None:
    disable_host(actor=cloud.operator, host_id=cloud.first.host.id)
    assert cloud.drain().state == "finished"
    assert cloud.host_state() == "drained"


def test_a_drained_host_is_not_drained_again(cloud: DrainedPool) -> None:
    cloud.drain()
    with pytest.raises(InvalidState, match="drained"):
        cloud.propose()


def test_tenants_see_and_do_nothing_of_it(cloud: DrainedPool) -> None:
    plan = cloud.propose()
    for call in (apply_plan, pause_plan, resume_plan, abort_plan):
        with pytest.raises(PermissionDenied):
            call(actor=cloud.owner, plan_id=plan.id)
    with pytest.raises(NotFound):
        apply_plan(actor=make_actor(is_operator=True), plan_id=cloud.tenant.id)


def test_a_vm_that_only_older_hypervisors_could_take_is_not_promised_to_go(cloud: DrainedPool) -> None:
    cloud.create("vm")
    for name, release in (("first", "8.2.1"), ("second", "7.2.0"), ("third", "7.2.0")):
        facts = {"shared_storage_id": "fake-storage", "qemu_version": release}
        Host.objects.filter(name=name).update(facts=facts)
    assert cloud.steps(cloud.propose())["vm"] == ("none", "blocked", "no_valid_host")
    Host.objects.filter(name="third").update(facts={**facts, "qemu_version": "9.0.0"})
    plan = cloud.propose()
    assert cloud.steps(plan)["vm"] == ("live", "waiting", "")
    assert plan.steps.get().destination.name == "third"


def test_the_queries_of_a_draft_do_not_grow_with_the_guests(cloud: DrainedPool) -> None:
    Pool.objects.update(host_losses=1)

    def queries() -> int:
        host = Host.objects.select_related("pool").get(id=cloud.first.host.id)
        with CaptureQueriesContext(connection) as captured:
            assert all(step.moves for step in draft_drain(host, DrainOptions()).steps)
        return len(captured)

    cloud.create("one")
    cloud.create("off", running=False)
    queries()
    few = queries()
    for number in range(6):
        cloud.create(f"more-{number}", running=number % 2 == 0)
    assert queries() == few
