"""Two draw on the last unit; limits are opened while a guest is made. Each with a control that shows the race."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import QuerySet

from compute.models import Grant, GrantLimit, SetAside
from compute.placement import claims, limits
from compute.placement.claims import Seat
from compute.placement.grant_end import end_grant
from compute.placement.promises import lock_hosts
from compute.placement.reservations import lock_chain
from compute.reconcilers import promises
from compute.scheduler.model import Resources
from compute.services import grants
from tenants.models import Tenant
from tests.grants.conftest import Field


def _start(act: Callable[[], object], results: list[object]) -> threading.Thread:
    def run() -> None:
        try:
            results.append(act())
        except Exception as error:
            results.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def _draw_at_once(field: Field, ours: Tenant, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Two claims on one promised unit, each for an empty slot of its own host; both have read what is drawn, as far as
    the locks let them, before either writes."""
    grant = field.grant(ours, 1)
    hosts = list(SetAside.objects.values_list("host_id", flat=True))
    assert len(hosts) == 2, "one for the unit, one for the loss of a host"
    read = threading.Barrier(2)
    honest = claims.draw

    def slow(**arguments: Any) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            read.wait(timeout=0.5)
        honest(**arguments)

    monkeypatch.setattr(claims, "draw", slow)
    size = Resources(field.unit.vcpus, field.unit.memory_mib, field.unit.disk_gib)

    def one(host_id: uuid.UUID) -> None:
        with transaction.atomic():
            claims.claim(wanted={uuid.uuid4(): Seat(host_id, size, grant.id)})

    results: list[object] = []
    for thread in [_start(lambda host_id=host_id: one(host_id), results) for host_id in hosts]:  # type: ignore[misc]
        thread.join(60)
    return results


def test_one_promised_unit_is_drawn_once(unchecked_field: Field, ours: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    results = _draw_at_once(unchecked_field, ours, monkeypatch)
    assert sorted(type(result).__name__ for result in results) == ["GrantUsedUp", "NoneType"]
    assert sum(row.filled for row in SetAside.objects.all()) == Grant.unscoped.get(tenant=ours).used_units == 1


def test_control_without_locks_it_is_drawn_twice(
    unchecked_field: Field, ours: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QuerySet, "select_for_update", lambda self, **options: self)
    assert _draw_at_once(unchecked_field, ours, monkeypatch) == [None, None]
    assert sum(row.filled for row in SetAside.objects.all()) == 2


def _open_limits_during_a_create(field: Field, ours: Tenant, monkeypatch: pytest.MonkeyPatch) -> GrantLimit:
    """A create has looked for limits, found none, and has not committed yet when a grant with limits is made."""
    looked, go_on = threading.Event(), threading.Event()
    honest = limits.charge_last

    def slow(**arguments: Any) -> Callable[[], None]:
        judge = honest(**arguments)

        def judge_late() -> None:
            judge()
            looked.set()
            go_on.wait(20)

        return judge_late

    monkeypatch.setattr(limits, "charge_last", slow)
    results: list[object] = []
    creating = _start(lambda: field.create(ours), results)
    assert looked.wait(20)
    # Its hosts stay locked by the create until it commits, so the grant is made without them: limits alone.
    monkeypatch.setattr(grants, "lock_hosts", lambda pool_id: [])
    monkeypatch.setattr(grants, "arrange", lambda pool, hosts: ())
    granting = _start(lambda: field.grant(ours, 0, limits={"vcpus": 8}), results)
    granting.join(1.0)
    go_on.set()
    creating.join(60)
    granting.join(60)
    assert not [result for result in results if isinstance(result, Exception)], results
    return GrantLimit.objects.get(resource="vcpus")


def test_a_guest_that_is_being_made_is_in_the_sum_of_a_new_limit(
    field: Field, ours: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _open_limits_during_a_create(field, ours, monkeypatch).used == field.unit.vcpus


def test_control_without_the_quotas_lock_the_guest_is_missed(
    unchecked_field: Field, ours: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "lock_quota", lambda tenant_id: None)
    assert _open_limits_during_a_create(unchecked_field, ours, monkeypatch).used == 0


def _waiting() -> bool:
    with connection.cursor() as cursor:
        # Not pg_stat_activity: within one transaction it shows what it showed first.
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        found: bool = cursor.fetchone()[0]
        return found


def test_two_reconcilers_that_find_the_same_orphaned_grant_end_it_once(field: Field, ours: Tenant) -> None:
    grant = field.grant(ours, 1)
    Tenant.objects.filter(id=ours.id).update(state="deleted")
    results: list[object] = []
    with transaction.atomic():
        hosts = lock_hosts(pool_id=field.pool.id)
        other = _start(promises.run, results)
        deadline = time.monotonic() + 20
        while not _waiting():
            assert time.monotonic() < deadline, "the other run did not come as far as the hosts' locks"
            time.sleep(0.02)
        chain = lock_chain(grant.id)
        end_grant(grant=chain[0], hosts=hosts, chain=chain)
    other.join(60)
    assert results == [0], "it found nothing left to do"
    assert not Grant.unscoped.filter(id=grant.id).exists()
