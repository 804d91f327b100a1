"""Two creates in a group that is kept apart: the group's row decides. The control takes its lock away."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from django.db import connection

from compute.errors import NoValidHost
from compute.models import Instance
from compute.placement import groups
from compute.placement import place as placing
from compute.services.groups import create_group
from compute.services.instances_create import create_instances
from tenants.models import Tenant
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import SYSTEM, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)
CREATORS = 4


def _create_at_once(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """Have all of them read the hosts before anybody writes, as far as the lock lets them."""
    read = threading.Barrier(CREATORS)
    honest = groups.Members.shown

    def slow_look(*arguments: Any) -> Any:
        hosts = honest(*arguments)
        with contextlib.suppress(threading.BrokenBarrierError):
            read.wait(timeout=0.3)
        return hosts

    monkeypatch.setattr(groups.Members, "shown", slow_look)
    results: list[Exception | None] = []

    def one(number: int) -> None:
        try:
            create_instances(
                actor=SYSTEM, tenant=tenant, name=f"guest{number}", flavor="small", image="tiny", group="web"
            )
            results.append(None)
        except Exception as error:
            results.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(CREATORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


@pytest.fixture
def tenant() -> Tenant:
    pool = make_pool()
    for _ in range(2):
        make_host(pool, vcpus=64)
    make_flavor("small")
    make_image("tiny")
    tenant = make_tenant("acme")
    create_group(actor=SYSTEM, tenant=tenant, name="web", rule="anti_affinity")
    return tenant


def _on_hosts() -> list[int]:
    rows = Instance.unscoped.filter(state="building").values_list("host_id", flat=True)
    return sorted(list(rows).count(host) for host in set(rows))


def test_each_host_gets_one_member_and_the_others_are_refused(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    results = _create_at_once(tenant, monkeypatch)
    assert results.count(None) == 2
    assert [type(result) for result in results if result is not None] == [NoValidHost, NoValidHost]
    assert _on_hosts() == [1, 1]


def test_control_without_the_lock_members_meet_on_a_host(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "lock_group", lambda request: None)
    results = _create_at_once(tenant, monkeypatch)
    assert results.count(None) > 2
    assert max(_on_hosts()) > 1
