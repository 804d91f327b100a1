"""A lease that is renewed in the moment in which it ends: the instance's row decides. The control takes its lock away."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now

from compute.errors import InvalidState
from compute.models import Instance, Operation
from compute.services import leases
from compute.services.instances_create import create_instances
from compute.services.lease_terms import LeaseAsk
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import SYSTEM, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ended() -> Instance:
    """One whose lease has just ended, and on which nothing is at work."""
    make_host(make_pool())
    make_flavor("small")
    make_image("tiny")
    lease = LeaseAsk(seconds=60, action="delete")
    (made,) = create_instances(
        actor=SYSTEM, tenant=make_tenant(), name="web", flavor="small", image="tiny", lease=lease
    ).instances
    Operation.objects.update(state="succeeded", finished_at=Now())
    Instance.unscoped.update(state="active", lease_ends_at=Now() - timedelta(seconds=1))
    return made


def _meet(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, bool]:
    """End the lease while a renewal is between its look and its commit; return whether it was ended, and renewed."""
    looked, honest = threading.Event(), leases.take_lease
    results: dict[str, Any] = {}

    def slow(**arguments: Any) -> Any:
        looked.set()
        ender.join(timeout=0.5)
        return honest(**arguments)

    def end() -> None:
        looked.wait(10)
        results["ended"] = leases.end_lease(instance_id=instance.id)
        connection.close()

    ender = threading.Thread(target=end)
    monkeypatch.setattr(leases, "take_lease", slow)
    ender.start()
    try:
        leases.change_lease(actor=SYSTEM, instance_id=instance.id, lease=LeaseAsk(seconds=3600))
        results["renewed"] = True
    except InvalidState:
        results["renewed"] = False
    ender.join(timeout=30)
    return results["ended"], results["renewed"]


def test_a_lease_that_is_renewed_at_its_end_ends_nothing(ended: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _meet(ended, monkeypatch) == (False, True)
    assert not Operation.objects.filter(kind="instance_delete").exists()


def test_control_without_the_lock_what_was_renewed_is_deleted(ended: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_locked", lambda instance_id: Instance.unscoped.filter(id=instance_id).first())
    assert _meet(ended, monkeypatch) == (True, True)
    assert Operation.objects.filter(kind="instance_delete").exists()


def test_who_comes_after_the_end_is_told_that_it_is_being_deleted(ended: Instance) -> None:
    assert leases.end_lease(instance_id=ended.id)
    with pytest.raises(InvalidState, match="being deleted"):
        leases.change_lease(actor=SYSTEM, instance_id=ended.id, lease=LeaseAsk(seconds=3600))


def test_many_that_end_it_at_once_order_one_deletion(ended: Instance) -> None:
    results: list[bool] = []

    def end() -> None:
        results.append(leases.end_lease(instance_id=ended.id))
        connection.close()

    threads = [threading.Thread(target=end) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(results) == [False] * 5 + [True]
    assert Operation.objects.filter(kind="instance_delete").count() == 1
