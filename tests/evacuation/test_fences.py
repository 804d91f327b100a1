"""A host is fenced by a proof or by an operator's word, and by nothing else."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from compute.errors import InvalidState
from compute.models import Fence, Host, Pool
from compute.reconcilers import fences
from compute.services.fences import TRIES, begin_try, fence_host, record_failure, record_proof
from compute.services.hosts import disable_host, remove_host
from compute.tasks.fencing import fence_try
from tenants.errors import InvalidInput, PermissionDenied
from tenants.models import AuditEvent
from tests.evacuation.conftest import LossyPool


def use_command(cloud: LossyPool, text: str) -> Path:
    """Configure a hook that leaves a mark for each time it was run."""
    mark = cloud.folder / "runs"
    hook = cloud.folder / "hook"
    hook.write_text(f"#!/bin/sh\necho $1 >> {mark}\n{text}\n")
    hook.chmod(0o700)
    file = cloud.folder / "fencing.toml"
    file.write_text(f'[default]\ndriver = "command"\nargv = ["{hook}", "{{host}}"]\n')
    file.chmod(stat.S_IRUSR)
    return mark


def order(cloud: LossyPool, **more: str) -> Fence:
    return fence_host(actor=cloud.operator, host_id=cloud.lost.host.id, **more)


def over(fence: Fence) -> Fence:
    Fence.objects.filter(id=fence.id).update(lease_until=timezone.now() - timedelta(seconds=1))
    return fence


def test_silence_alone_never_fences(cloud: LossyPool) -> None:
    use_command(cloud, "echo off")
    cloud.fall_silent()
    for _ in range(5):
        fences.run()
    assert cloud.state() == "down"
    assert not Fence.objects.exists()


def test_a_host_that_is_heard_is_not_fenced(cloud: LossyPool) -> None:
    with pytest.raises(InvalidState, match="only a host that is down"):
        order(cloud, statement="it is dead")


def test_tenants_fence_nobody(cloud: LossyPool) -> None:
    cloud.fall_silent()
    with pytest.raises(PermissionDenied):
        fence_host(actor=cloud.owner, host_id=cloud.lost.host.id, statement="I say so")


def test_an_operators_word_fences_at_once_and_is_kept(cloud: LossyPool) -> None:
    cloud.fall_silent()
    fence = order(cloud, statement="I pulled both plugs", reason="smoke")
    assert (fence.state, fence.driver, fence.evidence) == ("proved", "operator", "I pulled both plugs")
    assert cloud.state() == "fenced"
    event = AuditEvent.unscoped.get(action="host.fence")
    assert event.actor_name == cloud.operator.username
    assert event.after == {"driver": "operator", "reason": "smoke", "statement": "I pulled both plugs"}


def test_a_blank_word_is_none(cloud: LossyPool) -> None:
    cloud.fall_silent()
    with pytest.raises(InvalidInput):
        order(cloud, statement="   ")
    assert cloud.state() == "down"


def test_without_a_driver_and_without_a_word_nothing_is_ordered(cloud: LossyPool) -> None:
    cloud.fall_silent()
    with pytest.raises(InvalidState, match="No driver is configured"):
        order(cloud)


def test_the_drivers_proof_fences(cloud: LossyPool) -> None:
    mark = use_command(cloud, "echo off: outlet 7")
    cloud.fall_silent()
    fence = order(cloud)
    assert cloud.state() == "down", "an order is no proof"
    fence_try(str(fence.id))
    fence.refresh_from_db()
    assert (fence.state, fence.evidence, fence.tries) == ("proved", "off: outlet 7", 1)
    assert cloud.state() == "fenced"
    assert mark.read_text() == "lost\n"
    fence_try(str(fence.id))
    assert mark.read_text() == "lost\n", "a late message does nothing"


@pytest.mark.parametrize("text", ["exit 1", "echo on", "exit 0"])
def test_what_is_no_proof_is_tried_again_and_given_up_and_fences_nobody(cloud: LossyPool, text: str) -> None:
    mark = use_command(cloud, text)
    cloud.fall_silent()
    fence = order(cloud)
    for _ in range(TRIES + 2):
        fence_try(str(over(fence).id))
    fence.refresh_from_db()
    assert (fence.state, fence.tries) == ("failed", TRIES)
    assert fence.error
    assert mark.read_text() == "lost\n" * TRIES
    assert cloud.state() == "down"


def test_two_workers_do_not_try_at_once(cloud: LossyPool) -> None:
    use_command(cloud, "echo off")
    cloud.fall_silent()
    fence = order(cloud)
    assert begin_try(fence_id=fence.id) is not None
    assert begin_try(fence_id=fence.id) is None
    over(fence)
    assert fences.run() == 1, "its worker died: rung for again"
    assert begin_try(fence_id=fence.id) is not None


def test_an_order_is_given_once(cloud: LossyPool) -> None:
    use_command(cloud, "echo off")
    cloud.fall_silent()
    assert order(cloud).id == order(cloud).id


def test_an_operators_word_overtakes_the_driver(cloud: LossyPool) -> None:
    use_command(cloud, "exit 1")
    cloud.fall_silent()
    first = order(cloud)
    target = begin_try(fence_id=first.id)
    assert target is not None
    assert order(cloud, statement="it burnt down").state == "proved"
    record_failure(fence_id=first.id, error="no route")
    record_proof(fence_id=first.id, evidence="off")
    assert sorted(Fence.objects.values_list("state", flat=True)) == ["failed", "proved"]


def test_a_host_that_is_heard_again_before_the_try_is_not_switched_off(cloud: LossyPool) -> None:
    mark = use_command(cloud, "echo off")
    cloud.fall_silent()
    fence = order(cloud)
    cloud.lost.beat()
    fence_try(str(fence.id))
    fence.refresh_from_db()
    assert (fence.state, cloud.state()) == ("failed", "up")
    assert not mark.exists()


def test_a_host_that_is_heard_during_the_try_is_not_fenced(cloud: LossyPool) -> None:
    use_command(cloud, "echo off")
    cloud.fall_silent()
    fence = order(cloud)
    begin_try(fence_id=fence.id)
    cloud.lost.beat()
    record_proof(fence_id=fence.id, evidence="off")
    fence.refresh_from_db()
    assert (fence.state, cloud.state()) == ("failed", "up")


def test_a_pool_may_fence_unasked_but_not_half_of_itself(cloud: LossyPool) -> None:
    use_command(cloud, "echo off")
    cloud.create("web")
    cloud.fall_silent()
    cloud.pool.auto_fence = True
    cloud.pool.save()
    for state in ("suspect", "down"):
        Host.objects.filter(name="second").update(observed_state=state)
        assert fences.run() == 0, "two of three away at once: rather the network is"
    Host.objects.filter(name="second").update(observed_state="up")
    assert fences.run() >= 1
    fence = Fence.objects.get()
    assert (fence.host.name, fence.actor) == ("lost", "fencing")
    Host.objects.filter(name="second").update(observed_state="suspect")
    assert begin_try(fence_id=fence.id) is None, "by now it is the network"
    fence.refresh_from_db()
    assert fence.state == "failed"


def test_a_host_without_guests_is_not_fenced_unasked(cloud: LossyPool) -> None:
    use_command(cloud, "echo off")
    Pool.objects.update(auto_fence=True)
    cloud.fall_silent()
    assert fences.run() == 0
    assert order(cloud).state == "asked", "an operator may"


def test_nobodys_word_is_taken_for_a_host_that_is_heard(cloud: LossyPool) -> None:
    cloud.fall_silent()
    cloud.fence()
    cloud.lost.beat()
    with pytest.raises(InvalidState, match="heard a moment ago"):
        order(cloud, statement="I pulled both plugs")


def test_pauses_between_tries_grow(cloud: LossyPool) -> None:
    use_command(cloud, "exit 1")
    cloud.fall_silent()
    fence, pauses = order(cloud), []
    for _ in range(TRIES - 1):
        fence_try(str(over(fence).id))
        fence.refresh_from_db()
        assert fence.lease_until is not None
        pauses.append(round((fence.lease_until - timezone.now()).total_seconds() / 10))
    assert pauses == [1, 2, 4, 8]


def test_a_driver_that_nobody_knows_is_none(cloud: LossyPool) -> None:
    use_command(cloud, "echo off")
    file = cloud.folder / "fencing.toml"
    file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    file.write_text(file.read_text().replace('"command"', '"comand"'))
    cloud.fall_silent()
    with pytest.raises(InvalidState, match="No driver is configured"):
        order(cloud)


def test_orders_end_with_their_host(cloud: LossyPool) -> None:
    mark = use_command(cloud, "echo off")
    cloud.fall_silent()
    fence = order(cloud)
    disable_host(actor=cloud.operator, host_id=cloud.lost.host.id)
    remove_host(actor=cloud.operator, host_id=cloud.lost.host.id)
    fence_try(str(fence.id))
    fence.refresh_from_db()
    assert (fence.state, fence.error) == ("failed", "the host was removed")
    assert not mark.exists()


def test_what_was_given_up_is_not_repeated_unasked_in_the_same_outage(cloud: LossyPool) -> None:
    use_command(cloud, "exit 1")
    cloud.create("web")
    cloud.pool.auto_fence = True
    cloud.pool.save()
    cloud.fall_silent()
    fences.run()
    fence = Fence.objects.get()
    for _ in range(TRIES):
        fence_try(str(over(fence).id))
    assert fences.run() == 0
    cloud.lost.beat()
    cloud.fall_silent()
    # The silence above was dated back: the order has to be older than it.
    Fence.objects.update(asked_at=timezone.now() - timedelta(hours=1))
    assert fences.run() == 1


def test_an_open_fence_hands_out_nothing_but_debts(cloud: LossyPool) -> None:
    cloud.create("web")
    cloud.fall_silent()
    cloud.fence()
    assert Host.objects.get(id=cloud.lost.host.id).observed_state == "fenced"
    cloud.lost.beat()
    assert cloud.state() == "fenced", "only an operator leads out"
