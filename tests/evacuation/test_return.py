"""A lost host that comes back with its old guests: they go before anything else, and there is never a second copy for long."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from compute import outbox
from compute.errors import InvalidState
from compute.models import Host, HostCall, Instance
from compute.node.drivers.faults import Fault
from compute.reconcilers import hosts, instances
from compute.selectors.invariants import check_all
from compute.services.fences import return_host
from compute.services.hosts import disable_host, remove_host
from tests.evacuation.conftest import LossyPool


@pytest.fixture
def lost(cloud: LossyPool) -> LossyPool:
    """The host is fenced, one of its two guests was brought back; the other one could not go."""
    cloud.create("web")
    stays = cloud.create("stays")
    Instance.unscoped.filter(id=stays.id).update(state="deleting")
    cloud.fall_silent()
    cloud.fence()
    cloud.evacuate()
    Instance.unscoped.filter(id=stays.id).update(state="active")
    assert cloud.homes()["web"] != "lost"
    assert cloud.homes()["stays"] == "lost"
    return cloud


def give_back(cloud: LossyPool) -> None:
    return_host(actor=cloud.operator, host_id=cloud.lost.host.id)


def test_a_host_that_is_not_heard_is_not_taken_back(lost: LossyPool) -> None:
    with pytest.raises(InvalidState, match="Switch it on first"):
        give_back(lost)


def test_stale_guests_are_destroyed_as_soon_as_it_is_heard_and_their_disks_stay(lost: LossyPool) -> None:
    assert len(lost.running_on()["web"]) == 2, "the fence was a lie: the old copy still runs"
    disks = lost.lost.driver.list_disks()
    lost.lost.beat()
    assert lost.lost.run_calls() == 1
    assert [call.method for call in lost.lost.calls[-1:]] == ["instance.withdraw"]
    assert lost.running_on()["web"] == [lost.homes()["web"]]
    assert lost.lost.driver.list_disks() == disks
    assert lost.state() == "fenced", "its debts are paid; it serves when an operator says so"


@pytest.mark.django_db(transaction=True)
def test_it_is_up_when_all_is_paid_and_its_own_guests_run_on(lost: LossyPool) -> None:
    lost.lost.beat()
    give_back(lost)
    assert lost.state() == "cleaning"
    hosts.run()
    lost.lost.beat()
    assert lost.state() == "cleaning", "it still owes"
    lost.lost.run_calls()
    lost.lost.beat()
    hosts.run()
    assert lost.state() == "up"
    assert lost.running_on()["stays"] == ["lost"]
    for node in lost.nodes:
        node.beat()
        node.beat()
    instances.run()
    assert check_all() == []


def test_a_debt_that_cannot_be_paid_keeps_it_out_of_service(lost: LossyPool) -> None:
    lost.lost.driver.host.inject(Fault("withdraw", "retry", times=2))
    lost.lost.beat()
    give_back(lost)
    for owed in (True, True, False):
        HostCall.objects.filter(purpose="debt").update(not_before=None)
        lost.lost.run_calls()
        lost.lost.beat()
        hosts.run()
        assert lost.state() == ("cleaning" if owed else "up")


def test_an_old_order_is_void_on_the_host_that_returns(lost: LossyPool) -> None:
    web = Instance.unscoped.get(name="web")
    tokens = HostCall.objects.filter(target_id=web.id).order_by("created_at").values_list("token", flat=True)
    assert list(tokens) == sorted(set(tokens)), "the debt is above all orders before it, the new start above the debt"
    assert HostCall.objects.filter(target_id=web.id, purpose="debt").count() == 1
    lost.lost.beat()
    lost.lost.run_calls()
    assert not HostCall.objects.filter(host=lost.lost.host, state__in=["waiting", "taken"]).exists()


def test_one_that_falls_silent_while_it_is_cleaned_is_down_again(lost: LossyPool) -> None:
    lost.lost.beat()
    give_back(lost)
    Host.objects.filter(name="lost").update(last_seen_at=timezone.now() - timedelta(minutes=5))
    hosts.run()
    assert lost.state() == "down"


def test_a_host_that_never_returns_can_be_let_go(lost: LossyPool) -> None:
    Instance.unscoped.filter(name="stays").update(host=Host.objects.get(name="second"))
    disable_host(actor=lost.operator, host_id=lost.lost.host.id)
    remove_host(actor=lost.operator, host_id=lost.lost.host.id)
    assert not HostCall.objects.filter(purpose="debt", state__in=["waiting", "taken"]).exists()


def test_one_that_was_only_silent_pays_what_it_owes_before_it_serves(cloud: LossyPool) -> None:
    web = cloud.create("web")
    cloud.fall_silent()
    outbox.write_call(
        host_id=cloud.lost.host.id,
        method="instance.withdraw",
        target_type="instance",
        target_id=web.id,
        arguments={"paused_too": True, "running_too": True},
        deadline_seconds=60.0,
        purpose="debt",
    )
    cloud.lost.beat()
    assert cloud.state() == "cleaning"
    cloud.lost.run_calls()
    hosts.run()
    assert cloud.state() == "up"
