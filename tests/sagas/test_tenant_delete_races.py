"""A create that was let in just before its tenant closed: refused, or in and deleted. Never alive in a tenant that is gone."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from django.db import connection
from django.db.models import QuerySet

from compute.models import Instance, Operation
from compute.sagas.engine import take_turn
from compute.selectors.invariants import check_all
from compute.services import instances_create
from tenants.errors import DomainError, QuotaExceeded
from tenants.models import Tenant
from tenants.services import quotas
from tests.factories.tenants import make_tenant
from tests.sagas.conftest import Cloud
from tests.sagas.test_tenant_delete import delete, guest_in, states, work


class _Pause:
    """Stands in front of one function of the create: lets nothing through until told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        honest = getattr(module, name)

        def paused(*values: Any, **arguments: Any) -> Any:
            self.reached.set()
            assert self.go_on.wait(20)
            return honest(*values, **arguments)

        monkeypatch.setattr(module, name, paused)


def _start(act: Any, *values: Any) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(act(*values))
        except DomainError as error:
            results.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def _wait_for_a_lock() -> None:
    """Until a session of this database waits for another's row."""
    deadline = time.monotonic() + 20
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if cursor.fetchone()[0]:
                return
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.02)


def _create_is_charged_after_the_end(
    cloud: Cloud, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> tuple[Operation, list[Any]]:
    pause = _Pause(monkeypatch, quotas, "charge_last")
    thread, results = _start(guest_in, tenant)
    assert pause.reached.wait(20)
    operation = delete(tenant)
    take_turn(operation.id)
    assert states()["team"] == "deleted"
    pause.go_on.set()
    thread.join(20)
    work(cloud)
    operation.refresh_from_db()
    return operation, results


def test_a_create_that_is_not_charged_yet_is_refused(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    team = make_tenant("team", parent=cloud.tenant)
    operation, results = _create_is_charged_after_the_end(cloud, team, monkeypatch)
    assert operation.state == "succeeded"
    assert [type(result) for result in results] == [QuotaExceeded]
    assert not Instance.unscoped.exists()
    assert check_all() == []


def test_control_with_quotas_left_open_it_comes_to_life_in_a_deleted_tenant(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = QuerySet.update

    def forgetful(rows: Any, **values: Any) -> int:
        return 0 if values == {"limit": 0, "ceiling": 0} else honest(rows, **values)

    monkeypatch.setattr(QuerySet, "update", forgetful)
    team = make_tenant("team", parent=cloud.tenant)
    _create_is_charged_after_the_end(cloud, team, monkeypatch)
    assert states()["team"] == "deleted"
    assert Instance.unscoped.exclude(state="deleted").count() == 1


def _create_commits_during_the_last_step(cloud: Cloud, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The deletion has looked, and found no guest, when the create that holds the sums commits."""
    pause = _Pause(monkeypatch, instances_create, "Created")
    creating, results = _start(guest_in, tenant)
    assert pause.reached.wait(20)
    operation = delete(tenant)
    deleting, _ = _start(take_turn, operation.id)
    try:
        _wait_for_a_lock()
    finally:
        pause.go_on.set()
        creating.join(20)
        deleting.join(20)
    return results


def test_a_create_that_is_charged_already_is_deleted_with_the_rest(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = make_tenant("team", parent=cloud.tenant)
    (created,) = _create_commits_during_the_last_step(cloud, team, monkeypatch)
    assert isinstance(created, Instance)
    assert states()["team"] == "deleting", "it looks again"
    work(cloud)
    assert states()["team"] == "deleted"
    assert Instance.unscoped.get().state == "deleted"
    cloud.node.beat()
    assert check_all() == []
